/** What a call of CUDA that fails leaves behind: nothing, and right numbers later. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  Adam,
  AtomlossError,
  DDPLoss,
  Device,
  matmul,
  MultiTaskLoss,
  type Tensor,
} from "../mod.ts";
import type { StandIn } from "./cuda_platform/control.ts";
import { standInTest } from "./devices.ts";
import { startProgram } from "./launch_replicas.ts";

/** What makes something, and what ends it. */
const PAIRS = [
  ["cudaStreamCreateWithPriority", "cudaStreamDestroy"],
  ["cudaEventCreateWithFlags", "cudaEventDestroy"],
  ["cudaMalloc", "cudaFree"],
  ["cudaHostAlloc", "cudaFreeHost"],
  ["cudaMemPoolCreate", "cudaMemPoolDestroy"],
  ["cudaMallocFromPoolAsync", "cudaFreeAsync"],
  ["cublasCreate", "cublasDestroy"],
] as const;

/** How often calls failed: those are counted, and made nothing. */
class Failures {
  readonly #times: Record<string, number> = {};

  add(call: string): void {
    this.#times[call] = this.of(call) + 1;
  }
  of(call: string): number {
    return this.#times[call] ?? 0;
  }
}

/** How many of each are made and not ended. */
function heldBy(standIn: StandIn, failed: Failures): Record<string, number> {
  const calls = standIn.calls();
  return Object.fromEntries(PAIRS.map(([make, end]) => [
    make,
    (calls[make] ?? 0) - (calls[end] ?? 0) - failed.of(make),
  ]));
}

/** What is held when nothing is being ended on another thread any more. */
async function heldAtRest(
  standIn: StandIn,
  failed: Failures,
): Promise<Record<string, number>> {
  for (let last = "";;) {
    const held = heldBy(standIn, failed);
    if (JSON.stringify(held) === last) return held;
    last = JSON.stringify(held);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Fails if there is not as much held, or will be when threads have ended. */
async function assertHeld(
  standIn: StandIn,
  failed: Failures,
  expected: Record<string, number>,
  message: string,
): Promise<void> {
  const text = JSON.stringify(expected);
  for (let tries = 0; tries < 200; tries++) {
    if (JSON.stringify(heldBy(standIn, failed)) === text) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assertEquals(heldBy(standIn, failed), expected, message);
}

/** Out of memory, as CUDA and cuBLAS say it. */
const codeOf = (call: string): number => call.startsWith("cublas") ? 3 : 2;

standInTest(
  "Device.open() that fails at any call of CUDA leaves nothing open",
  async (_, standIn) => {
    let opened: Device | undefined;
    const made = await standIn.count(async () => {
      opened = await Device.open("cuda:1");
    });
    opened!.dispose();
    const failed = new Failures();
    const before = await heldAtRest(standIn, failed);
    for (const [call, times] of Object.entries(made)) {
      for (let n = 1; n <= times; n++) {
        using _ = standIn.failing(`${call}:${n}:2`);
        const what = `${call}, number ${n}`;
        const open = async (): Promise<void> =>
          (await Device.open("cuda:1")).dispose();
        // To make another GPU current again can fail without harm.
        if (call === "cudaSetDevice") await open().catch(() => {});
        else await assertRejects(open, AtomlossError, call, what);
        failed.add(call);
        await assertHeld(standIn, failed, before, what);
      }
    }
  },
);

/** Copies to and from the device, small and large, and a product. */
async function crossAndMultiply(device: Device): Promise<void> {
  const array = Float32Array.from({ length: 1100 * 1000 }, (_, i) => i % 127);
  using large = device.tensor(array, [1100, 1000]);
  assert((await large.data()).every((x, i) => x === array[i]));
  using ones = device.tensor(new Float32Array(1000).fill(1), [1000, 1]);
  using sums = matmul(large, ones);
  const first = array.subarray(0, 1000).reduce((sum, x) => sum + x);
  assertEquals((await sums.data())[0], first);
  using scalar = device.tensor(new Float32Array([7]), []);
  assertEquals(await scalar.item(), 7);
}

standInTest(
  "copies and products that fail at any call of CUDA leave nothing open, and work afterwards",
  async (outer, standIn) => {
    const onNew = async (work: (device: Device) => Promise<void>) => {
      using device = await Device.open(outer.name);
      await work(device);
    };
    let made: Record<string, number> = {};
    await onNew(async (device) => {
      made = await standIn.count(() => crossAndMultiply(device));
    });
    const failed = new Failures();
    const before = await heldAtRest(standIn, failed);
    for (const [call, times] of Object.entries(made)) {
      for (const n of new Set([1, Math.ceil(times / 2), times])) {
        await onNew(async (device) => {
          {
            using _ = standIn.failing(`${call}:${n}:${codeOf(call)}`);
            try {
              await crossAndMultiply(device);
              // A block of memory can be done without.
              if (call === "cudaMallocFromPoolAsync") failed.add(call);
            } catch (error) {
              if (!(error instanceof AtomlossError)) throw error;
              failed.add(call);
              // cublasCreate() calls others itself.
              const [, told] = /(cu\w+)\(/.exec(error.message) ?? [];
              if (told === "cublasCreate" && told !== call) failed.add(told);
            }
          }
          await crossAndMultiply(device);
        });
        await assertHeld(standIn, failed, before, `${call}, number ${n}`);
      }
    }
  },
);

standInTest(
  "a launch that fails leaves later totals right",
  async (device, standIn) => {
    const names = Array.from({ length: 40 }, (_, i) => `task ${i}`);
    const loss = new MultiTaskLoss(
      Object.fromEntries(names.map((name) => [name, { loss: "mae" }])),
    );
    using target = device.zeros([3]);
    const totalOf = async (value: number): Promise<number> => {
      using input = device.tensor(new Float32Array(3).fill(value));
      const inputs = Object.fromEntries(
        names.map((name) => [name, { input, target }]),
      );
      using result = loss.valueAndGrad(inputs);
      return (await result.read()).total;
    };
    assertEquals(await totalOf(1), 40);
    {
      using _ = standIn.failing("cudaLaunchKernel:2:2");
      await assertRejects(() => totalOf(2), AtomlossError, "cudaLaunchKernel");
    }
    for (const value of [3, 4, 5, 6]) {
      assertEquals(await totalOf(value), 40 * value);
    }
  },
);

/** More parameters than a launch takes as arguments. */
const PARAMETERS = 60;

/** An optimizer and its parameters. */
class Training implements Disposable {
  readonly #params: readonly Tensor[];
  readonly #grads: readonly Tensor[];
  readonly #adam: Adam;

  constructor(device: Device) {
    const tensors = (scale: number): Tensor[] =>
      Array.from(
        { length: PARAMETERS },
        (_, i) => device.tensor(new Float32Array(1 + i).fill(scale * (1 + i))),
      );
    this.#params = tensors(1);
    this.#grads = tensors(0.1);
    this.#adam = new Adam(this.#params, { lr: 0.1 });
  }

  step(): void {
    this.#adam.step(this.#grads, { maxNorm: 1 });
  }

  /** All that a step changes. */
  async numbers(): Promise<unknown[]> {
    const changed = [...this.#params, ...this.#adam.state];
    return await Promise.all(changed.map((tensor) => tensor.toList()));
  }

  [Symbol.dispose](): void {
    for (const tensor of [...this.#params, ...this.#grads]) tensor.dispose();
    this.#adam.dispose();
  }
}

standInTest(
  "an optimizer's step that fails has changed nothing and is not counted",
  async (device, standIn) => {
    using right = new Training(device);
    const before = await right.numbers();
    const made = await standIn.count(() => right.step());
    right.step();
    const after = await right.numbers();
    for (const [call, times] of Object.entries(made)) {
      for (let n = 1; n <= times; n++) {
        using failed = new Training(device);
        await device.releaseMemory(); // so that memory is asked for
        {
          const failure = `${call}:${n}:2`;
          using _ = standIn.failing(`${failure},${failure}`); // memory is asked for twice
          assertThrows(
            () => failed.step(),
            AtomlossError,
            "",
            `${call}, number ${n}`,
          );
        }
        assertEquals(await failed.numbers(), before, `${call}, number ${n}`);
        failed.step();
        failed.step();
        assertEquals(await failed.numbers(), after, `${call}, number ${n}`);
      }
    }
  },
);

standInTest(
  "an error that others made with CUDA before is not a launch's",
  async (device, standIn) => {
    const { cudaSetDevice } =
      Deno.dlopen(`${standIn.home}/lib64/libcudart.so.13`, {
        cudaSetDevice: { parameters: ["i32"], result: "i32" },
      }).symbols;
    const INVALID_DEVICE = 101;
    using input = device.tensor(new Float32Array([1, 2]));
    using target = device.zeros([2]);
    assertEquals(cudaSetDevice(99), INVALID_DEVICE);
    using value = new DDPLoss("mae").forward(input, target);
    assertEquals(await value.item(), 1.5);
  },
);

standInTest(
  "dispose() does not throw after the GPU has failed, and ends all that it has",
  async (_, standIn) => {
    const job = startProgram(
      Deno.execPath(),
      ["run", "-A", "tests/fixtures/failing_gpu.ts", standIn.home],
      standIn.environment({ FAIL: "kernel:3:700" }),
    );
    const { code, stdout, stderr } = await job.finished();
    assertEquals(code, 0, stderr);
    const { error, made, ended } = JSON.parse(stdout);
    assertEquals(error, "DeviceError");
    assertEquals(ended, made);
    const lines = stderr.split("\n").filter((line) =>
      line.startsWith("atomloss:") && line.includes("before it was disposed")
    );
    assertEquals(lines.length, 1, stderr);
  },
);
