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
import { BuildError, LossDefinitionError } from "../errors.ts";
import { compiler, cpuRecipe } from "./cpu_toolchain.ts";
import { cudaRecipe } from "./cuda_toolchain.ts";
import { errorsIn, type LossSource, userLossHeader } from "./loss_source.ts";
import { runProgram } from "./process.ts";
import type { Recipe } from "./recipe.ts";

const RECIPES = { cpu: cpuRecipe, cuda: cudaRecipe };

const recipes = new Map<keyof typeof RECIPES, Promise<Recipe>>();

/** The recipe of a backend: compiler and driver are asked once in a process. */
function recipeOf(backend: keyof typeof RECIPES): Promise<Recipe> {
  let recipe = recipes.get(backend);
  if (recipe === undefined) {
    recipe = RECIPES[backend]();
    recipes.set(backend, recipe);
    // What was missing may have been installed.
    recipe.catch(() => recipes.delete(backend));
  }
  return recipe;
}

const KERNELS = new URL("../kernels/", import.meta.url);

/** Most of a compiler's output that an error message repeats. */
const OUTPUT_LINES = 30;

/**
 * Text of a file of kernels/, whether the package is on disk or on the web:
 * imported, not fetched, so that Deno keeps it with the package's modules.
 * Nodes without a network can then use what another has imported, and no
 * permission to use the network is needed. The names must not be literals: JSR
 * does not take packages whose text imports it can see.
 */
async function readKernel(file: string): Promise<string> {
  const { href } = new URL(file, KERNELS);
  try {
    return (await import(href, { with: { type: "text" } })).default;
  } catch (cause) {
    const { message } = cause as Error;
    throw new BuildError(
      `cannot read ${href}, a source of the native library: ${message}`,
      { cause },
    );
  }
}

/** The user's cache directory for this package. */
function cachePath(): string {
  const base = Deno.env.get("XDG_CACHE_HOME");
  if (base) return `${base}/atomloss`;
  const home = Deno.env.get("HOME");
  if (home) return `${home}/.cache/atomloss`;
  throw new BuildError(
    "there is no place to build the native library in: neither XDG_CACHE_HOME nor HOME is set",
  );
}

/**
 * The same; makes it if need be.
 *
 * @throws {BuildError} if that is not possible; says what to do instead.
 */
export async function cacheDirectory(): Promise<string> {
  const path = cachePath();
  try {
    await Deno.mkdir(path, { recursive: true });
  } catch (cause) {
    // Without the permission Deno's own error says best what to do.
    if (cause instanceof Deno.errors.NotCapable) throw cause;
    throw new BuildError(
      `there is no place to build the native library in: ${
        (cause as Error).message
      }: name another folder in XDG_CACHE_HOME, or a prebuilt library in ATOMLOSS_LIBRARY_CPU or ATOMLOSS_LIBRARY_CUDA`,
      { cause },
    );
  }
  return path;
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
    if (error instanceof Deno.errors.NotADirectory) return false;
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
  /** The loss that is compiled, whose text may be what is wrong. */
  readonly loss?: LossSource;
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
  { recipe, name, loss }: Plan,
  command: readonly string[],
  directory: string,
): Promise<void> {
  const [program, ...args] = command;
  const done = await runProgram(program!, args, directory);
  if (done?.success) return;
  const output = (done?.stderr ?? `${program} is not there`).trim();
  const wrong = loss && errorsIn(loss, output);
  if (wrong) {
    throw new LossDefinitionError(
      `loss '${loss.name}' does not compile for the ${name} library:\n${wrong}`,
    );
  }
  const advice = recipe.advice(output);
  throw new BuildError(
    `the ${name} library does not compile${advice && `: ${advice}`}\n` +
      output.split("\n").slice(0, OUTPUT_LINES).join("\n"),
  );
}

/** Compiles in a directory of its own, then moves the result into place. */
async function compile(plan: Plan, cache: string, path: string): Promise<void> {
  const { recipe, sources, texts, library } = plan;
  const prefix = `build-${plan.name}-`;
  const directory = await Deno.makeTempDir({ dir: cache, prefix });
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

/**
 * What processes that were killed have left: nobody else builds this library
 * now, and a loss is checked in seconds.
 */
async function removeLeftovers(cache: string, library: string): Promise<void> {
  for await (const { name, isDirectory } of Deno.readDir(cache)) {
    const path = `${cache}/${name}`;
    const isLeft = name.startsWith(`build-${library}-`) ||
      name.startsWith("check-") && await hoursSince(path) > 1;
    if (isDirectory && isLeft) await Deno.remove(path, { recursive: true });
  }
}

/** Hours since a folder was changed; 0 if it is not there any more. */
async function hoursSince(path: string): Promise<number> {
  try {
    const { mtime } = await Deno.stat(path);
    return (Date.now() - (mtime ?? new Date()).getTime()) / 3.6e6;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
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
  const path = `${cachePath()}/libatomloss_${plan.name}-${key.slice(0, 16)}.so`;
  if (await exists(path)) return path;

  const cache = await cacheDirectory();
  // Replicas start together: one builds, the others wait and find the result.
  // The system releases the lock of a process that dies. Each library has its
  // own: that of a GPU takes minutes.
  using lock = await Deno.open(`${cache}/build-${plan.name}.lock`, {
    create: true,
    write: true,
  });
  await lock.lock(true);
  if (!await exists(path)) {
    await removeLeftovers(cache, plan.name);
    console.error(
      `atomloss: compiling the ${plan.name} library, once for this machine`,
    );
    await compile(plan, cache, path);
  }
  return path;
}

/** Texts of files of kernels/, by their names. */
async function readKernels(
  files: readonly string[],
): Promise<Map<string, string>> {
  const read = files.map(async (file) =>
    [file, await readKernel(file)] as const
  );
  return new Map(await Promise.all(read));
}

/** What a library is made of: texts, and the hash of them that it is told. */
async function readLibrary(
  { sources, headers, files = {} }: Recipe,
): Promise<{ texts: Map<string, string>; sources: string }> {
  const texts = await readKernels([...sources, ...headers]);
  const hash = await sha256(JSON.stringify([...texts]));
  for (const [name, text] of Object.entries(files)) texts.set(name, text);
  return { texts, sources: hash };
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
    if (!await exists(prebuilt)) {
      throw new BuildError(`${variable} names ${prebuilt}, which is not there`);
    }
    // Absolute: what is linked with it is linked in another folder.
    return await Deno.realPath(prebuilt);
  }
  const recipe = await recipeOf(backend);
  const { texts, sources } = await readLibrary(recipe);
  texts.set("defined/sources.h", `#define AL_SOURCES "${sources}"\n`);
  return await buildOnce({
    name: backend,
    recipe,
    sources: recipe.sources,
    texts,
  });
}

/** What to do about a library that cannot be used. */
export function rebuildAdvice(backend: keyof typeof RECIPES): string {
  const variable = `ATOMLOSS_LIBRARY_${backend.toUpperCase()}`;
  return Deno.env.get(variable)
    ? `rebuild it, or unset ${variable} to have it built`
    : "delete it to have it built again";
}

/** A library that is loaded. */
export interface Target {
  readonly path: string;
  /** Hash of the sources that it says it is made of. */
  readonly sources: string;
}

/**
 * Path of a library with the last of the losses that users have defined, which
 * registers it in `library`.
 */
export async function buildUserLoss(
  backend: keyof typeof RECIPES,
  losses: readonly LossSource[],
  library: Target,
): Promise<string> {
  const recipe = await recipeOf(backend);
  const { texts, sources } = await readLibrary(recipe);
  // They share structs and functions of C++, which nothing else compares.
  if (library.sources !== sources) {
    throw new BuildError(
      `a loss cannot be added to ${library.path}, which was built from other sources than those of this ` +
        `package: ${rebuildAdvice(backend)}`,
    );
  }
  texts.set(recipe.lossSource, await readKernel(recipe.lossSource));
  texts.set(
    "defined/user_losses.h",
    userLossHeader(recipe.allLosses ? losses : losses.slice(-1)),
  );
  const loss = losses.at(-1)!;
  return await buildOnce({
    name: `${backend}_${loss.name}`,
    recipe,
    sources: [recipe.lossSource],
    texts,
    library: library.path,
    loss,
  });
}

/** What it takes to check a loss. */
const CHECK_FILES = [
  "atomloss.h",
  "defined/defined_losses.h",
  "loss_ops.h",
  "loss_rows.h",
  "defined/check_losses.cpp",
];

/**
 * Shows a loss to the host compiler.
 *
 * @throws {LossDefinitionError} if it does not compile: what the compiler says.
 */
export async function checkUserLoss(loss: LossSource): Promise<void> {
  // In the cache, so that no other folder need be writable.
  const cache = await cacheDirectory();
  const directory = await Deno.makeTempDir({ dir: cache, prefix: "check-" });
  try {
    const texts = await readKernels(CHECK_FILES);
    texts.set("defined/user_losses.h", userLossHeader([loss]));
    await writeFiles(directory, texts);
    const program = compiler();
    const done = await runProgram(program, [
      "-std=c++17",
      "-fsyntax-only",
      "-I.",
      "defined/check_losses.cpp",
    ], directory);
    if (done === undefined) {
      throw new BuildError(
        `a loss needs a C++ compiler, and '${program}' is not there: install it (Debian: apt-get install g++)`,
      );
    }
    if (done.success) return;
    // An unclosed bracket is found behind the text: then all that was said.
    throw new LossDefinitionError(
      `loss '${loss.name}' does not compile:\n${
        errorsIn(loss, done.stderr) ?? done.stderr.trim()
      }`,
    );
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
