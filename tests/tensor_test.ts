import {
  assert,
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  ArgumentError,
  Device,
  DeviceError,
  DisposedError,
  DTypeError,
  MAELoss,
  OutOfMemoryError,
  ShapeError,
  type TensorData,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";

const HALF_ONE = 0x3f80; // 1.0 in bfloat16

testOnDevices("tensor() keeps the elements of every dtype", async (device) => {
  const arrays: [TensorData, Parameters<typeof device.zeros>[1]][] = [
    [new Float32Array([1.5, -2, NaN]), "float32"],
    [new Float64Array([1e300, -0, Infinity]), "float64"],
    [new Float16Array([0.5, 65504, -1]), "float16"],
    [new Uint16Array([HALF_ONE, 0, 0xff80]), "bfloat16"],
    [new Int32Array([1, -2, 2147483647]), "int32"],
    [new BigInt64Array([1n, -(2n ** 62n), 0n]), "int64"],
    [new Uint8Array([0, 1, 1]), "bool"],
  ];
  for (const [data, dtype] of arrays) {
    using tensor = device.tensor(data, [3], dtype);
    assertEquals(tensor.dtype, dtype);
    assertEquals(await tensor.data(), data);
  }
});

testOnDevices(
  "tensor() takes dtype and shape from the array when none are given",
  (device) => {
    using tensor = device.tensor(new Float64Array(4));
    assertEquals(tensor.dtype, "float64");
    assertEquals(tensor.shape, [4]);
    assertEquals(tensor.size, 4);
    assertEquals(tensor.byteLength, 32);
    assertStrictEquals(tensor.device, device);
  },
);

testOnDevices("tensor() rejects data that does not fit", (device) => {
  assertThrows(
    () => device.tensor(new Float32Array(5), [2, 3]),
    ShapeError,
    "[2, 3] has 6",
  );
  assertThrows(
    () => device.tensor(new Float32Array(1), [-1]),
    ShapeError,
    "[-1]",
  );
  assertThrows(() => device.tensor(new Float32Array(1), [0.5, 2]), ShapeError);
  assertThrows(
    () => device.tensor(new Uint16Array(1)),
    DTypeError,
    "must be named",
  );
  assertThrows(
    () => device.tensor(new Uint8Array(1)),
    DTypeError,
    "must be named",
  );
  assertThrows(
    () => device.tensor(new Float32Array(1), [1], "float64"),
    DTypeError,
    "Float64Array",
  );
  assertThrows(() => device.zeros([1], "int8" as "int32"), DTypeError, "int8");
  assertThrows(() => device.zeros([2 ** 40, 2 ** 40]), ShapeError);
  assertThrows(
    () => device.tensor([1, 2] as unknown as TensorData),
    DTypeError,
  );
});

testOnDevices("zeros() is zero although blocks are reused", async (device) => {
  device.tensor(new Float32Array(1000).fill(7)).dispose();
  using zeros = device.zeros([1000]);
  assertEquals(await zeros.data(), new Float32Array(1000));
});

testOnDevices(
  "a tensor without elements can be made and read",
  async (device) => {
    using empty = device.tensor(new Float32Array(0), [0, 3]);
    assertEquals(empty.size, 0);
    assertEquals(await empty.toList(), []);
    await assertRejects(() => empty.item(), ShapeError);
  },
);

testOnDevices("item() needs one element", async (device) => {
  using one = device.tensor(new BigInt64Array([41n]), []);
  assertEquals(await one.item(), 41);
  using bits = device.tensor(new Uint16Array([HALF_ONE]), [1], "bfloat16");
  assertEquals(await bits.item(), 1);
  using two = device.zeros([2]);
  await assertRejects(() => two.item(), ShapeError, "[2]");
});

testOnDevices("data() is the value at the time of the call", async (device) => {
  using tensor = device.tensor(new Float32Array([1, 2]));
  const before = tensor.data();
  tensor.copy_(new Float32Array([3, 4]));
  assertEquals(await before, new Float32Array([1, 2]));
  assertEquals(await tensor.data(), new Float32Array([3, 4]));
});

testOnDevices("data() may be awaited after dispose()", async (device) => {
  const tensor = device.tensor(new Float32Array([1, 2]));
  const data = tensor.data();
  tensor.dispose();
  device.tensor(new Float32Array([5, 6])).dispose();
  assertEquals(await data, new Float32Array([1, 2]));
});

testOnDevices(
  "copy_() copies between tensors and rejects what does not fit",
  async (device) => {
    using a = device.tensor(new Float32Array([1, 2]));
    using b = device.zeros([2]);
    assertStrictEquals(b.copy_(a), b);
    assertEquals(await b.toList(), [1, 2]);
    using c = device.zeros([3]);
    assertThrows(() => c.copy_(a), ShapeError, "[2]");
    assertThrows(() => c.copy_(new Float32Array(2)), ShapeError);
    assertThrows(() => c.copy_(new Float64Array(3)), DTypeError);
    using d = device.zeros([2], "float64");
    assertThrows(() => d.copy_(a), DTypeError);
  },
);

testOnDevices(
  "reshape() shares memory until the last tensor on it is disposed",
  async (device) => {
    const before = device.memory.tensors;
    const flat = device.tensor(new Float32Array([1, 2, 3, 4, 5, 6]));
    const matrix = flat.reshape([2, 3]);
    assertEquals(matrix.shape, [2, 3]);
    assertEquals(device.memory.tensors, before + 1);
    matrix.copy_(new Float32Array([6, 5, 4, 3, 2, 1]));
    assertEquals(await flat.toList(), [6, 5, 4, 3, 2, 1]);
    flat.dispose();
    flat.dispose();
    assertThrows(() => flat.reshape([6]), DisposedError);
    assertEquals(await matrix.toList(), [6, 5, 4, 3, 2, 1]);
    assertThrows(
      () => matrix.reshape([4]),
      ShapeError,
      "[2, 3], 6 elements, to [4]",
    );
    assertThrows(() =>
      new MAELoss().forward(matrix, matrix, null, {
        out: matrix.reshape([2, 3]),
      }), ArgumentError);
    matrix.dispose();
  },
);

testOnDevices("a large copy is complete", async (device) => {
  const data = Float32Array.from({ length: 3_000_001 }, (_, i) => i);
  using a = device.tensor(data);
  using b = device.zeros([data.length]);
  b.copy_(a);
  assertEquals(await b.data(), data);
});

testOnDevices(
  "a disposed tensor throws when used, and may be disposed again",
  async (device) => {
    const tensor = device.zeros([2]);
    tensor.dispose();
    tensor.dispose();
    assert(tensor.disposed);
    assertThrows(() => tensor.pointer, DisposedError, "float32[2]");
    await assertRejects(() => tensor.data(), DisposedError);
    assertThrows(() => tensor.copy_(new Float32Array(2)), DisposedError);
  },
);

testOnDevices("a tensor throws when its device is disposed", async (outer) => {
  const device = await Device.open(outer.name);
  const tensor = device.zeros([2]);
  device.dispose();
  device.dispose();
  assert(tensor.disposed);
  assertThrows(() => tensor.pointer, DisposedError, "with its device");
  assertThrows(() => device.zeros([2]), DisposedError);
  await assertRejects(() => device.synchronize(), DisposedError);
  tensor.dispose();
});

testOnDevices(
  "an impossible size is an OutOfMemoryError and the device stays usable",
  async (device) => {
    const error = assertThrows(() => device.empty([2 ** 50]), OutOfMemoryError);
    assert(error.message.includes(String(2 ** 52)), error.message);
    assert(error.message.includes("free"), error.message);
    assert(/0 tensors hold 0.0 MB of \S+\./.test(error.message), error.message);
    assert(error.message.includes("`using`"), error.message);
    using fine = device.tensor(new Float32Array([1]));
    assertEquals(await fine.item(), 1);
  },
);

testOnDevices(
  "tensors that are never disposed are told of, once, before memory is out",
  (device) => {
    const warnings: string[] = [];
    const { warn } = console;
    console.warn = (text: string) => warnings.push(text);
    try {
      // The pages are not touched: on a CPU they take nothing.
      const { free } = device.memory;
      const size = Math.ceil(free / 10 / 4);
      const kept = [];
      for (let i = 0; i < 3; i++) kept.push(device.empty([size]));
      for (let i = 0; i < 30; i++) device.empty([size]).dispose();
      assertEquals(warnings, []);
      while (warnings.length === 0 && kept.length < 20) {
        kept.push(device.empty([size]));
      }
      // Half of what there was, or, where pages are not touched, all of it.
      assert(kept.length >= 5 && kept.length <= 14, `${kept.length} tensors`);
      const [warning] = warnings;
      assert(warning!.includes(`${kept.length} tensors hold`), warning);
      assert(warning!.includes("`using`"), warning);
      assert(warning!.includes(`of ${device.name}`), warning);
      kept.push(device.empty([10]));
      assertEquals(warnings.length, 1);
      for (const tensor of kept) tensor.dispose();
    } finally {
      console.warn = warn;
    }
  },
);

testOnDevices("memory counts tensors and reuses their blocks", (device) => {
  const before = device.memory;
  const a = device.empty([100_000]);
  const { tensors, used } = device.memory;
  assertEquals(tensors, before.tensors + 1);
  assert(used - before.used >= 400_000);
  const address = Deno.UnsafePointer.value(a.pointer);
  a.dispose();
  assertEquals(device.memory.tensors, before.tensors);
  using b = device.empty([100_000]);
  assertEquals(Deno.UnsafePointer.value(b.pointer), address);
});

testOnDevices(
  "memory comes back when tensors are forgotten",
  async (device) => {
    // --expose-gc is not needed: garbage enough makes the collector run.
    const before = device.memory.tensors;
    for (let i = 0; i < 200_000; i++) device.empty([1]);
    for (let i = 0; i < 100 && device.memory.tensors - before > 150_000; i++) {
      new Array(1_000_000).fill(i);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    assert(device.memory.tensors - before <= 150_000, "nothing was finalized");
  },
);

Deno.test("Device.open() rejects what is no device", async () => {
  await assertRejects(() => Device.open("gpu"), ArgumentError, "'gpu'");
  await assertRejects(() => Device.open("cpu:1"), ArgumentError);
  await assertRejects(() => Device.open("cuda:x"), ArgumentError);
  await assertRejects(() => Device.open(""), ArgumentError);
});

Deno.test("tensors of two devices cannot be mixed", async () => {
  using one = await Device.open("cpu");
  using two = await Device.open("cpu");
  using a = one.zeros([2]);
  using b = two.zeros([2]);
  assertThrows(() => a.copy_(b), DeviceError, "same Device object");
});

Deno.test("Device.count() counts one CPU", async () => {
  assertEquals(await Device.count("cpu"), 1);
});

testOnDevices(
  "a device may be disposed while data() and synchronize() are under way",
  async (outer) => {
    const device = await Device.open(outer.name);
    const tensor = device.tensor(new Float32Array([1, 2, 3]));
    const [data, done] = [tensor.data(), device.synchronize()];
    device.dispose();
    assertEquals(await data, new Float32Array([1, 2, 3]));
    await done;
    assert(tensor.disposed);
  },
);
