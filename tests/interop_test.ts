import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertNotEquals,
  assertThrows,
} from "@std/assert";
import {
  ArgumentError,
  DDPLoss,
  DDPMTLoss,
  Device,
  DeviceError,
  DisposedError,
  type DType,
  DTypeError,
  matmul,
  MSELoss,
  ShapeError,
  Tensor,
  type TensorData,
} from "../mod.ts";
import type { NativeHandle } from "../ffi/native_handle.ts";
import { readDLPack } from "../tensor/dlpack.ts";
import { emptyArray } from "../tensor/dtype.ts";
import { testOnDevices } from "./devices.ts";
import { Capsule, type CapsuleOptions } from "./dlpack_capsule.ts";
import { collectGarbage } from "./garbage.ts";
import { leaked } from "./held.ts";
import { randomNumbers } from "./random.ts";

/** Elements of every dtype, and the dtype as DLPack writes it. */
const ARRAYS: [TensorData, DType, [number, number, number]][] = [
  [new Float32Array([1.5, -2, NaN, 0]), "float32", [2, 32, 1]],
  [new Float64Array([1e300, -0, Infinity, 3]), "float64", [2, 64, 1]],
  [new Float16Array([0.5, 65504, -1, 0]), "float16", [2, 16, 1]],
  [new Uint16Array([0x3f80, 0, 0xff80, 1]), "bfloat16", [4, 16, 1]],
  [new Int32Array([1, -2, 2147483647, 0]), "int32", [0, 32, 1]],
  [new BigInt64Array([1n, -(2n ** 62n), 0n, 5n]), "int64", [0, 64, 1]],
  [new Uint8Array([0, 1, 1, 0]), "bool", [6, 8, 1]],
];

/**
 * How many blocks are in use once disposed imports are given back: on a GPU that
 * is when it has done what was enqueued.
 */
async function memoryComesBack(device: Device): Promise<number> {
  for (let i = 0; i < 200 && device.memory.tensors > 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return device.memory.tensors;
}

const deleterType = { parameters: ["pointer"], result: "void" } as const;

/** The deleter of a struct that toDLPack made. */
function deleterOf(
  managed: NonNullable<Deno.PointerValue>,
  versioned = true,
): Deno.PointerObject<typeof deleterType> {
  const view = new Deno.UnsafePointerView(managed);
  return view.getPointer<typeof deleterType>(versioned ? 16 : 56)!;
}

function callDeleter(
  managed: NonNullable<Deno.PointerValue>,
  versioned = true,
): void {
  const deleter = deleterOf(managed, versioned);
  new Deno.UnsafeFnPointer(deleter, deleterType).call(managed);
}

function wrapArray(
  device: Device,
  array: Float32Array<ArrayBuffer>,
  shape: number[] = [array.length],
): Tensor {
  return device.wrap(Deno.UnsafePointer.of(array), shape, "float32", {
    keep: array,
  });
}

// wrap

Deno.test("wrap() shares the memory of a typed array of every dtype", async () => {
  using device = await Device.open("cpu");
  for (const [data, dtype] of ARRAYS) {
    const array = data.slice() as TensorData;
    const tensor = device.wrap(Deno.UnsafePointer.of(array), [2, 2], dtype, {
      keep: array,
    });
    assertEquals(tensor.dtype, dtype);
    assertEquals(tensor.shape, [2, 2]);
    assertEquals(await tensor.data(), data);
    tensor.copy_(emptyArray(dtype, 4));
    assertEquals([...array].map(Number), [0, 0, 0, 0]);
    assertEquals(device.memory.tensors, 0);
    tensor.dispose();
    tensor.dispose();
    assertThrows(() => tensor.pointer, DisposedError);
  }
});

testOnDevices(
  "wrap() does not free what it wraps when it is disposed",
  async (device) => {
    const owner = device.tensor(new Float32Array([1, 2, 3, 4]));
    const wrapped = device.wrap(owner.pointer, [2, 2], "float32");
    assertEquals(device.memory.tensors, 1);
    wrapped.copy_(new Float32Array([5, 6, 7, 8]));
    const view = wrapped.reshape([4]);
    wrapped.dispose();
    assertEquals(await view.toList(), [5, 6, 7, 8]);
    view.dispose();
    assertEquals(device.memory.tensors, 1);
    assertEquals(await owner.toList(), [5, 6, 7, 8]);
    owner.dispose();
    assertEquals(device.memory.tensors, 0);
  },
);

Deno.test("wrap() keeps its owner alive until all tensors on it are disposed", async () => {
  using device = await Device.open("cpu");
  // In a function of its own, so that nothing on the stack holds the array.
  const make = (): { tensor: Tensor; owner: WeakRef<Float32Array> } => {
    const array = new Float32Array([7, 8]);
    return { tensor: wrapArray(device, array), owner: new WeakRef(array) };
  };
  const { tensor, owner } = make();
  const view = tensor.reshape([2, 1]);
  tensor.dispose();
  await collectGarbage();
  assertEquals(owner.deref(), new Float32Array([7, 8]));
  assertEquals(await view.toList(), [7, 8]);
  view.dispose();
  await collectGarbage();
  assertEquals(owner.deref(), undefined);
});

Deno.test("wrap() of forgotten tensors lets go of an owner that has them", async () => {
  using device = await Device.open("cpu");
  const make = (): WeakRef<object> => {
    const array = new Float32Array([7, 8]);
    const model: { array: Float32Array; tensor?: Tensor } = { array };
    model.tensor = device.wrap(Deno.UnsafePointer.of(array), [2], "float32", {
      keep: model,
    });
    return new WeakRef(model);
  };
  const owner = make();
  await collectGarbage();
  assertEquals(owner.deref(), undefined);
});

Deno.test("wrap() of forgotten tensors lets go of its owner", async () => {
  using device = await Device.open("cpu");
  const make = (): WeakRef<Float32Array> => {
    const array = new Float32Array([7, 8]);
    wrapArray(device, array);
    return new WeakRef(array);
  };
  const owner = make();
  await collectGarbage();
  assertEquals(owner.deref(), undefined);
});

testOnDevices(
  "wrap() takes null where there are no elements",
  async (device) => {
    using empty = device.wrap(null, [0, 3], "float64");
    assertEquals(await empty.toList(), []);
    assert(empty.pointer !== null);
    using target = device.zeros([0, 3], "float64");
    using result = new DDPLoss("l2norm").valueAndGrad(empty, target);
    assertEquals(result.grad.shape, [0, 3]);
  },
);

testOnDevices("wrap() rejects what is no memory of its elements", (device) => {
  using block = device.zeros([8]);
  const { pointer } = block;
  assertThrows(
    () => device.wrap(null, [2, 3], "float64"),
    ArgumentError,
    "float64[2, 3] is null, expected the address of 48 bytes",
  );
  assertThrows(
    () => device.wrap(pointer, [2, -1], "float32"),
    ShapeError,
    "[2, -1]",
  );
  assertThrows(() => device.wrap(pointer, [0.5], "float32"), ShapeError);
  assertThrows(
    () => device.wrap(pointer, [2], "int8" as DType),
    DTypeError,
    "int8",
  );
  for (const [dtype, width] of [["float16", 2], ["float32", 4], ["int64", 8]]) {
    const odd = Deno.UnsafePointer.offset(pointer, Number(width) / 2);
    assertThrows(
      () => device.wrap(odd, [1], dtype as DType),
      ArgumentError,
      `a multiple of ${width}`,
    );
  }
  for (const none of [5, 5n, undefined, {}, new Float32Array(2)]) {
    assertThrows(
      () => device.wrap(none as never, [2], "float32"),
      ArgumentError,
      "expected a Deno.PointerObject",
    );
  }
});

testOnDevices(
  "wrap() needs a device, and so does its tensor",
  async (outer) => {
    const device = await Device.open(outer.name);
    const owner = device.zeros([2]);
    const wrapped = device.wrap(owner.pointer, [2], "float32");
    const { pointer } = owner;
    device.dispose();
    assertThrows(() => device.wrap(pointer, [2], "float32"), DisposedError);
    assertThrows(() => device.stream, DisposedError);
    assertThrows(() => wrapped.pointer, DisposedError, "with its device");
    wrapped.dispose();
  },
);

testOnDevices(
  "losses are the same on wrapped memory of any alignment",
  async (device) => {
    // Large enough for the stores that go past the caches.
    for (const rows of [5, 1300, 400_000]) {
      const size = 3 * rows;
      const numbers = new Float32Array(randomNumbers(2 * size, rows));
      const pred = numbers.subarray(0, size);
      const target = numbers.subarray(size);
      using ownPred = device.tensor(pred, [rows, 3]);
      using ownTarget = device.tensor(target, [rows, 3]);
      // One element off everything that is aligned.
      using block = device.zeros([3 * size + 3]);
      const at = (index: number): Tensor =>
        device.wrap(
          Deno.UnsafePointer.offset(
            block.pointer,
            4 * (1 + index * (size + 1)),
          ),
          [rows, 3],
          "float32",
        );
      using wrappedPred = at(0).copy_(ownPred);
      using wrappedTarget = at(1).copy_(ownTarget);
      using wrappedGrad = at(2);
      using value = device.zeros([]);
      for (const name of ["mae", "mse", "l2norm"]) {
        const ddp = new DDPLoss(name);
        using expected = ddp.valueAndGrad(ownPred, ownTarget);
        ddp.valueAndGrad(wrappedPred, wrappedTarget, null, {
          out: { value, grad: wrappedGrad },
        });
        assertAlmostEquals(
          await value.item(),
          await expected.value.item(),
          1e-6,
        );
        assertEquals(await wrappedGrad.data(), await expected.grad.data());
      }
    }
  },
);

testOnDevices(
  "the value of a loss cannot be written to memory of another library",
  (device) => {
    using block = device.zeros([8], "float64");
    using pred = device.zeros([4], "float64");
    using target = device.zeros([4], "float64");
    using value = device.wrap(block.pointer, [], "float64");
    using grad = device.wrap(
      Deno.UnsafePointer.offset(block.pointer, 32),
      [4],
      "float64",
    );
    using reshaped = value.reshape([]);
    const ddp = new DDPLoss("mse");
    for (const out of [value, reshaped]) {
      assertThrows(
        () => ddp.forward(pred, target, null, { out }),
        ArgumentError,
        "float64[]",
      );
    }
    assertThrows(
      () => ddp.valueAndGrad(pred, target, null, { out: { value, grad } }),
      ArgumentError,
      "memory of another library",
    );
    assertThrows(
      () =>
        new DDPMTLoss("mse").forward(pred, target, null, null, { out: value }),
      ArgumentError,
      "memory of another library",
    );
    using own = device.zeros([], "float64");
    // A gradient has the size that its dtype says.
    ddp.valueAndGrad(pred, target, null, { out: { value: own, grad } });
  },
);

testOnDevices("out must not share memory with an input", async (device) => {
  using block = device.tensor(new Float32Array(12).fill(1));
  const at = (first: number, length: number, shape = [length]): Tensor =>
    device.wrap(
      Deno.UnsafePointer.offset(block.pointer, 4 * first),
      shape,
      "float32",
    );
  using pred = at(4, 4);
  using target = device.zeros([4]);
  const loss = new MSELoss();
  for (const first of [1, 3, 4, 5, 7]) {
    using out = at(first, 4);
    assertThrows(
      () => loss.forward(pred, target, null, { out }),
      ArgumentError,
      "share memory",
    );
    assertThrows(
      () => loss.forward(target, pred, null, { out }),
      ArgumentError,
    );
    assertThrows(
      () => loss.backward(target, target, null, pred, { out }),
      ArgumentError,
    );
  }
  for (const first of [0, 8]) {
    using out = at(first, 4);
    loss.forward(pred, target, null, { out });
    assertEquals(await out.toList(), [1, 1, 1, 1]);
  }
  using matrix = at(4, 4, [2, 2]);
  using out = at(7, 4, [2, 2]);
  assertThrows(() => matmul(matrix, matrix, { out }), ArgumentError);
});

testOnDevices("copy_() rejects a source that overlaps", async (device) => {
  using block = device.tensor(new Float32Array([1, 2, 3, 4]));
  using head = device.wrap(block.pointer, [3], "float32");
  using same = device.wrap(block.pointer, [3], "float32");
  using tail = device.wrap(
    Deno.UnsafePointer.offset(block.pointer, 4),
    [3],
    "float32",
  );
  assertThrows(() => tail.copy_(head), ArgumentError, "overlaps");
  assertThrows(() => head.copy_(tail), ArgumentError, "overlaps");
  head.copy_(same);
  assertEquals(await block.toList(), [1, 2, 3, 4]);
});

// DLPack, import

Deno.test("fromDLPack() borrows every dtype by both structs", async () => {
  using device = await Device.open("cpu");
  for (const versioned of [true, false]) {
    for (const [data, dtype, code] of ARRAYS) {
      using capsule = new Capsule({
        versioned,
        data,
        shape: [2, 2],
        dtype: code,
      });
      const tensor = Tensor.fromDLPack(device, capsule.pointer, { versioned });
      assertEquals(tensor.dtype, dtype);
      assertEquals(tensor.shape, [2, 2]);
      assertEquals(
        Deno.UnsafePointer.value(tensor.pointer),
        Deno.UnsafePointer.value(Deno.UnsafePointer.of(data)),
      );
      assertEquals(await tensor.data(), data);
      assertEquals(capsule.deletions, 0);
      tensor.dispose();
      assertEquals(capsule.deletions, 1);
    }
  }
  assertEquals(device.memory.tensors, 0);
});

Deno.test("fromDLPack() calls the deleter once, after the last tensor", async () => {
  using device = await Device.open("cpu");
  using capsule = new Capsule();
  const tensor = Tensor.fromDLPack(device, capsule.pointer);
  const view = tensor.reshape([2, 3]);
  tensor.dispose();
  tensor.dispose();
  assertEquals(capsule.deletions, 0);
  assertEquals(await view.toList(), [1, 2, 3, 4, 5, 6]);
  view.dispose();
  view.dispose();
  assertEquals(capsule.deletions, 1);
});

Deno.test("fromDLPack() calls the deleter once when the tensor is forgotten", async () => {
  using device = await Device.open("cpu");
  using capsule = new Capsule();
  using kept = new Capsule();
  const tensor = Tensor.fromDLPack(device, kept.pointer);
  // In a function of its own, so that nothing on the stack holds the tensor.
  (() => Tensor.fromDLPack(device, capsule.pointer))();
  await collectGarbage();
  await collectGarbage();
  assertEquals(capsule.deletions, 1);
  assertEquals(kept.deletions, 0);
  tensor.dispose();
});

Deno.test("fromDLPack() calls the deleter when the device went first", async () => {
  using capsule = new Capsule();
  const device = await Device.open("cpu");
  const tensor = Tensor.fromDLPack(device, capsule.pointer);
  device.dispose();
  assertThrows(() => tensor.pointer, DisposedError);
  assertEquals(capsule.deletions, 0);
  tensor.dispose();
  assertEquals(capsule.deletions, 1);
});

Deno.test("fromDLPack() takes every struct that describes dense rows", async () => {
  using device = await Device.open("cpu");
  const data = new Float32Array([1, 2, 3, 4, 5, 6]);
  const cases: [string, CapsuleOptions, number[], number[]][] = [
    ["no strides", { shape: [2, 3] }, [2, 3], [...data]],
    ["strides", { shape: [2, 3], strides: [3, 1] }, [2, 3], [...data]],
    [
      "any stride along dimensions of one",
      { shape: [1, 6, 1], strides: [99, 1, -7] },
      [1, 6, 1],
      [...data],
    ],
    [
      "any stride without elements",
      { shape: [2, 0, 3], strides: [5, 5, 5] },
      [2, 0, 3],
      [],
    ],
    ["null without elements", { data: null, shape: [0, 3] }, [0, 3], []],
    ["a scalar", { shape: null, ndim: 0 }, [], [1]],
    ["an offset", { shape: [2], byteOffset: 12 }, [2], [4, 5]],
    ["page-locked memory", { deviceType: 3, deviceId: 2 }, [6], [...data]],
    ["a later minor version", { version: [1, 9] }, [6], [...data]],
    ["flags of which none matters to a reader", { flags: 0b111n }, [6], [
      ...data,
    ]],
    ["no deleter", { deleter: null }, [6], [...data]],
  ];
  for (const [name, options, shape, elements] of cases) {
    using capsule = new Capsule({ data, ...options });
    const tensor = Tensor.fromDLPack(device, capsule.pointer);
    assertEquals(tensor.shape, shape, name);
    assertEquals(await tensor.toList(), elements, name);
    tensor.dispose();
    assertEquals(capsule.deletions, options.deleter === null ? 0 : 1, name);
  }
});

Deno.test("fromDLPack() rejects what it cannot use and leaves it to its owner", async () => {
  using device = await Device.open("cpu");
  type ErrorClass = new (...args: never[]) => Error;
  const cases: [CapsuleOptions, ErrorClass, string][] = [
    [{ version: [2, 0] }, ArgumentError, "version 2.0, expected 1.x"],
    [{ version: [0, 8] }, ArgumentError, "version 0.8"],
    [{ deviceType: 2 }, DeviceError, "kDLCUDA (2) with id 0, expected kDLCPU"],
    [{ deviceType: 13 }, DeviceError, "kDLCUDAManaged"],
    [{ deviceType: 8 }, DeviceError, "type 8"],
    [{ dtype: [0, 8, 1] }, DTypeError, "int8, expected one of float32"],
    [{ dtype: [1, 32, 1] }, DTypeError, "uint32"],
    [{ dtype: [5, 64, 1] }, DTypeError, "complex64"],
    [{ dtype: [4, 32, 1] }, DTypeError, "bfloat32"],
    [{ dtype: [6, 1, 1] }, DTypeError, "bool1"],
    [{ dtype: [10, 8, 1] }, DTypeError, "code 10, bits 8"],
    [{ dtype: [2, 32, 4] }, DTypeError, "float32 of 4 lanes"],
    [{ dtype: [2, 32, 0] }, DTypeError, "float32 of 0 lanes"],
    [{ ndim: -1 }, ArgumentError, "ndim -1"],
    [{ ndim: 65 }, ArgumentError, "ndim 65"],
    [{ ndim: 2, shape: null }, ArgumentError, "ndim 2 and no shape"],
    [{ shape: [2, -3] }, ShapeError, "[2, -3]"],
    [{ shape: [2, -3], strides: [-3, 1] }, ShapeError, "[2, -3]"],
    [
      { shape: [2, 3], strides: [1, 2] },
      ArgumentError,
      "shape [2, 3] has strides [1, 2], expected the dense, row-major [3, 1]",
    ],
    [{ shape: [2, 3], strides: [0, 1] }, ArgumentError, "strides [0, 1]"],
    [{ shape: [3], strides: [2] }, ArgumentError, "strides [2]"],
    [{ shape: [1, 3], strides: [3, -1] }, ArgumentError, "strides [3, -1]"],
    [{ data: null, shape: [2] }, ArgumentError, "float32[2] is null"],
    [{ byteOffset: 2, shape: [1] }, ArgumentError, "a multiple of 4"],
  ];
  for (const [options, ErrorClass, message] of cases) {
    using capsule = new Capsule(options);
    assertThrows(
      () => Tensor.fromDLPack(device, capsule.pointer),
      ErrorClass,
      message,
    );
    assertEquals(capsule.deletions, 0);
  }
  assertThrows(() => Tensor.fromDLPack(device, null), ArgumentError, "null");
  assertThrows(
    () => Tensor.fromDLPack(device, 5n as never),
    ArgumentError,
    "expected a Deno.PointerObject",
  );
});

Deno.test("fromDLPack() of an unversioned struct says which option it needs", async () => {
  using device = await Device.open("cpu");
  using capsule = new Capsule({ versioned: false });
  assertThrows(
    () => Tensor.fromDLPack(device, capsule.pointer),
    ArgumentError,
    "{ versioned: false }",
  );
  assertEquals(capsule.deletions, 0);
});

Deno.test("fromDLPack() on a disposed device leaves the struct to its owner", async () => {
  using capsule = new Capsule();
  const device = await Device.open("cpu");
  device.dispose();
  assertThrows(
    () => Tensor.fromDLPack(device, capsule.pointer),
    DisposedError,
  );
  assertEquals(capsule.deletions, 0);
});

testOnDevices("fromDLPack() rejects memory of another device", (device) => {
  const other = device.type === "cpu" ? [2, 0] : [2, 99];
  for (const [deviceType, deviceId] of [other, [8, 0]]) {
    using capsule = new Capsule({
      deviceType: deviceType!,
      deviceId: deviceId!,
    });
    assertThrows(
      () => Tensor.fromDLPack(device, capsule.pointer),
      DeviceError,
      device.name,
    );
  }
});

Deno.test("a borrowed tensor's deleter waits for the work of a device with a stream", async () => {
  using device = await Device.open("cpu");
  for (const status of [0, 1]) {
    using capsule = new Capsule();
    const work = Promise.withResolvers<number>();
    const native = {
      released: false,
      onThread: (call: () => Promise<number>) => call(),
      library: {
        symbols: {
          al_device_stream: (_handle: null, stream: BigUint64Array): number => {
            stream[0] = 256n;
            return 0;
          },
          al_synchronize: () => work.promise,
        },
        // A failure is told to whoever reads a result.
        check(status: number): void {
          if (status !== 0) throw new DeviceError("failed");
        },
      },
    };
    const { giveBack } = readDLPack(device, capsule.pointer, {});
    giveBack(native as unknown as NativeHandle);
    await new Promise((resolve) => setTimeout(resolve, 5));
    assertEquals(capsule.deletions, 0);
    work.resolve(status);
    await new Promise((resolve) => setTimeout(resolve, 5));
    assertEquals(capsule.deletions, 1);
    // A device that is closed has waited already.
    giveBack({ ...native, released: true } as unknown as NativeHandle);
    assertEquals(capsule.deletions, 2);
  }
});

// DLPack, export

testOnDevices(
  "toDLPack() and fromDLPack() give every dtype back by both structs",
  async (device) => {
    for (const versioned of [true, false]) {
      for (const [data, dtype] of ARRAYS) {
        using tensor = device.tensor(data, [2, 1, 2], dtype);
        const managed = tensor.toDLPack({ versioned });
        const same = Tensor.fromDLPack(device, managed, { versioned });
        assertEquals(same.dtype, dtype);
        assertEquals(same.shape, [2, 1, 2]);
        assertEquals(await same.data(), data);
        assertEquals(
          Deno.UnsafePointer.value(same.pointer),
          Deno.UnsafePointer.value(tensor.pointer),
        );
        same.dispose();
      }
    }
    assertEquals(await memoryComesBack(device), 0);
  },
);

testOnDevices("toDLPack() writes the struct of the specification", (device) => {
  using tensor = device.zeros([4, 2, 3], "bfloat16");
  for (const versioned of [true, false]) {
    const managed = tensor.toDLPack({ versioned });
    const view = new Deno.UnsafePointerView(managed);
    if (versioned) {
      assertEquals([view.getUint32(0), view.getUint32(4)], [1, 0]);
      assertEquals(view.getBigUint64(24), 0n);
    }
    const at = versioned ? 32 : 0;
    assertEquals(
      view.getBigUint64(at),
      Deno.UnsafePointer.value(tensor.pointer),
    );
    const ordinal = Number(device.name.split(":")[1] ?? 0);
    assertEquals(view.getInt32(at + 8), device.type === "cpu" ? 1 : 2);
    assertEquals(view.getInt32(at + 12), ordinal);
    assertEquals(view.getInt32(at + 16), 3);
    assertEquals(view.getUint8(at + 20), 4);
    assertEquals(view.getUint8(at + 21), 16);
    assertEquals(view.getUint16(at + 22), 1);
    const list = (offset: number): number[] => {
      const array = new Deno.UnsafePointerView(view.getPointer(at + offset)!);
      return [0, 1, 2].map((i) => Number(array.getBigInt64(8 * i)));
    };
    assertEquals(list(24), [4, 2, 3]);
    assertEquals(list(32), [6, 3, 1]);
    assertEquals(view.getBigUint64(at + 40), 0n);
    callDeleter(managed, versioned);
  }
  using empty = device.zeros([0, 3]);
  const managed = empty.toDLPack();
  assertEquals(new Deno.UnsafePointerView(managed).getPointer(32), null);
  callDeleter(managed);
});

testOnDevices(
  "toDLPack() keeps the block until the deleter is called, also when the tensor is disposed",
  async (device) => {
    for (const versioned of [true, false]) {
      const data = new Float32Array(1000).fill(7);
      const tensor = device.tensor(data);
      const address = Deno.UnsafePointer.value(tensor.pointer);
      const managed = tensor.toDLPack({ versioned });
      const again = tensor.toDLPack({ versioned });
      tensor.dispose();
      assertEquals(device.memory.tensors, 1);
      callDeleter(again, versioned);
      assertEquals(device.memory.tensors, 1);
      // Whoever asks for a block of this size gets another one.
      using next = device.tensor(new Float32Array(1000).fill(8));
      assertNotEquals(Deno.UnsafePointer.value(next.pointer), address);
      using lent = device.wrap(
        Deno.UnsafePointer.create(address),
        [1000],
        "float32",
      );
      assertEquals(await lent.data(), data);
      callDeleter(managed, versioned);
      assertEquals(device.memory.tensors, 1); // next
      using reused = device.empty([1000]);
      assertEquals(Deno.UnsafePointer.value(reused.pointer), address);
    }
    assertEquals(device.memory.tensors, 0);
  },
);

testOnDevices(
  "toDLPack() leaves the tensor usable after the deleter is called",
  async (device) => {
    using tensor = device.tensor(new Float32Array([1, 2]));
    callDeleter(tensor.toDLPack());
    assertEquals(device.memory.tensors, 1);
    using other = device.tensor(new Float32Array([3, 4]));
    assertEquals(await tensor.toList(), [1, 2]);
    assertEquals(await other.toList(), [3, 4]);
  },
);

testOnDevices(
  "toDLPack() keeps the block when the device is closed",
  async (outer) => {
    for (const versioned of [true, false]) {
      const device = await Device.open(outer.name);
      const tensor = device.tensor(new Float32Array(1000).fill(7));
      const managed = tensor.toDLPack({ versioned });
      await device.synchronize();
      if (versioned) tensor.dispose();
      device.dispose();
      tensor.dispose();
      // What was freed is handed out again.
      using _other = outer.tensor(new Float32Array(1000).fill(8));
      const data = new Deno.UnsafePointerView(managed)
        .getPointer(versioned ? 32 : 0);
      using lent = outer.wrap(data, [1000], "float32");
      assertEquals(await lent.data(), new Float32Array(1000).fill(7));
      callDeleter(managed, versioned);
    }
  },
);

Deno.test("toDLPack() blocks that outlive their device are freed by the deleter", async () => {
  const bytes = 16 << 20;
  const lend = async (): Promise<void> => {
    const device = await Device.open("cpu");
    const managed = device.zeros([bytes], "bool").toDLPack();
    device.dispose();
    callDeleter(managed);
  };
  const lendAll = async (times: number): Promise<void> => {
    for (let i = 0; i < times; i++) await lend();
  };
  const megabytes = await leaked(lendAll, 40); // of 8 times 16 MB each
  assert(megabytes < 64, `${megabytes.toFixed(1)} MB leaked`);
});

testOnDevices(
  "toDLPack() deleters may be called on other threads",
  async (device) => {
    const type = { ...deleterType, nonblocking: true } as const;
    const calls = Array.from({ length: 200 }, (_, i) => {
      const versioned = i % 2 === 0;
      using tensor = device.zeros([1 + i % 7]);
      const managed = tensor.toDLPack({ versioned });
      return new Deno.UnsafeFnPointer(
        deleterOf(managed, versioned) as Deno.PointerObject<typeof type>,
        type,
      ).call(managed);
    });
    // This thread uses the blocks meanwhile.
    for (let i = 0; i < 1000; i++) device.zeros([1 + i % 7]).dispose();
    await Promise.all(calls);
    assertEquals(device.memory.tensors, 0);
  },
);

testOnDevices(
  "toDLPack() rejects memory of another library, and disposed tensors",
  async (device) => {
    const owner = device.zeros([2]);
    const wrapped = device.wrap(owner.pointer, [2], "float32");
    const imported = Tensor.fromDLPack(device, owner.toDLPack());
    for (const foreign of [wrapped, imported]) {
      using view = foreign.reshape([1, 2]);
      for (const tensor of [foreign, view]) {
        assertThrows(
          () => tensor.toDLPack(),
          ArgumentError,
          "memory of another library",
        );
      }
      foreign.dispose();
    }
    owner.dispose();
    assertThrows(() => owner.toDLPack(), DisposedError);
    assertEquals(await memoryComesBack(device), 0);
  },
);

testOnDevices(
  "imported tensors take part in losses like any other",
  async (device) => {
    const lend = (tensor: Tensor): Tensor => {
      using owner = tensor;
      return Tensor.fromDLPack(device, owner.toDLPack());
    };
    const owner = device.tensor(new Float32Array([3, 4, 0, 0, 0, 1]), [2, 3]);
    const pred = Tensor.fromDLPack(device, owner.toDLPack());
    const grad = lend(device.zeros([2, 3]));
    const scalar = lend(device.zeros([]));
    const target = device.zeros([2, 3]);
    const value = device.zeros([]);
    const ddp = new DDPLoss("l2norm");
    ddp.valueAndGrad(pred, target, null, { out: { value, grad } });
    assertEquals(await value.item(), 3);
    const [x, y] = await grad.toList();
    assertAlmostEquals(x!, 0.3, 1e-6);
    assertAlmostEquals(y!, 0.4, 1e-6);
    assertThrows(
      () => ddp.forward(pred, target, null, { out: scalar }),
      ArgumentError,
      "memory of another library",
    );
    assertThrows(
      () =>
        ddp.valueAndGrad(pred, target, null, { out: { value, grad: owner } }),
      ArgumentError,
      "share memory",
    );
    for (const tensor of [owner, pred, grad, scalar, target, value]) {
      tensor.dispose();
    }
    assertEquals(await memoryComesBack(device), 0);
  },
);

// stream

testOnDevices("stream is the GPU's stream, and null on the CPU", (device) => {
  assertEquals(device.stream === null, device.type === "cpu");
});
