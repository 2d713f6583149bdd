/**
 * What a test asks of the stand-in for CUDA: calls that fail, calls that were
 * made, another GPU, another seed. For the process of the test by its methods,
 * for one that the test starts by variables of the environment:
 *
 *     standInTest("sum() is one launch", async (device, standIn) => {
 *       const calls = standIn.count(() => sum(device));
 *       assertEquals(calls, { cudaSetDevice: 1, cudaLaunchKernel: 1 });
 *     });
 *     standInTest("…", (device, standIn) => {
 *       using _ = standIn.failing("cudaMalloc:1:2"); // the next one: no memory
 *       …
 *     });
 *     startProgram(…, standIn.environment({ SEED: 7, FAIL: "ncclAllReduce:2:1@1" }));
 *
 * A failure is call:which:code, and @rank where only one replica has it; which
 * counts from now, 1 is the next one. The code is the number of a cudaError_t,
 * ncclResult_t or cublasStatus_t. Every launch is a call of cudaLaunchKernel.
 * "kernel:1:700" lets the launch succeed and the kernel fail when it runs, which
 * the GPU does not recover from, however many tests are still to come: in a
 * process of its own.
 *
 * Settings, with their defaults:
 *   SEED 1             of delays and of the order of blocks and threads
 *   DELAYS 1           streams rest now and then; 0: never
 *   QUEUE 32           works that a stream takes before its caller waits
 *   GPUS 2             up to 8; 0: a driver that finds none
 *   MEMORY 2^32        bytes of each GPU
 *   PROCESSORS 2       multiprocessors of each GPU
 *   CAPABILITY 90      compute capability times ten; CAPABILITY_1: that of cuda:1
 *   DRIVER_VERSION 13000   of the newest CUDA that it runs; 0: no driver
 * Those of NCCL are in nccl/communicator.h.
 */

/** Settings by their names, and FAIL: the failures, separated by commas. */
export type Settings = Readonly<Record<string, number | string>>;

const FUNCTIONS = {
  cuda_platform_set: { parameters: ["buffer", "i64"], result: "i64" },
  cuda_platform_fail: { parameters: ["buffer"], result: "void" },
  cuda_platform_calls: { parameters: ["buffer", "i64"], result: "i64" },
  cuda_platform_reports: { parameters: [], result: "i64" },
} as const satisfies Deno.ForeignLibraryInterface;

function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

/** The stand-in that this process has loaded. */
export class StandIn {
  /** The folder that is a CUDA_HOME. */
  readonly home: string;
  readonly #functions: Deno.DynamicLibrary<typeof FUNCTIONS>["symbols"];

  constructor(home: string) {
    this.home = home;
    // Never closed: the library under test has it as well.
    this.#functions =
      Deno.dlopen(`${home}/lib64/libcudart.so.13`, FUNCTIONS).symbols;
  }

  /** How many faults it has reported in this process. */
  get reports(): number {
    return Number(this.#functions.cuda_platform_reports());
  }

  /**
   * Changes settings of this process until the end of the scope; those that were
   * not known are as the environment has them again.
   */
  with(settings: Readonly<Record<string, number>>): Disposable {
    const set = (name: string, value: number | bigint): bigint =>
      this.#functions.cuda_platform_set(cString(name), BigInt(value));
    const before = Object.entries(settings)
      .map(([name, value]) => [name, set(name, value)] as const);
    return {
      [Symbol.dispose](): void {
        for (const [name, value] of before) set(name, value);
      },
    };
  }

  /** Lets calls of this process fail; those that came to none are forgotten. */
  failing(failures: string): Disposable {
    this.#functions.cuda_platform_fail(cString(failures));
    return {
      [Symbol.dispose]: (): void =>
        this.#functions.cuda_platform_fail(cString("")),
    };
  }

  /** How often each function was called in this process. */
  calls(): Record<string, number> {
    let text = new Uint8Array(1 << 14);
    const bytes = this.#functions.cuda_platform_calls(
      text,
      BigInt(text.length),
    );
    if (bytes > text.length) throw new Error(`calls() needs ${bytes} bytes`);
    text = text.subarray(0, Number(bytes) - 1);
    return JSON.parse(new TextDecoder().decode(text));
  }

  /**
   * The calls that a function makes, and those it is awaited for. Kernels are
   * not among them: they run when they do.
   */
  async count(
    body: () => unknown,
  ): Promise<Record<string, number>> {
    const before = this.calls();
    await body();
    const made = Object.entries(this.calls())
      .map(([name, count]) => [name, count - (before[name] ?? 0)] as const)
      .filter(([name, count]) => name !== "kernel" && count > 0);
    return Object.fromEntries(made);
  }

  /** Variables for a process that the test starts. */
  environment(settings: Settings = {}): Record<string, string> {
    return Object.fromEntries(
      Object.entries(settings)
        .map(([name, value]) => [`CUDA_PLATFORM_${name}`, `${value}`]),
    );
  }
}
