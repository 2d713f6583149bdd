/** How libatomloss_cuda.so is compiled: nvcc, cuBLAS, NCCL. */
import { BuildError } from "../errors.ts";
import { findTargets } from "./gpu_targets.ts";
import { runProgram } from "./process.ts";
import { type Recipe, SHARED_HEADERS, SHARED_SOURCES } from "./recipe.ts";

/** The longest first. */
const SOURCES = [
  "cuda/reduce_tasks.cu",
  "cuda/losses_float16.cu",
  "cuda/losses_bfloat16.cu",
  "cuda/losses_float32.cu",
  "cuda/losses_float64.cu",
  "cuda/collectives.cu",
  "cuda/device.cu",
  "cuda/downloads.cu",
  "cuda/elementwise.cu",
  "cuda/gpus.cu",
  "cuda/group.cu",
  "cuda/losses.cu",
  "cuda/matmul.cu",
  "cuda/memory_pool.cu",
  "cuda/metrics.cu",
  "cuda/optimizers.cu",
  "cuda/samples.cu",
  "cuda/uploads.cu",
  "cuda/watchdog.cu",
  "cuda/closing.cpp",
  ...SHARED_SOURCES,
];

const HEADERS = [
  ...SHARED_HEADERS,
  "cuda/call_check.cuh",
  "cuda/check.cuh",
  "cuda/closing.h",
  "cuda/count_slots.cuh",
  "cuda/current_device.cuh",
  "cuda/device.cuh",
  "cuda/downloads.cuh",
  "cuda/group.cuh",
  "cuda/half.cuh",
  "cuda/loss_kernels.cuh",
  "cuda/memory_pool.cuh",
  "cuda/metrics_kernels.cuh",
  "cuda/ordered_keys.cuh",
  "cuda/owners.cuh",
  "cuda/packed.cuh",
  "cuda/reduce_kernels.cuh",
  "cuda/reduce_tasks.cuh",
  "cuda/samples_kernels.cuh",
  "cuda/scoped_block.cuh",
  "cuda/scratch.cuh",
  "cuda/structure_offsets.cuh",
  "cuda/task.cuh",
  "cuda/unreduced_kernels.cuh",
  "cuda/uploads.cuh",
];

const FLAGS = [
  "-std=c++17",
  "-O3",
  "-cudart=shared",
  "-Xcompiler=-fPIC",
  "-I.",
  // A function of the host compiles with a warning, and its kernel is empty.
  "--expt-relaxed-constexpr",
  "-Werror=cross-execution-space-call",
  "--threads=0", // architectures in parallel
];

const LINK_FLAGS = [
  "-shared",
  "-cudart=shared",
  // The watchdog of a group may still sleep in it when the process ends.
  "-Xlinker=-z,nodelete",
];

/** Where Debian and NVIDIA's packages put headers and libraries. */
const SYSTEM = {
  include: ["/usr/include", "/usr/local/include"],
  lib: [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/lib",
  ],
};

/** Below a toolkit's folder, as NVIDIA's packages and conda have it. */
const PLATFORMS = ["x86_64-linux", "sbsa-linux", "aarch64-linux"]
  .map((platform) => `targets/${platform}`);

/** What the compilers read the folders from: nvcc takes names with a space or comma apart. */
const FOLDERS = "folders.rsp";

/** A library that the CUDA library is linked with. */
interface Dependency {
  readonly name: string;
  readonly header: string;
  /** File to link; wheels carry no unversioned names. */
  readonly file: RegExp;
  /** Variable that names a folder with include/ and lib/; default: the toolkit's. */
  readonly variable?: string;
  readonly advice: string;
}

const CUDART: Dependency = {
  name: "the CUDA runtime",
  header: "cuda_runtime.h",
  file: /^libcudart\.so\.\d+$/,
  advice: "install the CUDA toolkit's cuda-cudart-dev",
};

const NCCL: Dependency = {
  name: "NCCL",
  header: "nccl.h",
  file: /^libnccl\.so\.2$/,
  variable: "NCCL_HOME",
  advice: "install libnccl-dev (NVIDIA's apt repository) or the wheel " +
    "nvidia-nccl-cu13, or name its folder in NCCL_HOME",
};

const CUBLAS: Dependency = {
  name: "cuBLAS",
  header: "cublas_v2.h",
  file: /^libcublas\.so\.\d+$/,
  variable: "CUBLAS_HOME",
  advice: "install the CUDA toolkit's libcublas-dev or the wheel " +
    "nvidia-cublas, or name its folder in CUBLAS_HOME",
};

/** Where a dependency was found. */
export interface Found {
  readonly include: string;
  readonly lib: string;
  readonly file: string;
}

/** Name of the file of a folder that fits: the last, where there are several versions. */
async function fileIn(
  folder: string,
  pattern: RegExp,
): Promise<string | undefined> {
  try {
    const names = await Array.fromAsync(Deno.readDir(folder), (e) => e.name);
    return names.filter((name) => pattern.test(name))
      .sort((a, b) => a.localeCompare(b, "en", { numeric: true })).at(-1);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    if (error instanceof Deno.errors.NotADirectory) return undefined;
    throw error;
  }
}

/** The CUDA compiler. */
export interface Nvcc {
  readonly program: string;
  /** What `--version` says. */
  readonly version: string;
  /** The toolkit's folder. */
  readonly home: string;
}

async function versionOf(program: string): Promise<string | undefined> {
  const answer = await runProgram(program, ["--version"]);
  return answer?.success ? answer.stdout : undefined;
}

/**
 * The compiler of the toolkit that is named, or the one on PATH, which a module
 * or conda has put there, or that of the usual place.
 */
async function findNvcc(): Promise<Nvcc> {
  for (const variable of ["CUDA_HOME", "CUDA_PATH"]) {
    const home = Deno.env.get(variable);
    if (!home) continue;
    const program = `${home}/bin/nvcc`;
    const version = await versionOf(program);
    if (version !== undefined) return { program, version, home };
    // Another toolkit than the one that was asked for would be a surprise.
    throw new BuildError(
      `${variable} names ${home}, and there is no ${program} that runs: name the folder of a CUDA toolkit, or unset ${variable}`,
    );
  }
  const onPath = await versionOf("nvcc");
  if (onPath !== undefined) {
    // Through links and wrappers: it knows best where it is.
    const plan = await runProgram("nvcc", ["--dryrun", "-E", "/dev/null"]);
    const top = /^#\$ TOP=(.+?)(\/bin\/\.\.)?$/m.exec(plan?.stderr ?? "");
    return { program: "nvcc", version: onPath, home: top?.[1] ?? "/usr" };
  }
  const home = "/usr/local/cuda";
  const program = `${home}/bin/nvcc`;
  const version = await versionOf(program);
  if (version !== undefined) return { program, version, home };
  throw new BuildError(
    "the CUDA compiler nvcc is not there: install the CUDA toolkit (NVIDIA's cuda-toolkit, Debian's " +
      "nvidia-cuda-toolkit), or name its folder in CUDA_HOME, or a prebuilt library in ATOMLOSS_LIBRARY_CUDA",
  );
}

async function findDependency(
  { name, header, file, variable, advice }: Dependency,
  toolkit: string,
): Promise<Found> {
  const named = variable && Deno.env.get(variable);
  const home = named || toolkit;
  const includes = [home, ...PLATFORMS.map((below) => `${home}/${below}`)]
    .map((folder) => `${folder}/include`);
  const libs = ["lib64", "lib", ...PLATFORMS.map((below) => `${below}/lib`)]
    .map((folder) => `${home}/${folder}`);
  if (!named) {
    includes.push(...SYSTEM.include);
    libs.push(...SYSTEM.lib);
  }
  const headerPattern = new RegExp(`^${header.replace(".", "\\.")}$`);
  for (const include of includes) {
    if (await fileIn(include, headerPattern) === undefined) continue;
    for (const lib of libs) {
      const found = await fileIn(lib, file);
      if (found !== undefined) return { include, lib, file: found };
    }
  }
  throw new BuildError(
    `${name} is not there (${header} and ${
      file.source.replaceAll(/[\\^$]/g, "")
    } in ${
      named ? `${variable}, ${named}` : `${toolkit} or the system's folders`
    }): ${advice}`,
  );
}

/** What the CUDA library is made with. */
export interface Toolkit {
  readonly nvcc: Nvcc;
  readonly nccl: Found;
  readonly cublas: Found;
  readonly cudart: Found;
}

/**
 * Looks for it on this machine.
 *
 * @throws {BuildError} if something is not there; says what to install.
 */
export async function findToolkit(): Promise<Toolkit> {
  const nvcc = await findNvcc();
  const nccl = await findDependency(NCCL, nvcc.home);
  const cublas = await findDependency(CUBLAS, nvcc.home);
  const cudart = await findDependency(CUDART, nvcc.home);
  return { nvcc, nccl, cublas, cudart };
}

/** The options that name folders, as a response file of gcc's. */
function folderOptions(found: readonly Found[]): string {
  const quoted = (text: string): string =>
    `"${text.replaceAll(/[\\"]/g, "\\$&")}"`;
  return found.flatMap(({ include, lib }) => [
    quoted(`-I${include}`),
    quoted(`-L${lib}`),
    // Where it is found again when the library is loaded.
    `-Xlinker ${quoted(`-rpath=${lib}`)}`,
  ]).join("\n") + "\n";
}

/**
 * The recipe of the CUDA library on this machine.
 *
 * @throws {BuildError} if nvcc, NCCL or cuBLAS is not there, or the toolkit has
 * no code for any GPU of the machine; says what to install.
 */
export async function cudaRecipe(): Promise<Recipe> {
  const { nvcc, nccl, cublas, cudart } = await findToolkit();
  const targets = await findTargets(nvcc.program);
  const folders = `-Xcompiler=@${FOLDERS}`;
  const libraries = [nccl, cublas].map(({ file }) => `-l:${file}`);
  return {
    sources: SOURCES,
    lossSource: "cuda/user_losses.cu",
    allLosses: true,
    headers: HEADERS,
    files: { [FOLDERS]: folderOptions([nccl, cublas, cudart]) },
    identity: [
      nvcc.version,
      ...FLAGS,
      ...targets,
      ...LINK_FLAGS,
      ...libraries,
    ].join("\n"),
    compile: (
      source,
      object,
    ) => [
      nvcc.program,
      ...FLAGS,
      folders,
      ...targets,
      "-c",
      source,
      "-o",
      object,
    ],
    link: (objects, output, library) => [
      nvcc.program,
      ...LINK_FLAGS,
      folders,
      ...objects,
      ...(library === undefined ? [] : [library]),
      "-o",
      output,
      ...libraries,
    ],
    advice: () => "",
  };
}
