/** What the GPU's memory, pinned memory and the calls of CUDA cost. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  DDPLoss,
  Device,
  matmul,
  Metrics,
  OutOfMemoryError,
  type Tensor,
} from "../mod.ts";
import type { StandIn } from "./cuda_platform/control.ts";
import { standInTest, testOnDevices } from "./devices.ts";

const MEGABYTE = 1 << 20;

/** Floats of so many bytes, no two neighbours alike. */
function pattern(bytes: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: bytes / 4 }, (_, i) => i % 8191);
}

/** Fails if they differ; assertEquals() takes long for so many. */
function assertSame(actual: ArrayLike<number>, expected: Float32Array): void {
  assertEquals(actual.length, expected.length);
  const at = expected.findIndex((x, i) => x !== actual[i]);
  assertEquals(at, -1, `element ${at} differs`);
}

/** Keeps the GPU busy for some time. */
function keepBusy(device: Device): Tensor {
  using square = device.zeros([400, 400]);
  return matmul(square, square);
}

const CUDA = {
  cudaSetDevice: { parameters: ["i32"], result: "i32" },
  cudaGetDevice: { parameters: ["buffer"], result: "i32" },
  cudaDeviceGetDefaultMemPool: { parameters: ["buffer", "i32"], result: "i32" },
  cudaMemPoolGetAttribute: {
    parameters: ["u64", "i32", "buffer"],
    result: "i32",
  },
} as const;

/** Functions of CUDA as another library of this process calls them. */
function otherLibrary(
  standIn: StandIn,
): Deno.DynamicLibrary<typeof CUDA>["symbols"] {
  return Deno.dlopen(`${standIn.home}/lib64/libcudart.so.13`, CUDA).symbols;
}

testOnDevices(
  "data() is the value at the call, whatever is enqueued before it is read",
  async (device) => {
    const bytes = fc.oneof(
      fc.integer({ min: 1, max: 600 }),
      fc.constantFrom(
        256,
        257,
        MEGABYTE / 4,
        MEGABYTE,
        MEGABYTE + 1,
        9 * MEGABYTE / 4,
      ),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(bytes, { minLength: 1, maxLength: 4 }),
        async (lengths) => {
          const reads = lengths.map((length) => {
            const first = pattern(4 * length);
            using tensor = device.tensor(first);
            const read = tensor.data();
            tensor.copy_(new Float32Array(length).fill(-1));
            return { first, read, second: tensor.data() };
          });
          for (const { first, read, second } of reads) {
            assertSame(await read as Float32Array, first);
            assert((await second as Float32Array).every((x) => x === -1));
          }
        },
      ),
      { numRuns: 10 },
    );
  },
);

standInTest(
  "small uploads behind large copies share one pinned block and do not wait",
  async (device, standIn) => {
    using large = device.tensor(pattern(8 * MEGABYTE));
    await large.data();
    using small = device.empty([1]);
    using _busy = keepBusy(device);
    small.copy_(new Float32Array([0])); // begins a block
    const made = await standIn.count(() => {
      for (let i = 1; i <= 10; i++) small.copy_(new Float32Array([i]));
    });
    assertEquals(made, { cudaGetDevice: 10, cudaMemcpyAsync: 10 });
    assertEquals(await small.item(), 10);
  },
);

standInTest(
  "a download pins nothing in its call, and two blocks for any size",
  async (device, standIn) => {
    const array = pattern(24 * MEGABYTE);
    using large = device.tensor(array);
    // So that the thread that waits gets nothing yet.
    using _busy = keepBusy(device);
    let read: Promise<ArrayLike<number>>;
    const call = await standIn.count(() => {
      read = large.data() as Promise<ArrayLike<number>>;
      return undefined; // not to wait for it
    });
    assertEquals(call.cudaHostAlloc, undefined);
    const all = await standIn.count(async () => {
      await read;
      await Promise.all([large.data(), large.data()]);
    });
    assert((all.cudaHostAlloc ?? 0) <= 2, JSON.stringify(all));
    assertSame(await read!, array);
  },
);

standInTest(
  "a download of what does not fit the GPU twice is right, and one that is too large throws",
  async (device, standIn) => {
    const array = pattern(16 * MEGABYTE);
    using large = device.tensor(array);
    await device.releaseMemory(); // what earlier tests have left
    using outer = device.zeros([1]); // in memory that is kept for it
    const limit = inUse(device) + MEGABYTE;
    using _ = standIn.with({ MEMORY: limit });
    const read = large.data();
    large.copy_(new Float32Array(array.length));
    assertSame(await read as Float32Array, array);
    assertThrows(
      () => device.empty([4 * MEGABYTE]),
      OutOfMemoryError,
      "out of GPU memory",
    );
    assertEquals(await outer.item(), 0);
  },
);

/** Bytes of the GPU that are not free. */
function inUse(device: Device): number {
  const total = 2 ** 32; // the stand-in's
  return total - device.memory.free;
}

standInTest(
  "what one device of a GPU keeps is there for another",
  async (first, standIn) => {
    using second = await Device.open("cuda:0");
    first.empty([4 * MEGABYTE]).dispose();
    using _ = standIn.with({ MEMORY: inUse(first) + MEGABYTE });
    using tensor = second.tensor(pattern(16 * MEGABYTE));
    assertSame(await tensor.data() as Float32Array, pattern(16 * MEGABYTE));
  },
);

standInTest(
  "memory that is surplus goes back behind the work that still uses it",
  async (device, standIn) => {
    await device.releaseMemory(); // what earlier tests have left
    using _busy = keepBusy(device);
    device.zeros([MEGABYTE]).dispose();
    // More is kept now than ever was in use at once.
    const made = await standIn.count(() =>
      device.empty([2 * MEGABYTE]).dispose()
    );
    assert(made.cudaFreeAsync! > 0, JSON.stringify(made));
    await device.synchronize();
  },
);

standInTest(
  "Device.releaseMemory() gives memory back to the GPU",
  async (device) => {
    using second = await Device.open("cuda:0");
    await device.releaseMemory(); // what earlier tests have left
    const { free } = device.memory;
    device.empty([4 * MEGABYTE]).dispose();
    second.empty([5 * MEGABYTE]).dispose();
    assert(device.memory.free < free - 30 * MEGABYTE);
    await device.releaseMemory();
    // Or more: what earlier tests have left may be collected as garbage meanwhile.
    assert(device.memory.free >= free);
  },
);

standInTest(
  "opening a device and computing on it leave the process's pool and GPU as they were",
  async (_, standIn) => {
    const cuda = otherLibrary(standIn);
    const RELEASE_THRESHOLD = 4;
    const pool = new BigUint64Array(1), threshold = new BigUint64Array([7n]);
    const ordinal = new Int32Array(1);
    const current = (): number => {
      assertEquals(cuda.cudaGetDevice(ordinal), 0);
      return ordinal[0]!;
    };
    assertEquals(cuda.cudaSetDevice(1), 0);
    try {
      using device = await Device.open("cuda:0");
      assertEquals(current(), 1);
      using input = device.tensor(new Float32Array([1, 2, 3]));
      using target = device.zeros([3]);
      using result = new DDPLoss("mse").valueAndGrad(input, target);
      assertEquals(current(), 1);
      await result.value.item();
      assertEquals(cuda.cudaDeviceGetDefaultMemPool(pool, 0), 0);
      assertEquals(
        cuda.cudaMemPoolGetAttribute(pool[0]!, RELEASE_THRESHOLD, threshold),
        0,
      );
      assertEquals(threshold[0], 0n);
      device.dispose();
      assertEquals(current(), 1);
    } finally {
      cuda.cudaSetDevice(0);
    }
  },
);

standInTest(
  "a step is one launch, and the calls of CUDA are those it needs",
  async (device, standIn) => {
    const rows = 40;
    using input = device.tensor(pattern(12 * rows), [rows, 3]);
    using target = device.zeros([rows, 3]);
    using natoms = device.tensor(new Int32Array([rows]));
    using metrics = new Metrics(device);
    const loss = new DDPLoss("l2norm");
    const step = (): void => loss.valueAndGrad(input, target)[Symbol.dispose]();
    const add = (): void => metrics.add({ natoms, forces: { input, target } });
    step(), add(); // makes the blocks
    await device.synchronize();
    assertEquals(await standIn.count(step), {
      cudaGetDevice: 1,
      cudaLaunchKernel: 1,
    });
    assertEquals(await standIn.count(add), {
      cudaGetDevice: 1,
      cudaLaunchKernel: 3,
    });
    using value = loss.forward(input, target);
    await device.synchronize();
    // In the call, and on the thread that waits.
    assertEquals(await standIn.count(() => value.item()), {
      cudaGetDevice: 2,
      cudaMemcpyAsync: 1,
      cudaEventRecord: 1,
      cudaEventSynchronize: 1,
    });
    const waiting = await standIn.count(() => device.synchronize());
    assertEquals(waiting.cudaStreamSynchronize, undefined); // it spins
  },
);
