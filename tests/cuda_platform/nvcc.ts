/**
 * nvcc of the stand-in: takes nvcc's options, makes C++ of CUDA's launches, and
 * runs g++. What it compiles for a GPU tells libcudart of every access to
 * memory, by the calls that ThreadSanitizer is told by.
 *
 * Imports nothing, so that it starts at once and needs no network.
 */

/** The version that it says it is: what the headers here declare. */
const VERSION = "release 13.0, V13.0.0";

/** The GPUs that nvcc of this version has code for. */
const CODES = [75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121];

/** How device code and what surrounds it is compiled. */
const DEVICE_FLAGS = [
  "-O1", // more would merge accesses that a kernel makes one by one
  "-g1", // files and lines for reports
  "-fsanitize=thread",
  "--param=tsan-instrument-func-entry-exit=0",
];

/** Calls that the linker sends to libcudart, which looks at their addresses. */
const WRAPPED = ["memcpy", "memmove", "memset"];

/** What the command line asks for. */
interface Options {
  readonly compiles: boolean;
  readonly sources: readonly string[];
  readonly output: string;
  /** GPUs to make code for: "sm_90". */
  readonly targets: readonly string[];
  /** Options that g++ takes as they are. */
  readonly host: readonly string[];
}

/** Splits at commas, except those behind a backslash, as nvcc does. */
function splitList(text: string): string[] {
  return text.split(/(?<!\\),/).map((part) => part.replaceAll("\\,", ","));
}

function parse(args: readonly string[]): Options {
  const host: string[] = [], sources: string[] = [], targets: string[] = [];
  let output = "a.out", compiles = false;
  for (let i = 0; i < args.length; ++i) {
    const arg = args[i]!;
    // "-Xcompiler=-fPIC" or "-Xcompiler -fPIC".
    const value = (): string => {
      const at = arg.indexOf("=");
      return at < 0 ? args[++i]! : arg.slice(at + 1);
    };
    if (arg === "-c") compiles = true;
    else if (arg === "-o") output = args[++i]!;
    else if (/^(-Xcompiler|--compiler-options)(=|$)/.test(arg)) {
      host.push(...splitList(value()));
    } else if (/^(-Xlinker|--linker-options)(=|$)/.test(arg)) {
      host.push(...splitList(value()).flatMap((o) => ["-Xlinker", o]));
    } else if (/^(-gencode|--generate-code)(=|$)/.test(arg)) {
      targets.push(
        ...[...value().matchAll(/(?:sm|compute)_\d+(?=[a-z,\]]*$|,)/g)]
          .map(([target]) => target).slice(-1),
      );
    } else if (/^(-arch|--gpu-architecture)(=|$)/.test(arg)) {
      targets.push(value());
    } else if (
      /^(-Xptxas|--ptxas-options|-Werror|-Xcudafe|--diag-suppress)(=|$)/
        .test(arg)
    ) value();
    else if (
      /^(-cudart|--cudart|--threads|-t\d|--expt-|-O\d|-lineinfo)/.test(arg)
    ) {
      continue; // nothing that g++ has
    } else if (/\.(cu|cpp|o|so)$/.test(arg) && !arg.startsWith("-")) {
      sources.push(arg);
    } else host.push(arg);
  }
  return { compiles, sources, output, targets, host };
}

async function run(program: string, args: readonly string[]): Promise<string> {
  const { success, code, stdout } = await new Deno.Command(program, {
    args: [...args],
    stdin: "null",
    stderr: "inherit",
  }).output();
  if (!success) Deno.exit(code);
  return new TextDecoder().decode(stdout);
}

/** Where the kernel's name begins that ends at `end`: name<a, b<c>>. */
function startOfName(text: string, end: number): number {
  let depth = 0, at = end;
  while (at > 0) {
    const c = text[at - 1]!;
    if (c === ">") ++depth;
    else if (c === "<") --depth;
    else if (depth === 0 && !/[\w:\s]/.test(c)) break;
    // A word before the name, which is no part of it.
    else if (depth === 0 && /\s/.test(c) && /[\w:]/.test(text[at] ?? "")) break;
    --at;
  }
  return at;
}

/** `kernel<<<grid, block>>>(a, b)` as a call of cuda_platform::Launcher. */
function rewriteLaunches(text: string, targets: readonly string[]): string {
  let result = "", done = 0;
  for (;;) {
    const open = text.indexOf("<<<", done);
    if (open < 0) return result + text.slice(done);
    const close = text.indexOf(">>>", open);
    const begin = startOfName(text, open);
    const name = text.slice(begin, open).trim();
    const config = text.slice(open + 3, close);
    const args = text.indexOf("(", close) + 1;
    const label = JSON.stringify(name.replaceAll(/\s+/g, " "));
    const separator = /^\s*\)/.test(text.slice(args)) ? "" : ", ";
    result += text.slice(done, begin) +
      `::cuda_platform::Launcher{${config}}(${label}, "${targets}", ` +
      `[](const auto&... a) { ${name}(a...); }${separator}`;
    done = args;
  }
}

/** `asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(r) : "d"(x))` as a call of C++. */
function rewriteAssembly(text: string): string {
  return text.replaceAll(
    /\basm\s*(?:volatile\s*)?\(\s*"([\w.]+) %0, %1;"\s*:\s*"=\w"\s*\((\w+)\)\s*:\s*"\w"\s*\((\w+)\)\s*\)/g,
    (_, name: string, out: string, operand: string) =>
      `${out} = ::cuda_platform::ptx::${name.replaceAll(".", "_")}(${operand})`,
  );
}

/** `threadIdx.x` as a call: a variable would be looked at at every access. */
function rewriteIndices(text: string): string {
  return text
    .replaceAll(
      /(?<![\w.>])(thread|block)Idx\.(?=[xyz]\b)/g,
      "::cuda_platform::$1_index().",
    )
    .replaceAll(
      /(?<![\w.>])(block|grid)Dim\.(?=[xyz]\b)/g,
      "::cuda_platform::$1_dimensions().",
    );
}

/** ["sm_80", "sm_90"] as nvcc writes it for the preprocessor: 800,900. */
function architectures(targets: readonly string[]): string {
  const numbers = targets.map((target) => `${target.replace(/\D/g, "")}0`);
  return [...new Set(numbers)].join(",");
}

async function compileDevice(
  compiler: string,
  home: string,
  { sources, output, targets, host }: Options,
): Promise<void> {
  const rest = host.filter((flag) => !/^-(I|D|isystem)/.test(flag));
  const preprocessed = await run(compiler, [
    "-E",
    "-x",
    "c++",
    "-D__CUDACC__",
    "-D__NVCC__",
    `-DCUDA_PLATFORM_TARGETS="${targets.join(",")}"`,
    `-D__CUDA_ARCH_LIST__=${architectures(targets)}`,
    "-include",
    "cuda_runtime.h",
    ...host,
    `-I${home}/include`,
    sources[0]!,
  ]);
  const translated = `${output}.ii`;
  await Deno.writeTextFile(
    translated,
    rewriteIndices(rewriteAssembly(rewriteLaunches(preprocessed, targets))),
  );
  await run(compiler, [
    "-x",
    "c++-cpp-output",
    ...rest,
    ...DEVICE_FLAGS,
    "-c",
    translated,
    "-o",
    output,
  ]);
  await Deno.remove(translated);
}

if (import.meta.main) {
  const [home, ...args] = Deno.args as [string, ...string[]];
  const compiler = Deno.env.get("CXX") || "g++";
  if (args.includes("--version")) {
    const toolkit = await Deno.readTextFile(`${home}/version`);
    console.log(
      `nvcc of the stand-in ${toolkit}\nCuda compilation tools, ${VERSION}`,
    );
    Deno.exit();
  }
  if (args.includes("--list-gpu-code")) {
    console.log(CODES.map((code) => `sm_${code}`).join("\n"));
    Deno.exit();
  }
  const options = parse(args);
  const { sources, output, host } = options;
  const isDevice = sources[0]?.endsWith(".cu") ?? false;
  if (options.compiles && isDevice) {
    await compileDevice(compiler, home!, options);
  } else if (options.compiles) {
    await run(compiler, [
      "-O1",
      ...host,
      `-I${home}/include`,
      "-c",
      ...sources,
      "-o",
      output,
    ]);
  } else {
    await run(compiler, [
      ...sources,
      "-o",
      output,
      ...host,
      ...WRAPPED.map((name) => `-Wl,--wrap=${name}`),
      `-L${home}/lib64`,
      "-lcudart",
    ]);
  }
}
