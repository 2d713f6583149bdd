/** What the native libraries are made with, and where they are kept. */
import { BuildError } from "../errors.ts";
import { cacheDirectory } from "../ffi/build.ts";
import { compiler } from "../ffi/cpu_toolchain.ts";
import { findToolkit } from "../ffi/cuda_toolchain.ts";
import { nvidiaDriver } from "../ffi/nvidia_driver.ts";
import { runProgram } from "../ffi/process.ts";

/** The host's compiler. Throws if it is not there. */
export async function describeCompiler(): Promise<string> {
  const program = compiler();
  const version = await runProgram(program, ["--version"]);
  if (version?.success) return `${program}: ${version.stdout.split("\n")[0]}`;
  throw new BuildError(
    `'${program}' is not there, or does not run: install it (Debian: apt-get install g++), or name another in CXX`,
  );
}

/** The cache folder and what is in it. Throws if nothing can be written there. */
export async function describeCache(): Promise<string> {
  const path = await cacheDirectory();
  let files = 0, bytes = 0;
  for await (const { name } of Deno.readDir(path)) {
    if (!name.endsWith(".so")) continue;
    files++;
    bytes += (await Deno.stat(`${path}/${name}`)).size;
  }
  try {
    await Deno.remove(await Deno.makeTempFile({ dir: path }));
  } catch (cause) {
    if (cause instanceof Deno.errors.NotCapable) throw cause;
    throw new BuildError(
      `nothing can be written to ${path}: ${
        (cause as Error).message
      }: name another folder in XDG_CACHE_HOME`,
      { cause },
    );
  }
  return `${path}: ${files} libraries, ${(bytes / 1e6).toFixed(1)} MB`;
}

/** The NVIDIA driver and its GPUs. Throws if there are none. */
export async function describeDriver(): Promise<string> {
  const { version, gpus } = await nvidiaDriver();
  const names = gpus.map(({ name, capability }, i) =>
    `cuda:${i} is ${name} with compute capability ${capability}`
  );
  return `runs CUDA up to ${version}: ${names.join(", ")}`;
}

/** The CUDA toolkit. Throws if something of it is missing. */
export async function describeToolkit(): Promise<string> {
  const { nvcc, ...libraries } = await findToolkit();
  const version = /release [\d.]+/.exec(nvcc.version)?.[0] ?? "nvcc";
  return [
    `${nvcc.program}: ${version}`,
    ...Object.values(libraries).map(({ lib, file }) => `${lib}/${file}`),
  ].join(", ");
}
