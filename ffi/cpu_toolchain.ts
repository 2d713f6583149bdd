/** How libatomloss_cpu.so is compiled: g++, OpenBLAS, Gloo. */
import { BuildError } from "../errors.ts";
import { runProgram } from "./process.ts";
import { type Recipe, SHARED_HEADERS, SHARED_SOURCES } from "./recipe.ts";

/** The longest first. */
const SOURCES = [
  "cpu/losses_float16.cpp",
  "cpu/losses_bfloat16.cpp",
  "cpu/losses_float32.cpp",
  "cpu/losses_float64.cpp",
  "cpu/collectives.cpp",
  "cpu/device.cpp",
  "cpu/losses.cpp",
  "cpu/matmul.cpp",
  "cpu/mesh.cpp",
  "cpu/metrics.cpp",
  "cpu/optimizers.cpp",
  "cpu/parallel.cpp",
  "cpu/reduce.cpp",
  "cpu/samples.cpp",
  "cpu/watched_transport.cpp",
  ...SHARED_SOURCES,
];

const HEADERS = [
  ...SHARED_HEADERS,
  "shared/half.h",
  "cpu/device.h",
  "cpu/free_memory.h",
  "cpu/loss_input.h",
  "cpu/loss_kernels.h",
  "cpu/mesh.h",
  "cpu/parallel.h",
  "cpu/reduce_kernels.h",
  "cpu/samples_kernels.h",
  "cpu/stream.h",
  "cpu/structure_offsets.h",
  "cpu/unreduced_kernels.h",
  "cpu/watched_transport.h",
];

const FLAGS = [
  "-std=c++17",
  "-O3",
  "-march=native",
  "-fopenmp-simd", // "#pragma omp simd": vectorise; no OpenMP threads
  "-pthread",
  // Square roots and comparisons vectorise only without errno and FP traps.
  "-fno-math-errno",
  "-fno-trapping-math",
  // The same bits whichever variant of a loop computes a sum.
  "-ffp-contract=off",
  "-fPIC",
  "-I.",
];

/** 512-bit vectors where there are any: g++ prefers 256, which is half as fast here. */
const X86_FLAGS = ["-mprefer-vector-width=512"];

const LINK_FLAGS = [
  "-shared",
  "-pthread",
  // Threads sleep in this library: it must not be unmapped at exit.
  "-Wl,-z,nodelete",
];

const LIBRARIES = ["-lopenblas", "-lgloo"];

/** What a compiler or linker says when a Debian package is missing, and which. */
const MISSING: readonly (readonly [RegExp, string])[] = [
  [/gloo\/\S+: No such file|cannot find -lgloo/, "libgloo-dev"],
  [/cblas\.h: No such file|cannot find -lopenblas/, "libopenblas-dev"],
];

/** The compiler of host code: $CXX, or g++. */
export function compiler(): string {
  return Deno.env.get("CXX") || "g++";
}

/** What this compiler is, and what -march=native means on this processor. */
async function identify(flags: readonly string[]): Promise<string> {
  const program = compiler();
  const missing = new BuildError(
    `the C++ compiler '${program}' is not there: install it (Debian: apt-get install g++), or name ` +
      "another in CXX, or a prebuilt library in ATOMLOSS_LIBRARY_CPU",
  );
  const version = await runProgram(program, ["--version"]);
  if (version === undefined) throw missing;
  // -### prints the command that -march=native has been resolved to.
  const native = await runProgram(program, [
    ...flags,
    "-###",
    "-E",
    "-x",
    "c++",
    "/dev/null",
  ]);
  if (native === undefined) throw missing;
  const target = native.stderr.split("\n").find((line) =>
    line.includes("cc1plus")
  );
  return [
    version.stdout.split("\n")[0],
    target ?? native.stderr,
    ...flags,
    ...LINK_FLAGS,
    ...LIBRARIES,
  ].join("\n");
}

/** The recipe of the CPU library on this machine. */
export async function cpuRecipe(): Promise<Recipe> {
  const flags = Deno.build.arch === "x86_64" ? [...FLAGS, ...X86_FLAGS] : FLAGS;
  return {
    sources: SOURCES,
    lossSource: "cpu/user_losses.cpp",
    allLosses: false,
    headers: HEADERS,
    identity: await identify(flags),
    compile: (
      source,
      object,
    ) => [compiler(), ...flags, "-c", source, "-o", object],
    link: (objects, output, library) => [
      compiler(),
      ...LINK_FLAGS,
      ...objects,
      ...(library === undefined ? [] : [library]),
      "-o",
      output,
      ...LIBRARIES,
    ],
    advice(stderr): string {
      const packages = MISSING.filter(([pattern]) => pattern.test(stderr))
        .map(([, name]) => name);
      return packages.length === 0
        ? ""
        : `install ${packages.join(" and ")} (Debian: apt-get install ${
          packages.join(" ")
        })`;
    },
  };
}
