import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertThrows,
} from "@std/assert";
import {
  ArgumentError,
  Device,
  DeviceError,
  DisposedError,
  DTypeError,
  L2NormLoss,
  type Loss,
  MAELoss,
  MSELoss,
  PerAtomMAELoss,
  ShapeError,
  type Tensor,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import { randomNumbers } from "./random.ts";

/** The four losses with inputs of a shape they take. */
const LOSSES: readonly [Loss, readonly number[]][] = [
  [new MAELoss(), [7, 3]],
  [new MSELoss(), [7, 3]],
  [new PerAtomMAELoss(), [21, 1]],
  [new L2NormLoss(), [7, 3]],
  [new L2NormLoss(), [3, 7]],
];

async function sumOf(tensor: Tensor): Promise<number> {
  using owned = tensor;
  return (await owned.toList()).reduce((a, b) => a + b, 0);
}

testOnDevices("backward() is the derivative of forward()", async (device) => {
  using natoms = device.tensor(
    Int32Array.from({ length: 21 }, (_, i) => i % 5 + 1),
  );
  const h = 1e-6;
  for (const [loss, shape] of LOSSES) {
    const x = randomNumbers(21, 1);
    using pred = device.tensor(x, shape);
    using target = device.tensor(randomNumbers(21, 2), shape);
    using grad = loss.backward(pred, target, natoms);
    const analytic = await grad.toList();
    for (let i = 0; i < 21; i++) {
      const up = x.slice(), down = x.slice();
      up[i]! += h;
      down[i]! -= h;
      using predUp = device.tensor(up, shape);
      using predDown = device.tensor(down, shape);
      const numeric = (await sumOf(loss.forward(predUp, target, natoms)) -
        await sumOf(loss.forward(predDown, target, natoms))) / (2 * h);
      assertAlmostEquals(
        analytic[i]!,
        numeric,
        1e-6,
        `${loss.name} element ${i}`,
      );
    }
  }
});

testOnDevices(
  "backward() multiplies by gradOutput, of the shape of the unreduced loss",
  async (device) => {
    for (const [loss, shape] of LOSSES) {
      using natoms = device.tensor(new BigInt64Array(21).fill(2n));
      using pred = device.tensor(randomNumbers(21, 3), shape);
      using target = device.tensor(randomNumbers(21, 4), shape);
      using unreduced = loss.forward(pred, target, natoms);
      assertEquals(unreduced.shape, loss.outputShape(shape));
      using threes = device.tensor(
        new Float64Array(unreduced.size).fill(3),
        unreduced.shape,
      );
      using ones = loss.backward(pred, target, natoms);
      using scaled = loss.backward(pred, target, natoms, threes);
      const expected = (await ones.toList()).map((g) => 3 * g);
      const actual = await scaled.toList();
      expected.forEach((e, i) => assertAlmostEquals(actual[i]!, e, 1e-15));
      using wrong = device.zeros([unreduced.size + 1], "float64");
      assertThrows(
        () => loss.backward(pred, target, natoms, wrong),
        ShapeError,
        "gradOutput",
      );
      using other = device.zeros(unreduced.shape, "float32");
      assertThrows(
        () => loss.backward(pred, target, natoms, other),
        DTypeError,
        "gradOutput",
      );
    }
  },
);

testOnDevices(
  "gradients are 0 where prediction and reference agree",
  async (device) => {
    using natoms = device.tensor(new Int32Array(21).fill(3));
    for (const [loss, shape] of LOSSES) {
      using pred = device.tensor(randomNumbers(21, 5), shape);
      using grad = loss.backward(pred, pred, natoms);
      assertEquals(await grad.toList(), new Array(21).fill(0));
    }
  },
);

testOnDevices("forward() and backward() write to out", async (device) => {
  using natoms = device.tensor(new Int32Array(21).fill(3));
  for (const [loss, shape] of LOSSES) {
    using pred = device.tensor(randomNumbers(21, 6), shape);
    using target = device.tensor(randomNumbers(21, 7), shape);
    using fresh = loss.forward(pred, target, natoms);
    using out = device.zeros(fresh.shape, "float64");
    assert(loss.forward(pred, target, natoms, { out }) === out);
    assertEquals(await out.toList(), await fresh.toList());
    using grad = device.zeros(shape, "float64");
    assert(loss.backward(pred, target, natoms, null, { out: grad }) === grad);
    assert((await grad.toList()).some((g) => g !== 0));
    using wrong = device.zeros([2, 2], "float64");
    assertThrows(
      () => loss.forward(pred, target, natoms, { out: wrong }),
      ShapeError,
      "out is",
    );
    assertThrows(
      () => loss.backward(pred, target, natoms, null, { out: pred }),
      ArgumentError,
      "inputs",
    );
  }
});

testOnDevices("losses of no rows are empty", async (device) => {
  using natoms = device.tensor(new Int32Array(0));
  for (const [loss, shape] of LOSSES) {
    using pred = device.zeros([0, shape[1]!], "float64");
    using unreduced = loss.forward(pred, pred, natoms);
    using grad = loss.backward(pred, pred, natoms);
    assertEquals(unreduced.shape, loss.outputShape([0, shape[1]!]));
    assertEquals(await unreduced.toList(), []);
    assertEquals(grad.shape, pred.shape);
  }
});

testOnDevices(
  "losses reject inputs that do not belong together",
  async (device) => {
    using a = device.zeros([4, 3]);
    using b = device.zeros([3, 4]);
    using scalar = device.zeros([4]);
    using double = device.zeros([4, 3], "float64");
    using ints = device.zeros([4, 3], "int32");
    for (const loss of [new MAELoss(), new MSELoss(), new L2NormLoss()]) {
      assertThrows(
        () => loss.forward(a, b),
        ShapeError,
        "[3, 4], expected [4, 3]",
      );
      assertThrows(() => loss.backward(a, b), ShapeError);
      assertThrows(() => loss.forward(a, double), DTypeError, "float64");
      assertThrows(() => loss.forward(ints, ints), DTypeError, "int32");
      assertThrows(
        () => loss.forward(a, null as unknown as Tensor),
        ArgumentError,
        "null",
      );
      assertThrows(
        () => loss.forward({} as Tensor, a),
        ArgumentError,
        "object",
      );
    }
    // No broadcasting, also not of one column.
    using column = device.zeros([4, 1]);
    assertThrows(() => new MAELoss().forward(scalar, column), ShapeError);
    assertThrows(
      () => new L2NormLoss().forward(scalar, scalar),
      ShapeError,
      "[4]",
    );
    assertThrows(
      () => new L2NormLoss().forward(column, column),
      ShapeError,
      "[4, 1]",
    );

    using other = await Device.open(device.name);
    using elsewhere = other.zeros([4, 3]);
    assertThrows(() => new MAELoss().forward(a, elsewhere), DeviceError);
    const gone = device.zeros([4, 3]);
    gone.dispose();
    assertThrows(() => new MAELoss().forward(a, gone), DisposedError);
  },
);

testOnDevices("PerAtomMAELoss checks natoms", (device) => {
  const loss = new PerAtomMAELoss();
  using energy = device.zeros([4, 1]);
  using flat = device.zeros([4]);
  using forces = device.zeros([4, 3]);
  using natoms = device.tensor(new Int32Array([1, 2, 3, 4]));
  using column = device.tensor(new BigInt64Array(4).fill(1n), [4, 1]);
  using short = device.tensor(new Int32Array(3));
  using floats = device.zeros([4]);
  for (const pred of [energy, flat]) {
    loss.forward(pred, pred, natoms).dispose();
    loss.forward(pred, pred, column).dispose();
    assertThrows(() => loss.forward(pred, pred), ShapeError, "needs natoms");
    assertThrows(
      () => loss.forward(pred, pred, null),
      ShapeError,
      "needs natoms",
    );
    assertThrows(
      () => loss.forward(pred, pred, short),
      ShapeError,
      "[3], expected 4",
    );
    assertThrows(
      () => loss.forward(pred, pred, floats),
      DTypeError,
      "int32 or int64",
    );
  }
  assertThrows(
    () => loss.forward(forces, forces, natoms),
    ShapeError,
    "[4, 3]",
  );
});

testOnDevices("losses reach every element of large inputs", async (device) => {
  // More than one block and thread, a ragged end, and each half-precision type.
  const n = 100_003;
  for (const dtype of ["float32", "float64", "float16", "bfloat16"] as const) {
    const ones = { float16: 0x3c00, bfloat16: 0x3f80 };
    const make = (value: number): Tensor =>
      dtype === "float32"
        ? device.tensor(new Float32Array(n * 3).fill(value), [n, 3])
        : dtype === "float64"
        ? device.tensor(new Float64Array(n * 3).fill(value), [n, 3])
        : dtype === "float16"
        ? device.tensor(new Float16Array(n * 3).fill(value), [n, 3])
        : device.tensor(
          new Uint16Array(n * 3).fill(value === 0 ? 0 : ones.bfloat16),
          [n, 3],
          dtype,
        );
    using pred = make(1);
    using target = make(0);
    for (
      const [loss, each] of [[new MSELoss(), 1], [
        new L2NormLoss(),
        Math.sqrt(3),
      ]] as const
    ) {
      using unreduced = loss.forward(pred, target);
      for (const value of await unreduced.toList()) {
        if (Math.abs(value - each) > 0.01) assertEquals(value, each, dtype);
      }
      using grad = loss.backward(pred, target);
      const g = loss.name === "mse" ? 2 : 1 / Math.sqrt(3);
      for (const value of await grad.toList()) {
        if (Math.abs(value - g) > 0.01) assertEquals(value, g, dtype);
      }
    }
  }
});
