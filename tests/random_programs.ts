/** Random steps made of calls of this package, for property tests of `device.capture`. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  Adam,
  clipGradNorm,
  DDPLoss,
  type Device,
  ExponentialMovingAverage,
  type Loss,
  matmul,
  Metrics,
  type MultiTaskGrads,
  type ProcessGroup,
  SGD,
  type Tensor,
} from "../mod.ts";
import { emptyArray } from "../tensor/dtype.ts";
import { toTensors } from "./plain_tasks.ts";
import { seeded } from "./random.ts";
import {
  inputsOf,
  lossOf,
  type RandomStep,
  randomStep,
} from "./random_plain_tasks.ts";

/** What a step does, call after call. */
export interface Program {
  readonly calls: readonly Call[];
  readonly batch: RandomStep;
  readonly rows: number;
  readonly seed: number;
}

const CALLS = [
  "tasks",
  "loss",
  "composed",
  "value",
  "unreduced",
  "normalizer",
  "groups",
  "product",
  "metrics",
  "clip",
  "adam",
  "clippedAdam",
  "sgd",
  "average",
  "reduce",
  "broadcast",
  "means",
  "copy",
] as const;
type Call = typeof CALLS[number];

/** Of up to 8 calls. */
export const randomProgram: fc.Arbitrary<Program> = fc.record({
  calls: fc.array(fc.constantFrom(...CALLS), { minLength: 1, maxLength: 8 }),
  batch: randomStep,
  rows: fc.integer({ min: 1, max: 40 }),
  seed: fc.integer(),
});

/** A loss that is written in TypeScript, of calls that are recorded. */
class Squares implements Loss {
  readonly name = "squares in TypeScript";
  readonly #loss = new DDPLoss("mse").lossFn;

  outputShape(shape: readonly number[]): readonly number[] {
    return shape;
  }
  forward(pred: Tensor, target: Tensor): Tensor {
    return this.#loss.forward(pred, target);
  }
  backward(
    pred: Tensor,
    target: Tensor,
    natoms: Tensor | null = null,
    gradOutput: Tensor | null = null,
  ): Tensor {
    return this.#loss.backward(pred, target, natoms, gradOutput);
  }
}

/** All that a program computes with. Two of the same program begin alike. */
export class World {
  readonly #program: Program;
  readonly #device: Device;
  readonly #group: ProcessGroup | undefined;
  readonly #stack = new DisposableStack();
  /** What a batch is written to. */
  readonly #inputs: Tensor[] = [];
  readonly #next: () => number;
  readonly #tasks;
  readonly #losses: Record<"mean" | "sum" | "composed" | "rows", DDPLoss>;
  readonly #taskInputs;
  readonly #natoms: Tensor;
  readonly #pred: Tensor;
  readonly #target: Tensor;
  readonly #half: Tensor;
  readonly #weights: readonly Tensor[];
  readonly #grads: readonly Tensor[];
  readonly #metrics: Metrics;
  readonly #adam: Adam;
  readonly #sgd: SGD;
  readonly #ema: ExponentialMovingAverage;
  /** How many numbers that were not finite it was told of. */
  told = 0;

  constructor(device: Device, program: Program, group?: ProcessGroup) {
    const { rows, batch, seed } = program;
    this.#program = program;
    this.#device = device;
    this.#group = group;
    // Each replica has numbers of its own.
    this.#next = seeded(seed + (group?.rank ?? 0));
    const stack = this.#stack;
    const options = {
      onNonFinite: (count: number): void => {
        this.told += count;
      },
      ...(group && { group }),
    };
    this.#tasks = lossOf(batch, group);
    this.#losses = {
      mean: new DDPLoss("mae", "mean", options),
      sum: new DDPLoss("mse", "sum", options),
      composed: new DDPLoss(new Squares(), "mean", options),
      rows: new DDPLoss("l2norm", "mean", options),
    };
    this.#taskInputs = Object.fromEntries(
      inputsOf(batch, 0, batch.natoms.length).map((x, i) => [
        `t${i}`,
        toTensors(device, stack, x),
      ]),
    );
    for (const { input, target, weights } of Object.values(this.#taskInputs)) {
      this.#inputs.push(input, target, ...(weights ? [weights] : []));
    }
    const input = (shape: number[], dtype: "float32" | "bfloat16"): Tensor => {
      const tensor = stack.use(device.zeros(shape, dtype));
      this.#inputs.push(tensor);
      return tensor;
    };
    this.#pred = input([rows, 3], "float32");
    this.#target = input([rows, 3], "float32");
    this.#half = input([rows, 3], "bfloat16");
    this.#natoms = stack.use(device.tensor(new Int32Array([rows, 0])));
    const parameter = (): Tensor[] => [
      stack.use(device.tensor(this.#numbers(9), [3, 3])),
      stack.use(device.tensor(Float64Array.from(this.#numbers(5)))),
      stack.use(
        device.tensor(new Uint16Array(4).fill(0x3f80), [4], "bfloat16"),
      ),
    ];
    this.#weights = parameter();
    this.#grads = parameter();
    this.#metrics = stack.use(new Metrics(device, group ? { group } : {}));
    const masters = { masterWeights: true };
    this.#adam = stack.use(new Adam(this.#weights, masters));
    this.#sgd = stack.use(new SGD(this.#weights, { momentum: 0.5, lr: 0.1 }));
    this.#ema = stack.use(
      new ExponentialMovingAverage(this.#weights, {
        useNumUpdates: seed % 2 === 0,
      }),
    );
    this.change();
  }

  #numbers(n: number): Float32Array<ArrayBuffer> {
    return Float32Array.from({ length: n }, () => this.#next() - 0.5);
  }

  /** Another batch, and another learning rate. */
  change(): void {
    for (const tensor of this.#inputs) {
      const array = emptyArray(tensor.dtype, tensor.size);
      for (let i = 0; i < array.length; i++) {
        const bad = this.#next() < 0.02;
        array[i] = tensor.dtype === "bfloat16"
          ? bad ? 0x7fc0 : Math.floor(0x3f00 + 64 * this.#next())
          : bad
          ? NaN
          : 0.1 + this.#next();
      }
      tensor.copy_(array);
    }
    this.#adam.lr = 1e-3 * this.#next();
    this.#sgd.lr = 1e-2 * this.#next();
  }

  /** Makes the calls. What it returns is to be compared. */
  step(): (Tensor | MultiTaskGrads<string>)[] {
    return this.#program.calls.flatMap((call) => this.#calls[call]());
  }

  readonly #calls: Record<Call, () => (Tensor | MultiTaskGrads<string>)[]> = {
    tasks: () => [this.#tasks.valueAndGrad(this.#taskInputs)],
    loss: () => {
      const { value, grad } = this.#losses.rows
        .valueAndGrad(this.#pred, this.#target);
      return [value, grad];
    },
    composed: () => {
      const { value, grad } = this.#losses.composed
        .valueAndGrad(this.#half, this.#half);
      return [value, grad];
    },
    value: () => [this.#losses.sum.forward(this.#pred, this.#target)],
    unreduced: () => {
      const { lossFn } = this.#losses.rows;
      using each = lossFn.forward(this.#pred, this.#target);
      using ones = this.#device.zeros(each.shape);
      return [
        this.#losses.mean.sum(this.#pred, each),
        this.#losses.mean.mean(this.#pred, each),
        lossFn.backward(this.#pred, this.#target, null, ones),
      ];
    },
    normalizer: () => {
      const loss = this.#losses.mean;
      using normalizer = loss.normalizer(2 * this.#pred.size);
      const options = { normalizer };
      using first = loss
        .valueAndGrad(this.#pred, this.#target, null, options);
      const { value, grad } = loss
        .valueAndGrad(this.#target, this.#pred, null, options);
      return [value, grad, first.grad.reshape([this.#pred.size])];
    },
    // Counted, and then not used.
    groups: () => {
      this.#losses.mean.normalizer(3).dispose();
      return [];
    },
    product: () => {
      using product = matmul(this.#pred, this.#weights[0]!);
      matmul(this.#pred, product, {
        transposeA: true,
        out: this.#grads[0]!,
        accumulate: true,
      });
      return [matmul(this.#half, this.#half, { transposeB: true })];
    },
    metrics: () => {
      this.#metrics.add({
        natoms: this.#natoms,
        forces: { input: this.#pred, target: this.#target },
      });
      return [];
    },
    clip: () => [clipGradNorm(this.#grads, 0.5, { errorIfNonfinite: true })],
    adam: () => {
      this.#adam.step(this.#grads);
      return [];
    },
    clippedAdam: () => {
      this.#adam.step(this.#grads, { maxNorm: 0.1 });
      return [];
    },
    sgd: () => {
      this.#sgd.step(this.#grads);
      return [];
    },
    average: () => {
      this.#ema.update();
      return [];
    },
    reduce: () => {
      this.#group?.allReduce(this.#grads[1]!, "max");
      return [];
    },
    broadcast: () => {
      const group = this.#group;
      group?.broadcast(this.#weights[0]!, group.worldSize - 1);
      return [];
    },
    means: () => {
      this.#group?.averageGradients(this.#grads);
      return [];
    },
    copy: () => {
      const copy = this.#device.empty([3, 3]);
      return [copy.copy_(this.#weights[0]!)];
    },
  };

  /** The bits of what it has, and of what a step has returned. */
  async bits(of: (Tensor | MultiTaskGrads<string>)[]): Promise<unknown[]> {
    const bits: unknown[] = [];
    for (const each of of) {
      if ("read" in each) {
        bits.push(await attempt(() => each.read()));
        for (const grad of Object.values(each.grads)) {
          bits.push(await bytesOf(grad!));
        }
      } else bits.push(await attempt(() => bytesOf(each)));
    }
    const { adam, sgd, ema } = {
      adam: this.#adam,
      sgd: this.#sgd,
      ema: this.#ema,
    };
    for (
      const tensor of [
        ...this.#weights,
        ...this.#grads,
        ...adam.state,
        ...sgd.state,
        ...ema.state,
      ]
    ) bits.push(await bytesOf(tensor));
    bits.push(adam.steps, sgd.steps, ema.numUpdates, this.told);
    bits.push(await this.#metrics.result());
    if (adam.gradNorm !== undefined) bits.push(await bytesOf(adam.gradNorm));
    return bits;
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

/** What it gives, or the message of what it throws. */
async function attempt<T>(read: () => Promise<T>): Promise<T | string> {
  try {
    return await read();
  } catch (error) {
    return String(error);
  }
}

async function bytesOf(tensor: Tensor): Promise<string> {
  const { buffer } = await tensor.data();
  return new Uint8Array(buffer as ArrayBuffer).toHex();
}

/**
 * Throws unless a program that is recorded once and replayed, each time with
 * another batch, gives what its calls give without, to the bit.
 */
export async function assertReplays(
  device: Device,
  program: Program,
  replays: number,
  group?: ProcessGroup,
): Promise<void> {
  using plain = new World(device, program, group);
  using recorded = new World(device, program, group);
  const before = device.memory;
  const step = device.capture(() => recorded.step());
  const compare = async (made: ReturnType<World["step"]>): Promise<void> => {
    assertEquals(
      await recorded.bits(step.result),
      await plain.bits(made),
      JSON.stringify(program.calls),
    );
    for (const each of made) each[Symbol.dispose]();
  };
  for (let i = 0; i < replays; i++) {
    plain.change();
    recorded.change();
    const made = plain.step();
    if (i % 2 === 0) step.replay();
    else await step.replayAsync();
    await compare(made);
  }
  // Several in one call.
  for (const made of [plain.step(), plain.step()]) {
    for (const each of made) each[Symbol.dispose]();
  }
  const made = plain.step();
  step.replay(3);
  await compare(made);
  step.dispose();
  plain[Symbol.dispose]();
  recorded[Symbol.dispose]();
  assert(device.memory.tensors < before.tensors);
}
