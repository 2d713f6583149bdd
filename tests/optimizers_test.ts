import {
  assertAlmostEquals,
  assertEquals,
  assertNotEquals,
  assertThrows,
} from "@std/assert";
import {
  Adam,
  ArgumentError,
  DisposedError,
  type DType,
  DTypeError,
  SGD,
  ShapeError,
  type Tensor,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import { randomNumbers } from "./random.ts";

/** torch.optim.Adam, step by step, for one number. */
function adamReference(
  x: number,
  grads: readonly number[],
  { lr = 1e-3, b1 = 0.9, b2 = 0.999, eps = 1e-8, decay = 0, decoupled = false },
): number {
  let m = 0, v = 0;
  grads.forEach((gradient, i) => {
    if (decoupled) x *= 1 - lr * decay;
    const g = decoupled ? gradient : gradient + decay * x;
    m = b1 * m + (1 - b1) * g;
    v = b2 * v + (1 - b2) * g * g;
    const mHat = m / (1 - b1 ** (i + 1));
    x -= lr * mHat / (Math.sqrt(v) / Math.sqrt(1 - b2 ** (i + 1)) + eps);
  });
  return x;
}

/** torch.optim.SGD likewise. */
function sgdReference(
  x: number,
  grads: readonly number[],
  { lr = 1e-3, momentum = 0, decay = 0, nesterov = false },
): number {
  let buffer = 0;
  grads.forEach((gradient, i) => {
    const g = gradient + decay * x;
    buffer = i === 0 ? g : momentum * buffer + g;
    x -= lr * (momentum === 0 ? g : nesterov ? g + momentum * buffer : buffer);
  });
  return x;
}

const STEPS = 5;

testOnDevices(
  "Adam in float32 gives torch's numbers where beta2 is near 1",
  async (device) => {
    // PyTorch 2.13, three steps of lr 1: 1 - beta2 in float32 would be 0.1 % off.
    using weight = device.tensor(new Float32Array([0, 1, -2]));
    const adam = new Adam([weight], { lr: 1, betas: [0.9, 0.99999] });
    for (let i = 1; i <= 3; i++) {
      using grad = device.tensor(new Float32Array([1, 0.3 * i, -0.01]));
      adam.step([grad]);
    }
    const torch = [-3, -1.9235979318618774, 0.999997079372406];
    for (const [i, x] of (await weight.toList()).entries()) {
      assertAlmostEquals(x, torch[i]!, 5e-7);
    }
  },
);

testOnDevices("Adam follows torch.optim.Adam and AdamW", async (device) => {
  const sizes = [1, 7, 100];
  for (
    const options of [
      {},
      { lr: 0.1, betas: [0.8, 0.9] as const, eps: 1e-3 },
      { lr: 0.05, weightDecay: 0.1 },
      { lr: 0.05, weightDecay: 0.1, decoupled: true },
    ]
  ) {
    const start = sizes.map((n, p) => randomNumbers(n, p));
    const params = start.map((x) => device.tensor(x));
    using adam = new Adam(params, options);
    const grads = Array.from(
      { length: STEPS },
      (_, s) => sizes.map((n, p) => randomNumbers(n, 10 * s + p)),
    );
    for (const step of grads) {
      const tensors = step.map((g) => device.tensor(g));
      adam.step(tensors);
      tensors.forEach((t) => t.dispose());
    }
    for (const [p, param] of params.entries()) {
      const actual = await param.toList();
      actual.forEach((x, i) =>
        assertAlmostEquals(
          x,
          adamReference(start[p]![i]!, grads.map((g) => g[p]![i]!), {
            lr: options.lr ?? 1e-3,
            b1: options.betas?.[0] ?? 0.9,
            b2: options.betas?.[1] ?? 0.999,
            eps: options.eps ?? 1e-8,
            decay: options.weightDecay ?? 0,
            decoupled: options.decoupled ?? false,
          }),
          1e-12,
        )
      );
      param.dispose();
    }
    assertEquals(adam.steps, STEPS);
  }
});

testOnDevices("SGD follows torch.optim.SGD", async (device) => {
  for (
    const options of [
      { lr: 0.1 },
      { lr: 0.1, momentum: 0.9 },
      { lr: 0.1, momentum: 0.9, nesterov: true, weightDecay: 0.01 },
    ]
  ) {
    const start = randomNumbers(20, 1);
    using param = device.tensor(start);
    using sgd = new SGD([param], options);
    const grads = Array.from(
      { length: STEPS },
      (_, s) => randomNumbers(20, 2 + s),
    );
    for (const g of grads) {
      using grad = device.tensor(g);
      sgd.step([grad]);
    }
    const { weightDecay: decay = 0, ...rest } = { weightDecay: 0, ...options };
    (await param.toList()).forEach((x, i) =>
      assertAlmostEquals(
        x,
        sgdReference(start[i]!, grads.map((g) => g[i]!), { ...rest, decay }),
        1e-12,
      )
    );
  }
});

testOnDevices(
  "optimisers update parameters of every floating dtype at once",
  async (device) => {
    const make = (dtype: DType, value: number): Tensor =>
      dtype === "float32"
        ? device.tensor(new Float32Array(3).fill(value))
        : dtype === "float64"
        ? device.tensor(new Float64Array(3).fill(value))
        : dtype === "float16"
        ? device.tensor(new Float16Array(3).fill(value))
        : device.tensor(
          new Uint16Array(3).fill(value === 1 ? 0x3f80 : 0x3f00),
          [3],
          "bfloat16",
        );
    const dtypes = ["float32", "bfloat16", "float64", "float16"] as const;
    const params = dtypes.map((dtype) => make(dtype, 1));
    const grads = dtypes.map((dtype) => make(dtype, 0.5));
    using sgd = new SGD(params, { lr: 0.5, momentum: 0.9 });
    using adam = new Adam(params, { lr: 0.25 });
    sgd.step(grads);
    for (const p of params) {
      assertEquals(
        await p.toList(),
        [0.75, 0.75, 0.75],
        p.dtype,
      );
    }
    adam.step(grads);
    for (const p of params) {
      for (const x of await p.toList()) {
        assertAlmostEquals(
          x,
          0.5,
          1e-2,
          p.dtype,
        );
      }
    }
    for (const t of [...params, ...grads]) t.dispose();
  },
);

testOnDevices(
  "optimisers go on from copied state to the same bits, in every dtype",
  async (device) => {
    const more = { amsgrad: true, masterWeights: true };
    const makers = [
      (params: Tensor[]) => new Adam(params, { lr: 0.1 }),
      (params: Tensor[]) => new Adam(params, { lr: 1e-3, ...more }),
      (params: Tensor[]) => new SGD(params, { lr: 0.1, momentum: 0.9 }),
    ];
    const randoms = (seed: number): Tensor[] => [
      device.tensor(new Float32Array(randomNumbers(5, seed))),
      device.tensor(randomNumbers(4, seed + 1)),
      device.tensor(new Float16Array(randomNumbers(3, seed + 2))),
      device.tensor(new Float32Array(randomNumbers(2, seed + 3))),
    ];
    for (const make of makers) {
      const whole = randoms(1);
      using of = make(whole);
      const step = (optimizer: Adam | SGD, s: number): void => {
        const grads = randoms(100 * s);
        optimizer.step(grads);
        for (const grad of grads) grad.dispose();
      };
      for (let s = 1; s <= 3; s++) step(of, s);

      const params = randoms(50);
      params.forEach((param, i) => param.copy_(whole[i]!));
      using onward = make(params);
      onward.state.forEach((tensor, i) => tensor.copy_(of.state[i]!));
      onward.steps = of.steps;
      // The same without the state: what the test would miss otherwise.
      const forgetful = randoms(50);
      forgetful.forEach((param, i) => param.copy_(whole[i]!));
      using without = make(forgetful);
      for (let s = 4; s <= 6; s++) {
        for (const optimizer of [of, onward, without]) step(optimizer, s);
      }
      for (const [i, param] of params.entries()) {
        assertEquals(await param.toList(), await whole[i]!.toList());
        assertNotEquals(await forgetful[i]!.toList(), await whole[i]!.toList());
      }
      assertEquals(onward.steps, 6);
      for (const t of [...whole, ...params, ...forgetful]) t.dispose();
    }
  },
);

testOnDevices(
  "bfloat16 weights move at a small rate with master weights, and are followed",
  async (device) => {
    const bits = (...numbers: number[]): Uint16Array<ArrayBuffer> =>
      Uint16Array.from(
        new Uint32Array(Float32Array.from(numbers).buffer),
        (x) => x >>> 16,
      );
    using param = device.tensor(bits(1, 2), [2], "bfloat16");
    using stuck = device.tensor(bits(1, 2), [2], "bfloat16");
    using grad = device.tensor(bits(1, 1), [2], "bfloat16");
    using adam = new Adam([param], { lr: 1e-3, masterWeights: true });
    using without = new Adam([stuck], { lr: 1e-3 });
    for (let i = 0; i < 50; i++) {
      adam.step([grad]);
      without.step([grad]);
    }
    assertEquals(await stuck.toList(), [1, 2]);
    const master = adam.state.at(-1)!;
    assertEquals(master.dtype, "float32");
    for (const [i, x] of [0.95, 1.95].entries()) {
      assertAlmostEquals((await master.toList())[i]!, x, 1e-5);
      assertAlmostEquals((await param.toList())[i]!, x, x / 256);
    }
    // What somebody else writes to the parameter counts.
    param.copy_(bits(4, -4));
    adam.step([grad]);
    const [first, second] = await master.toList();
    assertAlmostEquals(first!, 4 - 1e-3, 1e-6);
    assertAlmostEquals(second!, -4 - 1e-3, 1e-6);
    // Of a dtype that is wide enough there are none.
    using wide = device.zeros([1]);
    using other = new Adam([wide], { masterWeights: true });
    assertEquals(other.state.length, 2);
  },
);

testOnDevices("lr may change between steps", async (device) => {
  using param = device.tensor(new Float64Array([1]));
  using grad = device.tensor(new Float64Array([1]));
  using sgd = new SGD([param], { lr: 0.5 });
  sgd.step([grad]);
  sgd.lr = 0.25;
  sgd.step([grad]);
  assertEquals(await param.toList(), [0.25]);
  sgd.lr = NaN;
  assertThrows(() => sgd.step([grad]), ArgumentError, "lr is NaN");
  assertEquals(sgd.steps, 2);
});

testOnDevices(
  "one step takes hundreds of parameters, of any dtypes and sizes",
  async (device) => {
    // More than fit the arguments of a kernel; some without elements.
    const COUNT = 300;
    const numbers = (i: number): Float64Array<ArrayBuffer> =>
      randomNumbers((i * 7) % 40 + (i === 150 ? 5000 : 0), i);
    const make = (i: number): Tensor =>
      i % 3 === 0
        ? device.tensor(numbers(i))
        : device.tensor(new Float32Array(numbers(i)));
    const params = Array.from({ length: COUNT }, (_, i) => make(i));
    const grads = Array.from({ length: COUNT }, (_, i) => make(i));
    using sgd = new SGD(params, { lr: 0.25 });
    sgd.step(grads);
    for (const [i, param] of params.entries()) {
      const wanted = Array.from(numbers(i), (x) => 0.75 * x);
      (await param.toList()).forEach((x, j) =>
        assertAlmostEquals(x, wanted[j]!, 1e-6, `parameter ${i}`)
      );
    }
    for (const t of [...params, ...grads]) t.dispose();
  },
);

testOnDevices(
  "optimisers take no memory twice",
  (device) => {
    using a = device.zeros([4, 2]);
    using b = device.zeros([2]);
    using none = device.zeros([0]);
    using reshaped = a.reshape([8]);
    assertThrows(
      () => new Adam([a, b, a]),
      ArgumentError,
      "parameter 2 is in the memory of parameter 0, expected each parameter once",
    );
    assertThrows(() => new SGD([reshaped, b, a]), ArgumentError, "parameter 2");
    const array = new Float32Array(6);
    const part = (offset: number): Tensor =>
      device.wrap(
        Deno.UnsafePointer.of(array.subarray(offset)),
        [3],
        "float32",
        { keep: array },
      );
    if (device.type === "cpu") {
      using first = part(0);
      using overlapping = part(2);
      using second = part(3);
      assertThrows(
        () => new SGD([b, overlapping, first]),
        ArgumentError,
        "parameter 2 is in the memory of parameter 1",
      );
      new SGD([first, second, b]);
    }
    new Adam([a, none, b]).dispose();
    // A gradient is only read: two parameters may have the same one.
    using c = device.zeros([2]);
    new SGD([b, c]).step([b, b]);
    assertThrows(() => new Adam([]), ArgumentError, "no parameters");
  },
);

testOnDevices(
  "optimisers reject parameters and gradients that do not fit",
  (device) => {
    using param = device.zeros([3]);
    using ints = device.zeros([3], "int32");
    using short = device.zeros([2]);
    using double = device.zeros([3], "float64");
    assertThrows(
      () => new Adam([param], { lr: -1 }),
      ArgumentError,
      "lr is -1",
    );
    assertThrows(
      () => new Adam([param], { betas: [0.9, 1] }),
      ArgumentError,
      "betas[1]",
    );
    assertThrows(
      () => new SGD([param], { nesterov: true }),
      ArgumentError,
      "momentum",
    );
    assertThrows(() => new Adam([ints]), DTypeError, "int32");
    using adam = new Adam([param]);
    assertThrows(
      () => adam.step([]),
      ArgumentError,
      "1 parameters and 0 gradients",
    );
    assertThrows(() => adam.step([short]), ShapeError);
    assertThrows(() => adam.step([double]), DTypeError);
    const gone = device.zeros([3]);
    using other = new Adam([gone]);
    gone.dispose();
    assertThrows(() => other.step([param]), DisposedError);
    assertEquals(other.steps, 0);
    assertEquals(adam.steps, 0);
    adam.state[1]!.dispose();
    assertThrows(() => adam.step([param]), DisposedError);
    adam.steps = 0.5;
    assertThrows(() => adam.step([param]), ArgumentError, "steps is 0.5");
  },
);
