/** How libatomloss_cuda.so is compiled: nvcc, cuBLAS, NCCL. */
import { BuildError } from "../errors.ts";
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
  "cuda/elementwise.cu",
  "cuda/losses.cu",
  "cuda/matmul.cu",
  "cuda/metrics.cu",
  "cuda/optimizers.cu",
  "cuda/samples.cu",
  ...SHARED_SOURCES,
];

const HEADERS = [
  ...SHARED_HEADERS,
  "cuda/check.cuh",
  "cuda/current_device.cuh",
  "cuda/device.cuh",
  "cuda/half.cuh",
  "cuda/loss_kernels.cuh",
  "cuda/metrics_kernels.cuh",
  "cuda/packed.cuh",
  "cuda/reduce_kernels.cuh",
  "cuda/reduce_tasks.cuh",
  "cuda/samples_kernels.cuh",
  "cuda/scratch.cuh",
  "cuda/structure_offsets.cuh",
  "cuda/task.cuh",
  "cuda/unreduced_kernels.cuh",
];

const FLAGS = [
  "-std=c++17",
  "-O3",
  "-cudart=shared",
  "-Xcompiler=-fPIC",
  "-I.",
  "--threads=0", // architectures in parallel
];

const LINK_FLAGS = [
  "-shared",
  "-cudart=shared",
  // The watchdog of a group may still sleep in it when the process ends.
  "-Xlinker=-z,nodelete",
];

/** Without a GPU to look at: A100, H100, and PTX for what comes after. */
const DEFAULT_TARGETS = [
  "-gencode=arch=compute_80,code=sm_80",
  "-gencode=arch=compute_90,code=sm_90",
  "-gencode=arch=compute_90,code=compute_90",
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

/** A library that the CUDA library is linked with. */
interface Dependency {
  readonly name: string;
  readonly header: string;
  /** File to link; wheels carry no unversioned names. */
  readonly file: RegExp;
  /** Variable that names a folder with include/ and lib/. */
  readonly variable: string;
  readonly advice: string;
}

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
interface Found {
  readonly include: string;
  readonly lib: string;
  readonly file: string;
}

async function fileIn(
  folder: string,
  pattern: RegExp,
): Promise<string | undefined> {
  try {
    for await (const entry of Deno.readDir(folder)) {
      if (pattern.test(entry.name)) return entry.name;
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return undefined;
}

/** The toolkit's folder and its compiler. */
async function findNvcc(): Promise<{ home: string; nvcc: string }> {
  const homes = [
    Deno.env.get("CUDA_HOME"),
    Deno.env.get("CUDA_PATH"),
    "/usr/local/cuda",
  ].filter((home) => home);
  for (const home of homes) {
    const nvcc = `${home}/bin/nvcc`;
    if ((await runProgram(nvcc, ["--version"]))?.success) {
      return { home: home!, nvcc };
    }
  }
  // Debian's nvidia-cuda-toolkit has it on PATH and its headers in /usr.
  if ((await runProgram("nvcc", ["--version"]))?.success) {
    return { home: "/usr", nvcc: "nvcc" };
  }
  throw new BuildError(
    "the CUDA compiler nvcc is not there: install the CUDA toolkit (NVIDIA's cuda-toolkit, Debian's " +
      "nvidia-cuda-toolkit), or name its folder in CUDA_HOME, or a prebuilt library in ATOMLOSS_LIBRARY_CUDA",
  );
}

async function findDependency(
  { name, header, file, variable, advice }: Dependency,
  cudaHome: string,
): Promise<Found> {
  const named = Deno.env.get(variable);
  const homes = named ? [named] : [cudaHome];
  const includes = homes.map((home) => `${home}/include`);
  const libs = homes.flatMap((home) => [`${home}/lib64`, `${home}/lib`]);
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
      named ? `${variable}, ${named}` : "the system's folders"
    }): ${advice}`,
  );
}

/** Code for the GPUs of this machine. */
async function findTargets(): Promise<readonly string[]> {
  const query = await runProgram("nvidia-smi", [
    "--query-gpu=compute_cap",
    "--format=csv,noheader",
  ]);
  const capabilities = new Set(
    query?.success ? query.stdout.match(/^\d+\.\d+$/gm) : [],
  );
  if (capabilities.size === 0) return DEFAULT_TARGETS;
  return [...capabilities].sort().map((capability) => {
    const number = capability.replace(".", "");
    return `-gencode=arch=compute_${number},code=sm_${number}`;
  });
}

/**
 * The recipe of the CUDA library on this machine.
 *
 * @throws {BuildError} if nvcc, NCCL or cuBLAS is not there; says what to install.
 */
export async function cudaRecipe(): Promise<Recipe> {
  const { home, nvcc } = await findNvcc();
  const nccl = await findDependency(NCCL, home);
  const cublas = await findDependency(CUBLAS, home);
  const targets = await findTargets();
  const version = (await runProgram(nvcc, ["--version"]))?.stdout ?? "";
  const found = [nccl, cublas];
  const includes = found.map(({ include }) => `-I${include}`);
  const libraries = [
    ...found.flatMap(({ lib, file }) => [
      `-L${lib}`,
      `-l:${file}`,
      `-Xlinker=-rpath,${lib}`,
    ]),
    `-Xlinker=-rpath,${home}/lib64`,
  ];
  return {
    sources: SOURCES,
    lossSource: "cuda/user_losses.cu",
    allLosses: true,
    headers: HEADERS,
    identity: [
      version,
      ...FLAGS,
      ...targets,
      ...includes,
      ...LINK_FLAGS,
      ...libraries,
    ].join("\n"),
    compile: (
      source,
      object,
    ) => [nvcc, ...FLAGS, ...targets, ...includes, "-c", source, "-o", object],
    link: (objects, output, library) => [
      nvcc,
      ...LINK_FLAGS,
      ...objects,
      ...(library === undefined ? [] : [library]),
      "-o",
      output,
      ...libraries,
    ],
    advice: () => "",
  };
}
