/** Optimisers, clipping and averages against the numbers that tests/torch_optimizers.py had from PyTorch. */
import { assertAlmostEquals, assertEquals } from "@std/assert";
import {
  Adam,
  type AdamOptions,
  clipGradNorm,
  type Device,
  type DType,
  ExponentialMovingAverage,
  type Optimizer,
  SGD,
  type SGDOptions,
  type StepOptions,
  type Tensor,
  type TensorData,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";

/** A list of numbers for each parameter. */
type Numbers = readonly (readonly number[])[];

/** The parameters behind the last step, and the norms of all. */
interface Results {
  readonly [name: string]: { params: Numbers; norms: readonly number[] };
}

interface Stored {
  readonly shapes: readonly (readonly number[])[];
  readonly dtypes: {
    readonly [dtype: string]: {
      readonly start: Numbers;
      readonly grads: readonly Numbers[];
      readonly cases: Results;
      readonly clippedInPlace: Results;
      readonly averages: { averagedModel: Numbers; torchEma: Numbers };
    };
  };
}

const stored: Stored = JSON.parse(
  await Deno.readTextFile(new URL("torch_optimizers.json", import.meta.url)),
);

/** Of the numbers of a dtype, relative to 1: some roundings of it. */
const TOLERANCE: Record<string, number> = {
  float64: 1e-12,
  float32: 2e-6,
  float16: 1e-3,
  bfloat16: 8e-3,
};

/** The cases of the script, in our words. */
const CASES: Record<
  string,
  [adam: AdamOptions | null, sgd: SGDOptions | null, clip: StepOptions]
> = {
  "adam": [{ lr: 0.05 }, null, {}],
  "adam amsgrad": [{ lr: 0.05, betas: [0.8, 0.7], amsgrad: true }, null, {}],
  "adamw amsgrad clip": [
    {
      lr: 0.05,
      betas: [0.8, 0.7],
      weightDecay: 0.1,
      amsgrad: true,
      decoupled: true,
    },
    null,
    { maxNorm: 0.5 },
  ],
  "adam clip l1": [
    { lr: 0.05, weightDecay: 0.1 },
    null,
    { maxNorm: 1.5, normType: 1 },
  ],
  "sgd clip": [
    null,
    { lr: 0.5, momentum: 0.9, nesterov: true },
    { maxNorm: 0.5 },
  ],
  "sgd clip max": [null, { lr: 0.5 }, { maxNorm: 0.25, normType: Infinity }],
  "sgd clip l3": [null, { lr: 0.5 }, { maxNorm: 0.25, normType: 3 }],
  "sgd no clip": [null, { lr: 0.5 }, { maxNorm: 100 }],
  "adam masters": [{ lr: 1e-3, masterWeights: true }, null, {}],
  "sgd masters clip": [
    null,
    { lr: 1e-3, momentum: 0.9, masterWeights: true },
    { maxNorm: 0.5 },
  ],
};

/** Numbers that the dtype has, in its typed array. */
function arrayOf(dtype: DType, numbers: readonly number[]): TensorData {
  switch (dtype) {
    case "float64":
      return Float64Array.from(numbers);
    case "float32":
      return Float32Array.from(numbers);
    case "float16":
      return Float16Array.from(numbers);
    default: // bfloat16: the upper halves of float32
      return Uint16Array.from(
        new Uint32Array(Float32Array.from(numbers).buffer),
        (bits) => bits >>> 16,
      );
  }
}

function tensorsOf(device: Device, dtype: DType, all: Numbers): Tensor[] {
  return all.map((numbers, i) =>
    device.tensor(arrayOf(dtype, numbers), stored.shapes[i]!, dtype)
  );
}

async function assertNear(
  tensors: readonly Tensor[],
  expected: Numbers,
  tolerance: number,
  what: string,
): Promise<void> {
  for (const [i, tensor] of tensors.entries()) {
    const actual = await tensor.toList();
    assertEquals(actual.length, expected[i]!.length);
    actual.forEach((x, j) => {
      const wanted = expected[i]![j]!;
      assertAlmostEquals(
        x,
        wanted,
        tolerance * Math.max(1, Math.abs(wanted)),
        `${what}, parameter ${i}`,
      );
    });
  }
}

function dispose(tensors: readonly Tensor[]): void {
  for (const tensor of tensors) tensor.dispose();
}

for (const isFused of [true, false]) {
  testOnDevices(
    `optimisers have PyTorch's numbers, ${
      isFused ? "clipping on the way" : "behind clipGradNorm()"
    }`,
    async (device) => {
      for (
        const [name, numbers] of Object.entries(stored.dtypes)
      ) {
        const dtype = name as DType;
        const tolerance = TOLERANCE[dtype]!;
        const { start, grads, cases, clippedInPlace } = numbers;
        assertEquals(Object.keys(cases), Object.keys(CASES));
        for (const [name, [adam, sgd, clip]] of Object.entries(CASES)) {
          const { maxNorm, ...options } = clip;
          if (!isFused && maxNorm === undefined) continue;
          const what = `${name}, ${dtype}`;
          const params = tensorsOf(device, dtype, start);
          using optimizer: Optimizer = adam !== null
            ? new Adam(params, adam)
            : new SGD(params, sgd!);
          const norms: number[] = [];
          for (const step of grads) {
            const tensors = tensorsOf(device, dtype, step);
            if (isFused) {
              optimizer.step(tensors, clip);
            } else {
              using norm = clipGradNorm(tensors, maxNorm!, options);
              optimizer.step(tensors);
              norms.push(await norm.item());
            }
            if (isFused && maxNorm !== undefined) {
              norms.push(await optimizer.gradNorm!.item());
            }
            dispose(tensors);
          }
          const expected = (isFused ? cases : clippedInPlace)[name]!;
          await assertNear(params, expected.params, tolerance, what);
          assertEquals(norms.length, expected.norms.length, what);
          norms.forEach((norm, i) =>
            assertAlmostEquals(
              norm,
              expected.norms[i]!,
              tolerance * expected.norms[i]!,
              what,
            )
          );
          dispose(params);
        }
      }
    },
  );
}

testOnDevices(
  "averages have PyTorch's and torch_ema's numbers",
  async (device) => {
    for (
      const [name, { start, grads, averages }] of Object.entries(stored.dtypes)
    ) {
      const dtype = name as DType;
      const params = tensorsOf(device, dtype, start);
      using sgd = new SGD(params, { lr: 0.5, masterWeights: true });
      using averaged = new ExponentialMovingAverage(params, { decay: 0.9 });
      using warm = new ExponentialMovingAverage(params, {
        decay: 0.9,
        useNumUpdates: true,
      });
      for (const step of grads) {
        const tensors = tensorsOf(device, dtype, step);
        sgd.step(tensors);
        averaged.update();
        warm.update();
        dispose(tensors);
      }
      const tolerance = TOLERANCE[dtype]!;
      await assertNear(
        averaged.state,
        averages.averagedModel,
        tolerance,
        dtype,
      );
      await assertNear(warm.state, averages.torchEma, tolerance, dtype);
      dispose(params);
    }
  },
);
