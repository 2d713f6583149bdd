/** Arguments of every kind, right and wrong: an answer or a typed error, never a crash. */
import { assert } from "@std/assert";
import {
  Adam,
  AtomlossError,
  DDPLoss,
  DDPMTLoss,
  type Device,
  Device as Devices,
  type DType,
  InternalError,
  matmul,
  Metrics,
  MultiTaskLoss,
  type Tensor,
} from "../mod.ts";
import { emptyArray } from "../tensor/dtype.ts";
import { standIn, testOnDevices } from "./devices.ts";
import { seeded } from "./random.ts";

const CALLS = 200_000;
/** On the stand-in, which takes its time. */
const CALLS_ON_STAND_IN = 20_000;

const DTYPES: readonly DType[] = [
  "float32",
  "float64",
  "float16",
  "bfloat16",
  "int32",
  "int64",
  "bool",
];
const LOSSES = [
  "mae",
  "mse",
  "per_atom_mae",
  "l2norm",
  "huber",
  "smooth_l1",
  "log_cosh",
];
const REDUCTIONS = ["mean", "sum", "per_structure", "median"];

/** Draws arguments: mostly right ones, sometimes anything. */
class Fuzz {
  readonly next: () => number;
  readonly #devices: readonly Device[];
  #pool: Tensor[] = [];

  constructor(devices: readonly Device[], seed: number) {
    this.next = seeded(seed);
    this.#devices = devices;
  }

  below(n: number): number {
    return Math.floor(this.next() * n);
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!;
  }

  chance(p: number): boolean {
    return this.next() < p;
  }

  /** A shape of few elements, or of none, or one that cannot be. */
  shape(): number[] {
    if (this.chance(0.01)) {
      return this.pick([[-1], [1.5], [2 ** 31, 2 ** 31], [NaN], [2 ** 53], [
        2 ** 50,
      ]]);
    }
    return Array.from({ length: this.below(4) }, () => this.below(6));
  }

  /** A tensor of one of few shapes, so that two of them often fit. */
  tensor(): Tensor {
    if (this.#pool.length > 300) {
      for (const tensor of this.#pool.splice(0, 100)) tensor.dispose();
    }
    if (this.#pool.length > 60 && this.chance(0.9)) {
      return this.pick(this.#pool);
    }
    const device = this.chance(0.95) ? this.#devices[0]! : this.#devices[1]!;
    const shape = this.chance(0.3)
      ? this.shape()
      : this.pick([[5], [5, 1], [5, 3], [4, 3], [0, 3], [5, 9]]);
    const dtype = this.chance(0.6) ? "float32" : this.pick(DTYPES);
    const tensor = device.empty(shape, dtype);
    const data = emptyArray(dtype, tensor.size);
    for (let i = 0; i < data.length; i++) {
      const x = this.chance(0.1)
        ? this.pick([NaN, Infinity, -Infinity, 3e38, -0, 1e-45])
        : this.below(9) - 2;
      data[i] = dtype === "int64"
        ? BigInt(Number.isFinite(x) ? Math.trunc(x) % 1e9 : -7)
        : dtype === "bfloat16"
        ? this.below(65536)
        : x;
    }
    tensor.copy_(data);
    this.#pool.push(tensor);
    if (this.chance(0.02)) tensor.dispose();
    return tensor;
  }

  /** A tensor, or what is none. */
  any(): Tensor {
    if (this.chance(0.98)) return this.tensor();
    return this.pick([
      null,
      undefined,
      3,
      "tensor",
      {},
      [],
    ]) as unknown as Tensor;
  }

  maybe(): Tensor | null {
    return this.chance(0.5) ? null : this.any();
  }

  [Symbol.dispose](): void {
    for (const tensor of this.#pool) tensor.dispose();
  }
}

/** One random call; what it makes belongs to `made`. */
function call(fuzz: Fuzz, made: DisposableStack): void {
  // deno-lint-ignore no-explicit-any
  const reduction: any = fuzz.pick(REDUCTIONS);
  const loss = fuzz.pick(LOSSES);
  const onNonFinite = (): void => {};
  const [a, b, c, d] = [fuzz.any(), fuzz.any(), fuzz.maybe(), fuzz.maybe()];
  switch (fuzz.below(9)) {
    case 0: {
      const { lossFn } = new DDPLoss(loss);
      const out = fuzz.chance(0.2) ? { out: fuzz.tensor() } : {};
      made.use(lossFn.forward(a, b, c, out));
      return;
    }
    case 1: {
      const { lossFn } = new DDPLoss(loss);
      made.use(lossFn.backward(a, b, c, d));
      return;
    }
    case 2: {
      const ddp = new DDPLoss(loss, reduction, { onNonFinite });
      const normalizer = fuzz.chance(0.1)
        ? made.use(ddp.normalizer(fuzz.below(9) - 1))
        : undefined;
      made.use(ddp.valueAndGrad(a, b, c, normalizer ? { normalizer } : {}));
      return;
    }
    case 3: {
      const ddp = new DDPMTLoss(loss, reduction, fuzz.below(3), {
        onNonFinite,
      });
      made.use(ddp.valueAndGrad(a, b, c, d));
      return;
    }
    case 4: {
      const tasks = Object.fromEntries(
        Array.from(
          { length: fuzz.below(4) },
          (_, i) => [`t${i}`, { loss: fuzz.pick(LOSSES), reduction }],
        ),
      );
      const many = new MultiTaskLoss(tasks, { onNonFinite });
      made.use(many.valueAndGrad(Object.fromEntries(
        Object.keys(tasks).filter(() => fuzz.chance(0.9)).map((name) => [
          name,
          {
            input: fuzz.any(),
            target: fuzz.any(),
            natoms: fuzz.maybe(),
            mask: fuzz.maybe(),
          },
        ]),
      )));
      return;
    }
    case 5: {
      const out = fuzz.chance(0.3) ? { out: fuzz.any() } : {};
      made.use(matmul(a, b, {
        transposeA: fuzz.chance(0.5),
        accumulate: fuzz.chance(0.2),
        ...out,
      }));
      return;
    }
    case 6: {
      const adam = made.use(new Adam([a], { lr: fuzz.next() - 0.1 }));
      adam.step([b]);
      return;
    }
    case 7: {
      const metrics = made.use(new Metrics(a.device));
      metrics.add({
        natoms: b,
        ...(c ? { energy: { input: c, target: fuzz.any() } } : {}),
        ...(d ? { forces: { input: d, target: fuzz.any() } } : {}),
      });
      return;
    }
    default: {
      const shape = fuzz.shape();
      if (fuzz.chance(0.5)) made.use(a.reshape(shape));
      else made.use(a.device.zeros(shape, fuzz.pick(DTYPES)));
    }
  }
}

testOnDevices(
  "random calls end in an answer or a typed error",
  async (device) => {
    const calls = device.type === "cuda" && standIn ? CALLS_ON_STAND_IN : CALLS;
    using other = await Devices.open(device.name);
    using fuzz = new Fuzz([device, other], 1);
    let answers = 0;
    const errors = new Map<string, number>();
    for (let i = 0; i < calls; i++) {
      using made = new DisposableStack();
      try {
        call(fuzz, made);
        answers++;
      } catch (error) {
        if (
          !(error instanceof AtomlossError) || error instanceof InternalError
        ) {
          // In a JavaScript program without types anything may be passed, and
          // its own TypeError says so: of what is no tensor, but was used as one.
          if (
            !(error instanceof TypeError &&
              /undefined|null|not a function/.test(error.message))
          ) {
            throw new Error(`call ${i}`, { cause: error });
          }
        }
        const { name } = error as Error;
        errors.set(name, (errors.get(name) ?? 0) + 1);
      }
    }
    await device.synchronize();
    // Both must be there, or nothing was tried.
    assert(answers > calls / 20, `${answers} answers`);
    for (
      const name of [
        "ShapeError",
        "DTypeError",
        "DeviceError",
        "DisposedError",
        "ArgumentError",
        "UnknownReductionError",
        "OutOfMemoryError",
      ]
    ) {
      assert(errors.get(name), `no ${name} in ${JSON.stringify([...errors])}`);
    }
  },
);
