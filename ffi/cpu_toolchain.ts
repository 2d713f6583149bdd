/** How libatomloss_cpu.so is compiled: g++, OpenBLAS, Gloo. */
import { BuildError } from "../errors.ts";
import { runProgram } from "./process.ts";
import type { Recipe } from "./recipe.ts";

const SOURCES = [
  "status.cpp",
  "loss_find.cpp",
  "dlpack.cpp",
  "cpu/device.cpp",
  "cpu/losses.cpp",
  "cpu/matmul.cpp",
  "cpu/optimizers.cpp",
  "cpu/parallel.cpp",
  "cpu/reduce.cpp",
  "cpu/samples.cpp",
  "cpu/collectives.cpp",
];

const HEADERS = [
  "atomloss.h",
  "block_cache.h",
  "dispatch.h",
  "dlpack.h",
  "half.h",
  "loss_ops.h",
  "optimizer_ops.h",
  "status.h",

  "cpu/loss_input.h",
  "cpu/parallel.h",
  "cpu/stream.h",
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
  "-shared",
  "-I.",
];

/** 512-bit vectors where there are any: g++ prefers 256, which is half as fast here. */
const X86_FLAGS = ["-mprefer-vector-width=512"];

const LIBRARIES = [
  "-lopenblas",
  "-lgloo",
  // Threads sleep in this library: it must not be unmapped at exit.
  "-Wl,-z,nodelete",
];

/** What a compiler or linker says when a Debian package is missing, and which. */
const MISSING: readonly (readonly [RegExp, string])[] = [
  [/gloo\/\S+: No such file|cannot find -lgloo/, "libgloo-dev"],
  [/cblas\.h: No such file|cannot find -lopenblas/, "libopenblas-dev"],
];

/** The compiler: $CXX, or g++. */
function compiler(): string {
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
    ...LIBRARIES,
  ].join("\n");
}

/** The recipe of the CPU library on this machine. */
export async function cpuRecipe(): Promise<Recipe> {
  const flags = Deno.build.arch === "x86_64" ? [...FLAGS, ...X86_FLAGS] : FLAGS;
  return {
    files: [...SOURCES, ...HEADERS],
    identity: await identify(flags),
    command: (
      output,
    ) => [compiler(), ...flags, ...SOURCES, "-o", output, ...LIBRARIES],
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
