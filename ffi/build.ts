/**
 * Finds the native library, or compiles it once and keeps it.
 *
 * JSR carries no binaries, so the library is built on the machine that runs it,
 * into the user's cache directory, under a name that is a hash of everything it
 * depends on: sources, compiler, flags, and the processor or GPUs that "native"
 * stands for. A home directory shared by unlike machines holds one for each.
 *
 * `deno run -A ffi/build.ts cpu` builds it ahead of time and prints its path.
 */
import { BuildError } from "../errors.ts";
import { cpuRecipe } from "./cpu_toolchain.ts";
import { cudaRecipe } from "./cuda_toolchain.ts";
import { runProgram } from "./process.ts";
import type { Recipe } from "./recipe.ts";

const RECIPES = { cpu: cpuRecipe, cuda: cudaRecipe };

const KERNELS = new URL("../kernels/", import.meta.url);

/** Most of a compiler's output that an error message repeats. */
const OUTPUT_LINES = 30;

/** Text of a file of kernels/, whether the package is on disk or on the web. */
async function readKernel(file: string): Promise<string> {
  const url = new URL(file, KERNELS);
  if (url.protocol === "file:") return await Deno.readTextFile(url);
  const response = await fetch(url);
  if (!response.ok) {
    throw new BuildError(`cannot read ${url}: HTTP status ${response.status}`);
  }
  return await response.text();
}

/** The user's cache directory for this package. */
function cacheDirectory(): string {
  const base = Deno.env.get("XDG_CACHE_HOME");
  if (base) return `${base}/atomloss`;
  const home = Deno.env.get("HOME");
  if (home) return `${home}/.cache/atomloss`;
  throw new BuildError(
    "there is no place to build the native library in: neither XDG_CACHE_HOME nor HOME is set",
  );
}

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest(
    "SHA-256",
    new TextEncoder().encode(text),
  );
  return new Uint8Array(digest).toHex();
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Compiles into a directory of its own, then moves the result into place. */
async function compile(
  recipe: Recipe,
  sources: ReadonlyMap<string, string>,
  cache: string,
  path: string,
): Promise<void> {
  const directory = await Deno.makeTempDir({ dir: cache, prefix: "build-" });
  try {
    for (const [file, text] of sources) {
      const target = `${directory}/${file}`;
      await Deno.mkdir(target.slice(0, target.lastIndexOf("/")), {
        recursive: true,
      });
      await Deno.writeTextFile(target, text);
    }
    const [program, ...args] = recipe.command("library.so");
    const done = await runProgram(program!, args, directory);
    if (!done?.success) {
      const output = (done?.stderr ?? `${program} is not there`).trim();
      const advice = recipe.advice(output);
      throw new BuildError(
        `the native library does not compile${advice && `: ${advice}`}\n` +
          output.split("\n").slice(0, OUTPUT_LINES).join("\n"),
      );
    }
    // Within one file system a rename is atomic: nobody sees half a library.
    await Deno.rename(`${directory}/library.so`, path);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/**
 * Path of a backend's native library, which is compiled if it is not there.
 * ATOMLOSS_LIBRARY_CPU and ATOMLOSS_LIBRARY_CUDA name a prebuilt one.
 */
export async function buildLibrary(
  backend: keyof typeof RECIPES,
): Promise<string> {
  const variable = `ATOMLOSS_LIBRARY_${backend.toUpperCase()}`;
  const prebuilt = Deno.env.get(variable);
  if (prebuilt) {
    if (await exists(prebuilt)) return prebuilt;
    throw new BuildError(`${variable} names ${prebuilt}, which is not there`);
  }

  const recipe = await RECIPES[backend]();
  const sources = new Map<string, string>();
  for (const file of recipe.files) sources.set(file, await readKernel(file));
  const key = await sha256(
    JSON.stringify([recipe.identity, [...sources]]),
  );
  const cache = cacheDirectory();
  const path = `${cache}/libatomloss_${backend}-${key.slice(0, 16)}.so`;
  if (await exists(path)) return path;

  await Deno.mkdir(cache, { recursive: true });
  // Replicas start together: one builds, the others wait and find the result.
  // The system releases the lock of a process that dies.
  using lock = await Deno.open(`${cache}/build.lock`, {
    create: true,
    write: true,
  });
  await lock.lock(true);
  if (!await exists(path)) {
    console.error(
      `atomloss: compiling the ${backend} library, once for this machine`,
    );
    await compile(recipe, sources, cache, path);
  }
  return path;
}

if (import.meta.main) {
  const [backend] = Deno.args;
  if (backend !== "cpu" && backend !== "cuda") {
    console.error("usage: deno run -A ffi/build.ts cpu|cuda");
    Deno.exit(2);
  }
  try {
    console.log(await buildLibrary(backend));
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    console.error(`${error.name}: ${error.message}`);
    Deno.exit(1);
  }
}
