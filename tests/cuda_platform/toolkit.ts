/**
 * The stand-in for the CUDA toolkit: a folder that is a CUDA_HOME, an NCCL_HOME
 * and a CUBLAS_HOME on a machine without a GPU. Its nvcc makes C++ of CUDA
 * (nvcc.ts); its libraries have the names of the real ones, run kernels on the
 * processor and look for races and wrong accesses meanwhile (cudart/). Built
 * once for its sources, below the user's cache directory.
 *
 * `deno run -A tests/cuda_platform/toolkit.ts COMMAND…` runs a command with it.
 */

const SOURCES = new URL("./", import.meta.url).pathname;

/** The libraries, in the order in which they are linked. */
const LIBRARIES = [
  {
    name: "cudart",
    soname: "libcudart.so.13",
    exports: "cuda* __tsan_* __wrap_* _ZN13cuda_platform*",
  },
  { name: "cublas", soname: "libcublas.so.13", exports: "cublas*" },
  { name: "nccl", soname: "libnccl.so.2", exports: "nccl*" },
] as const;

const FLAGS = [
  "-std=c++17",
  "-O2",
  "-g1",
  "-fPIC",
  "-fvisibility-inlines-hidden",
  "-Wall",
  "-Wextra",
  "-Werror",
];

async function run(program: string, args: readonly string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, {
    args: [...args],
    stdin: "null",
  }).output();
  if (!success) {
    throw new Error(
      `${program} ${args.join(" ")}:\n${new TextDecoder().decode(stderr)}`,
    );
  }
}

/** Paths of the files below a folder, relative to it, in a fixed order. */
async function filesOf(folder: string, prefix = ""): Promise<string[]> {
  const files: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(folder + prefix)) {
    const path = prefix + name;
    if (isDirectory) files.push(...await filesOf(folder, `${path}/`));
    else if (/\.(h|cuh|cpp)$/.test(name) || name === "nvcc.ts") {
      files.push(path);
    }
  }
  return files.sort();
}

async function hashOf(files: readonly string[]): Promise<string> {
  const texts = [Deno.execPath(), LIBRARIES, FLAGS, SOURCES];
  for (const file of files) texts.push(await Deno.readTextFile(SOURCES + file));
  const digest = await crypto.subtle.digest(
    "SHA-256",
    new TextEncoder().encode(JSON.stringify(texts)),
  );
  return new Uint8Array(digest).toHex().slice(0, 16);
}

async function buildLibrary(
  { name, soname, exports }: typeof LIBRARIES[number],
  files: readonly string[],
  home: string,
): Promise<void> {
  const compiler = Deno.env.get("CXX") || "g++";
  const sources = files.filter((file) =>
    file.startsWith(`${name}/`) && file.endsWith(".cpp")
  );
  const objects = sources.map((source) =>
    `${home}/${source.replaceAll("/", "_")}.o`
  );
  const compile = async (source: string, object: string): Promise<void> =>
    await run(compiler, [
      ...FLAGS,
      `-I${SOURCES}include`,
      `-I${SOURCES}cudart`,
      "-c",
      SOURCES + source,
      "-o",
      object,
    ]);
  await Promise.all(sources.map((source, i) => compile(source, objects[i]!)));
  // Two libraries may give a name to two things, as long as they keep it.
  await Deno.writeTextFile(
    `${home}/exports`,
    `{ global: ${exports.replaceAll(/ |$/g, "; ")} local: *; };`,
  );
  await run(compiler, [
    "-shared",
    ...objects,
    "-o",
    `${home}/lib64/${soname}`,
    `-Wl,-soname,${soname}`,
    `-Wl,--version-script,${home}/exports`,
    "-Wl,-z,defs",
    "-Wl,-rpath,$ORIGIN",
    ...(name === "cudart" ? [] : [`-L${home}/lib64`, "-lcudart"]),
    "-lpthread",
    "-ldl",
    "-lrt",
  ]);
  await Deno.symlink(
    soname,
    `${home}/lib64/${soname.replace(/\d+$/, "").slice(0, -1)}`,
  );
  for (const object of objects) await Deno.remove(object);
}

async function build(
  files: readonly string[],
  hash: string,
  home: string,
): Promise<void> {
  await Deno.mkdir(`${home}/bin`);
  await Deno.mkdir(`${home}/lib64`);
  await Deno.symlink(`${SOURCES}include`, `${home}/include`);
  await Deno.writeTextFile(`${home}/version`, hash);
  await Deno.writeTextFile(
    `${home}/bin/nvcc`,
    `#!/bin/sh\nexec '${Deno.execPath()}' run --no-config --no-lock -A '${SOURCES}nvcc.ts' "$(dirname "$(dirname "$0")")" "$@"\n`,
    { mode: 0o755 },
  );
  for (const library of LIBRARIES) await buildLibrary(library, files, home);
}

/** The folder, which is built if it is not there. */
export async function buildToolkit(): Promise<string> {
  const files = await filesOf(SOURCES);
  const hash = await hashOf(files);
  const cache = Deno.env.get("XDG_CACHE_HOME") ||
    `${Deno.env.get("HOME")}/.cache`;
  const folder = `${cache}/atomloss-stand-in`;
  const home = `${folder}/${hash}`;
  await Deno.mkdir(folder, { recursive: true });
  // Tests that start together: one builds.
  using lock = await Deno.open(`${folder}/lock`, { create: true, write: true });
  await lock.lock(true);
  const isThere = await Deno.stat(home).then(() => true, () => false);
  if (!isThere) {
    console.error("stand-in: compiling the stand-in for the CUDA toolkit");
    const unfinished = await Deno.makeTempDir({ dir: folder });
    try {
      await build(files, hash, unfinished);
      await Deno.rename(unfinished, home);
    } catch (error) {
      await Deno.remove(unfinished, { recursive: true });
      throw error;
    }
  }
  return home;
}

/** What makes ffi/build.ts take it. */
export function environmentOf(home: string): Record<string, string> {
  return { CUDA_HOME: home, NCCL_HOME: home, CUBLAS_HOME: home };
}

if (import.meta.main) {
  const home = await buildToolkit();
  const [program, ...args] = Deno.args;
  if (program === undefined) console.log(home);
  else {
    const { code } = await new Deno.Command(program, {
      args,
      env: environmentOf(home),
    }).spawn().status;
    Deno.exit(code);
  }
}
