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
import { compiler, cpuRecipe } from "./cpu_toolchain.ts";
import { cudaRecipe } from "./cuda_toolchain.ts";
import {
  explainErrors,
  type LossSource,
  userLossHeader,
} from "./loss_source.ts";
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

/** What to build: the whole library, or a loss for it. */
interface Plan {
  /** For the file's name and for messages. */
  readonly name: string;
  readonly recipe: Recipe;
  readonly sources: readonly string[];
  /** Texts of sources and headers. */
  readonly texts: ReadonlyMap<string, string>;
  /** A library to link with. */
  readonly library?: string;
}

/** Writes files, with their folders, below a directory. */
async function writeFiles(
  directory: string,
  texts: ReadonlyMap<string, string>,
): Promise<void> {
  for (const [file, text] of texts) {
    const target = `${directory}/${file}`;
    await Deno.mkdir(target.slice(0, target.lastIndexOf("/")), {
      recursive: true,
    });
    await Deno.writeTextFile(target, text);
  }
}

/** Runs compiler or linker; throws what it says if it fails. */
async function run(
  { recipe, name }: Plan,
  command: readonly string[],
  directory: string,
): Promise<void> {
  const [program, ...args] = command;
  const done = await runProgram(program!, args, directory);
  if (done?.success) return;
  const output = (done?.stderr ?? `${program} is not there`).trim();
  const advice = recipe.advice(output);
  throw new BuildError(
    `the ${name} library does not compile${advice && `: ${advice}`}\n` +
      output.split("\n").slice(0, OUTPUT_LINES).join("\n"),
  );
}

/** Compiles in a directory of its own, then moves the result into place. */
async function compile(plan: Plan, cache: string, path: string): Promise<void> {
  const { recipe, sources, texts, library } = plan;
  const directory = await Deno.makeTempDir({ dir: cache, prefix: "build-" });
  try {
    await writeFiles(directory, texts);
    // As many at a time as there are processors; none after a failure.
    const queue = sources.map((source, i) => ({ source, object: `${i}.o` }));
    const objects = queue.map(({ object }) => object);
    let failed = false;
    const worker = async (): Promise<void> => {
      for (let next = queue.shift(); next && !failed; next = queue.shift()) {
        try {
          const command = recipe.compile(next.source, next.object);
          await run(plan, command, directory);
        } catch (error) {
          failed = true;
          throw error;
        }
      }
    };
    const workers = Array.from(
      { length: navigator.hardwareConcurrency },
      worker,
    );
    // All of them: nothing may run any more when the directory is removed.
    for (const result of await Promise.allSettled(workers)) {
      if (result.status === "rejected") throw result.reason;
    }
    await run(plan, recipe.link(objects, "library.so", library), directory);
    // Within one file system a rename is atomic: nobody sees half a library.
    await Deno.rename(`${directory}/library.so`, path);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** Path of what the plan builds, which is compiled if it is not in the cache. */
async function buildOnce(plan: Plan): Promise<string> {
  const key = await sha256(
    JSON.stringify([
      plan.recipe.identity,
      [...plan.texts],
      plan.sources,
      plan.library,
    ]),
  );
  const cache = cacheDirectory();
  const path = `${cache}/libatomloss_${plan.name}-${key.slice(0, 16)}.so`;
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
      `atomloss: compiling the ${plan.name} library, once for this machine`,
    );
    await compile(plan, cache, path);
  }
  return path;
}

/** Texts of all that a recipe compiles. */
async function readKernels(recipe: Recipe): Promise<Map<string, string>> {
  const texts = new Map<string, string>();
  for (const file of [...recipe.sources, ...recipe.headers]) {
    texts.set(file, await readKernel(file));
  }
  return texts;
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
  const texts = await readKernels(recipe);
  return await buildOnce({
    name: backend,
    recipe,
    sources: recipe.sources,
    texts,
  });
}

/**
 * Path of a library with the last of the losses that users have defined, which
 * registers it in `library`.
 */
export async function buildUserLoss(
  backend: keyof typeof RECIPES,
  losses: readonly LossSource[],
  library: string,
): Promise<string> {
  const recipe = await RECIPES[backend]();
  const texts = await readKernels(recipe);
  texts.set(recipe.lossSource, await readKernel(recipe.lossSource));
  texts.set(
    "user_losses.h",
    userLossHeader(recipe.allLosses ? losses : losses.slice(-1)),
  );
  return await buildOnce({
    name: `${backend}_${losses.at(-1)!.name}`,
    recipe,
    sources: [recipe.lossSource],
    texts,
    library,
  });
}

/** What the host compiler says of a loss; nothing if it compiles. */
export async function checkUserLoss(
  loss: LossSource,
): Promise<string | undefined> {
  const directory = await Deno.makeTempDir({ prefix: "atomloss-" });
  try {
    const texts = new Map([["user_losses.h", userLossHeader([loss])]]);
    for (
      const file of [
        "atomloss.h",
        "defined_losses.h",
        "loss_ops.h",
        "check_losses.cpp",
      ]
    ) {
      texts.set(file, await readKernel(file));
    }
    await writeFiles(directory, texts);
    const program = compiler();
    const done = await runProgram(program, [
      "-std=c++17",
      "-fsyntax-only",
      "-I.",
      "check_losses.cpp",
    ], directory);
    if (done === undefined) {
      throw new BuildError(
        `a loss needs a C++ compiler, and '${program}' is not there: install it (Debian: apt-get install g++)`,
      );
    }
    return done.success ? undefined : explainErrors(done.stderr, loss);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
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
