import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertThrows,
} from "@std/assert";
import {
  ArgumentError,
  DDPLoss,
  DDPMTLoss,
  DisposedError,
  DTypeError,
  type Loss,
  MSELoss,
  type OutOptions,
  registerLoss,
  type Shape,
  ShapeError,
  type Tensor,
  UnknownLossError,
  UnknownReductionError,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import { randomNumbers } from "./random.ts";

/** A loss written outside the package: twice the squared error. */
class DoubledMSE implements Loss {
  readonly name = "doubled_mse";
  readonly #mse = new MSELoss();

  outputShape(shape: Shape): Shape {
    return shape;
  }
  forward(
    pred: Tensor,
    target: Tensor,
    _natoms?: Tensor | null,
    options: OutOptions = {},
  ): Tensor {
    using once = this.#mse.forward(pred, target);
    return doubled(
      once,
      options.out ?? pred.device.zeros(pred.shape, pred.dtype),
    );
  }
  backward(
    pred: Tensor,
    target: Tensor,
    _natoms?: Tensor | null,
    gradOutput?: Tensor | null,
    options: OutOptions = {},
  ): Tensor {
    using once = this.#mse.backward(pred, target, null, gradOutput ?? null);
    return doubled(
      once,
      options.out ?? pred.device.zeros(pred.shape, pred.dtype),
    );
  }
}

/** out = 2 x, with what the package has: d/dx of x^2 at a reference of 0. */
function doubled(x: Tensor, out: Tensor): Tensor {
  using zero = x.device.zeros(x.shape, x.dtype);
  return new MSELoss().backward(x, zero, null, null, { out });
}

testOnDevices(
  "DDPLoss takes a Loss object and gives what the fused pass gives",
  async (device) => {
    const shape = [50, 3];
    const data = randomNumbers(150, 11);
    data[7] = NaN;
    data[8] = Infinity;
    using pred = device.tensor(data, shape);
    using target = device.tensor(randomNumbers(150, 12), shape);
    for (const reduction of ["mean", "sum"] as const) {
      const counts: number[] = [];
      const onNonFinite = (count: number): void => void counts.push(count);
      const own = new DDPLoss(new DoubledMSE(), reduction, { onNonFinite });
      const fused = new DDPLoss("mse", reduction, { onNonFinite });
      // An infinity becomes the largest finite number: leave it out of the sum.
      const finite = data.slice();
      finite[8] = NaN;
      using input = device.tensor(finite, shape);
      using a = own.valueAndGrad(input, target);
      using b = fused.valueAndGrad(input, target);
      assertAlmostEquals(await a.value.item(), 2 * await b.value.item(), 1e-12);
      const [ga, gb] = [await a.grad.toList(), await b.grad.toList()];
      ga.forEach((g, i) => assertAlmostEquals(g, 2 * gb[i]!, 1e-15));
      assertEquals([ga[7], ga[8]], [0, 0]);
      assertEquals(counts, [2, 2]);
      using forward = own.forward(input, target);
      assertAlmostEquals(await forward.item(), await a.value.item(), 1e-12);
    }
    using infinite = new DDPLoss(new DoubledMSE()).valueAndGrad(pred, target);
    assertEquals((await infinite.grad.toList())[8], 0);
  },
);

testOnDevices("DDPLoss finds a registered loss by name", async (device) => {
  registerLoss(`doubled_${device.name}`, () => new DoubledMSE());
  assertThrows(
    () => registerLoss("mae", () => new DoubledMSE()),
    ArgumentError,
    "'mae'",
  );
  using pred = device.tensor(new Float64Array([1, 2]));
  using target = device.zeros([2], "float64");
  using value = new DDPLoss(`doubled_${device.name}`).forward(pred, target);
  assertEquals(await value.item(), 5);
});

testOnDevices(
  "DDPLoss warns with the value, once it is read, when the input is not finite",
  async (device) => {
    const warnings: string[] = [];
    const warn = console.warn;
    console.warn = (text: string) => void warnings.push(text);
    try {
      using pred = device.tensor(new Float32Array([NaN, 1, -Infinity, 2]), [4]);
      using target = device.zeros([4]);
      using result = new DDPLoss("mae", "sum").valueAndGrad(pred, target);
      assertEquals(warnings, []);
      assertEquals(await result.grad.toList(), [0, 1, 0, 1]);
      assertEquals(warnings, []);
      assertAlmostEquals(
        await result.value.item() / 3.4028234663852886e38,
        1,
        1e-6,
      );
      assertEquals(warnings.length, 1);
      assert(warnings[0]!.includes("2 entries"), warnings[0]);
      // The same output used again for a clean input does not warn again.
      using clean = device.tensor(new Float32Array([1, 1, 1, 1]));
      new DDPLoss("mae", "sum").valueAndGrad(clean, target, null, {
        out: result,
      });
      assertEquals(await result.value.item(), 4);
      assertEquals(warnings.length, 1);
    } finally {
      console.warn = warn;
    }
  },
);

testOnDevices(
  "a non-finite target is passed on, as in the reference",
  async (device) => {
    using pred = device.tensor(new Float32Array([1, 2, 3]));
    using target = device.tensor(new Float32Array([0, NaN, 0]));
    using mae = new DDPLoss("mae").valueAndGrad(pred, target);
    assertEquals(await mae.value.item(), NaN);
    assertEquals((await mae.grad.toList())[1], 0);
    using mse = new DDPLoss("mse").valueAndGrad(pred, target);
    assertEquals((await mse.grad.toList())[1], NaN);
  },
);

testOnDevices("sums accumulate in float64", async (device) => {
  // In float32 the sum of so many ones stops at 2^24.
  const n = 2 ** 24 + 1000;
  using pred = device.tensor(new Float32Array(n).fill(1));
  using target = device.zeros([n]);
  using value = new DDPLoss("mae", "mean").forward(pred, target);
  assertEquals(await value.item(), 1);
  const small = new Float32Array(100_001).fill(1e-4);
  small[0] = 1e4;
  using mixed = device.tensor(small);
  using zero = device.zeros([small.length]);
  using sum = new DDPLoss("mae", "sum").forward(mixed, zero);
  assertEquals(
    await sum.item(),
    Math.fround(1e4 + 100_000 * Math.fround(1e-4)),
  );
});

testOnDevices(
  "a half-precision loss has a float32 value that does not overflow",
  async (device) => {
    using pred = device.tensor(new Float16Array(3000).fill(200));
    using target = device.tensor(new Float16Array(3000));
    using value = new DDPLoss("mse", "sum").forward(pred, target);
    assertEquals(value.dtype, "float32");
    assertEquals(await value.item(), 3000 * 40_000);
  },
);

testOnDevices("the same input gives the same bits", async (device) => {
  using pred = device.tensor(Float32Array.from(randomNumbers(300_003, 21)), [
    100_001,
    3,
  ]);
  using target = device.tensor(Float32Array.from(randomNumbers(300_003, 22)), [
    100_001,
    3,
  ]);
  for (const name of ["mae", "mse", "l2norm"]) {
    const ddp = new DDPLoss(name);
    using first = ddp.valueAndGrad(pred, target);
    const value = await first.value.data();
    const grad = await first.grad.data();
    for (let i = 0; i < 20; i++) {
      using again = ddp.valueAndGrad(pred, target);
      assertEquals(await again.value.data(), value);
      assertEquals(await again.grad.data(), grad);
    }
  }
});

testOnDevices(
  "valueAndGrad() writes to out and rejects what does not fit",
  async (device) => {
    using pred = device.tensor(randomNumbers(30, 31), [10, 3]);
    using target = device.tensor(randomNumbers(30, 32), [10, 3]);
    const ddp = new DDPLoss("l2norm");
    using out = ddp.valueAndGrad(pred, target);
    const before = await out.value.item();
    using pred2 = device.tensor(randomNumbers(30, 33), [10, 3]);
    const again = ddp.valueAndGrad(pred2, target, null, { out });
    assert(again.value === out.value && again.grad === out.grad);
    assert(await out.value.item() !== before);

    using wrongGrad = device.zeros([10, 3], "float32");
    using wrongValue = device.zeros([], "float32");
    const { value, grad } = out;
    assertThrows(
      () =>
        ddp.valueAndGrad(pred, target, null, {
          out: { value, grad: wrongGrad },
        }),
      DTypeError,
    );
    assertThrows(
      () =>
        ddp.valueAndGrad(pred, target, null, {
          out: { value: wrongValue, grad },
        }),
      DTypeError,
    );
    assertThrows(
      () =>
        ddp.valueAndGrad(pred, target, null, { out: { value, grad: pred } }),
      ArgumentError,
    );
  },
);

testOnDevices(
  "valueAndGrad() treats ragged ends and empty inputs like all others",
  async (device) => {
    // Around every border of vector, tile and block.
    for (
      const n of [0, 1, 2, 3, 5, 63, 64, 65, 127, 128, 4095, 4096, 4097, 21_846]
    ) {
      for (const name of ["mae", "mse", "l2norm"]) {
        const x = randomNumbers(3 * n, n + 1), y = randomNumbers(3 * n, n + 2);
        using pred = device.tensor(x, [n, 3]);
        using target = device.tensor(y, [n, 3]);
        using result = new DDPLoss(name, "sum").valueAndGrad(pred, target);
        const grad = await result.grad.toList();
        let sum = 0;
        for (let i = 0; i < n; i++) {
          const d = [0, 1, 2].map((j) => x[3 * i + j]! - y[3 * i + j]!);
          const norm = Math.hypot(...d);
          for (let j = 0; j < 3; j++) {
            if (name === "mae") sum += Math.abs(d[j]!);
            if (name === "mse") sum += d[j]! ** 2;
            const g = name === "mae"
              ? Math.sign(d[j]!)
              : name === "mse"
              ? 2 * d[j]!
              : d[j]! / norm;
            assertAlmostEquals(
              grad[3 * i + j]!,
              g,
              1e-12,
              `${name} ${n} ${i} ${j}`,
            );
          }
          if (name === "l2norm") sum += norm;
        }
        assertAlmostEquals(await result.value.item(), sum, 1e-10 * (1 + sum));
      }
    }
  },
);

testOnDevices(
  "the mean of nothing is NaN and the sum is 0, as in torch",
  async (device) => {
    using none = device.zeros([0, 3]);
    using mean = new DDPLoss("mae").forward(none, none);
    assertEquals(await mean.item(), NaN);
    using sum = new DDPLoss("mae", "sum").forward(none, none);
    assertEquals(await sum.item(), 0);
  },
);

testOnDevices("DDPLoss rejects what it cannot compute", (device) => {
  assertThrows(
    () => new DDPLoss("rmse"),
    UnknownLossError,
    "'rmse' is unknown: expected one of mae",
  );
  assertThrows(() => new DDPLoss("toString"), UnknownLossError);
  assertThrows(
    () => new DDPLoss("mae", "median" as "mean"),
    UnknownReductionError,
    "'median' is unknown: expected one of mean, sum",
  );
  assertThrows(() => new DDPLoss({} as Loss), ArgumentError);
  using a = device.zeros([4, 3]);
  using b = device.zeros([4]);
  const ddp = new DDPLoss("mae");
  assertThrows(
    () => ddp.forward(a, b),
    ShapeError,
    "target has shape [4], expected [4, 3]",
  );
  const gone = device.zeros([4, 3]);
  gone.dispose();
  assertThrows(() => ddp.forward(gone, a), DisposedError);
  assertThrows(() => ddp.valueAndGrad(a, gone), DisposedError);
});

testOnDevices(
  "DDPLoss refuses a value that shares memory with what is read or written",
  (device) => {
    using pred = device.tensor(new Float32Array([3]));
    using target = device.tensor(new Float32Array([1]));
    using grad = device.zeros([1]);
    for (const shared of [pred, target, grad]) {
      using value = shared.reshape([]);
      for (
        const loss of [new DDPLoss("mse"), new DDPMTLoss("mse", "mean", 1)]
      ) {
        const call = loss instanceof DDPLoss
          ? (): unknown =>
            loss.valueAndGrad(pred, target, null, { out: { value, grad } })
          : (): unknown =>
            loss.valueAndGrad(pred, target, null, null, {
              out: { value, grad },
            });
        assertThrows(call, ArgumentError, "share memory");
      }
    }
  },
);

testOnDevices(
  "a call that fails leaves nobody listening to its out",
  async (device) => {
    using value = device.tensor(new Float32Array([5])).reshape([]);
    using pred = device.tensor(new Float32Array([NaN, 2]));
    using target = device.zeros([2]);
    const told: number[] = [];
    const loss = new DDPLoss("per_atom_mae", "mean", {
      onNonFinite: (count) => told.push(count),
    });
    assertThrows(() => loss.forward(pred, target, null, { out: value }));
    assertEquals(await value.item(), 5);
    assertEquals(told, []);
  },
);
