/** al_loss_task of kernels/atomloss.h: the losses that share a launch, as the native library takes them. */
import { type Device, nativeOf } from "../tensor/device.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import {
  addressOf,
  checkTraced,
  type Flow,
  pointerOf,
  type Tensor,
} from "../tensor/tensor.ts";
import type { LossInput } from "./native_loss.ts";
import { MAX_PARAMETERS } from "./parameters.ts";
import type { Spread } from "./spread.ts";

/** Bytes of the struct, and where its members are, in units of their size. */
const STRUCT_BYTES = 360;
const STRUCT_WORDS = STRUCT_BYTES / 8;
const STRUCT_INTS = STRUCT_BYTES / 4;
const WORD = {
  pred: 0,
  target: 1,
  natoms: 2,
  grad: 3,
  result: 4,
  rows: 5,
  cols: 6,
  structures: 7,
  parameters: 10,
  mask: 26,
  weights: 30,
  scale: 34,
  structure_weights: 38,
  groups: 40,
  factors: 42,
  coefficient: 43,
  wrong: 44,
};
const INT = {
  loss: 16,
  dtype: 17,
  natoms_dtype: 18,
  value_dtype: 19,
  targets: 78,
  group_count: 79,
  groups_dtype: 82,
  samples: 83,
};
/** Members of al_spread, behind its first. */
const SPREAD = { by_row: 1, row_stride: 2, col_stride: 3 };

/** al_targets of kernels/atomloss.h. */
const TARGETS = { asTheyAre: 0, finite: 1, labels: 2 };
/** What a target that is not finite is. */
export type Targets = keyof typeof TARGETS;

/** al_samples of kernels/atomloss.h. */
const SAMPLES = {
  entries: 0,
  weights: 1,
  structuresWithLoss: 2,
  structures: 3,
};
/** What the mean of a task is divided by. */
export type Samples = keyof typeof SAMPLES;

/** Host memory for the structs of a number of tasks, kept between calls. */
export class TaskTable {
  readonly #count: number;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #words: BigUint64Array;
  readonly #doubles: Float64Array;
  readonly #ints: Int32Array;

  constructor(count: number) {
    const buffer = new ArrayBuffer(count * STRUCT_BYTES);
    this.#count = count;
    this.#bytes = new Uint8Array(buffer);
    this.#words = new BigUint64Array(buffer);
    this.#doubles = new Float64Array(buffer);
    this.#ints = new Int32Array(buffer);
    for (let i = 0; i < count; i++) {
      this.#ints[i * STRUCT_INTS + INT.group_count] = 1;
    }
  }

  /** What a task compares. */
  setInput(
    index: number,
    input: LossInput,
    pred: Tensor,
    target: Tensor,
    targets: Targets,
  ): void {
    const words = this.#words;
    const word = index * STRUCT_WORDS;
    const { natoms } = input;
    words[word + WORD.pred] = addressOf(pred);
    words[word + WORD.target] = addressOf(target);
    this.#address(word + WORD.natoms, natoms);
    this.#integer(word + WORD.rows, input.rows);
    this.#integer(word + WORD.cols, input.cols);

    const ints = this.#ints;
    const int = index * STRUCT_INTS;
    ints[int + INT.loss] = input.loss;
    ints[int + INT.dtype] = dtypeCode(pred.dtype);
    ints[int + INT.natoms_dtype] = dtypeCode(natoms?.dtype ?? "int64");
    ints[int + INT.targets] = TARGETS[targets];
  }

  /** A task that this replica has no part in: no rows. */
  setAbsent(index: number, loss: number, groups: number): void {
    const word = index * STRUCT_WORDS;
    this.#words.fill(0n, word, word + STRUCT_WORDS);
    const int = index * STRUCT_INTS;
    this.#ints[int + INT.loss] = loss;
    this.#ints[int + INT.group_count] = groups;
  }

  /** The parameters of a task's loss. */
  setParameters(index: number, values: Float64Array): void {
    const word = index * STRUCT_WORDS + WORD.parameters;
    for (let i = 0; i < MAX_PARAMETERS; i++) {
      this.#doubles[word + i] = values[i]!;
    }
  }

  /** What a task's entries weigh, and with which scale its loss sees them. */
  setWeights(
    index: number,
    mask: Spread | null,
    weights: Spread | null,
    scale: Spread | null,
  ): void {
    this.#setSpread(index, WORD.mask, mask);
    this.#setSpread(index, WORD.weights, weights);
    this.#setSpread(index, WORD.scale, scale);
  }

  /** Which structures a task's rows are of, and what these weigh (null: they do not). */
  setStructures(
    index: number,
    natoms: Tensor | null,
    structureWeights: Tensor | null,
  ): void {
    const word = index * STRUCT_WORDS;
    this.#address(word + WORD.structure_weights, structureWeights);
    this.#integer(word + WORD.structures, natoms?.size ?? 0);
    if (natoms === null) return;
    this.#words[word + WORD.natoms] = addressOf(natoms);
    const int = index * STRUCT_INTS;
    this.#ints[int + INT.natoms_dtype] = dtypeCode(natoms.dtype);
  }

  /** Which groups a task's rows are of, and what the mean of a group is divided by. */
  setGroups(
    index: number,
    groups: Tensor | null,
    count: number,
    samples: Samples,
  ): void {
    this.#address(index * STRUCT_WORDS + WORD.groups, groups);
    const int = index * STRUCT_INTS;
    this.#ints[int + INT.group_count] = count;
    this.#ints[int + INT.groups_dtype] = dtypeCode(groups?.dtype ?? "int64");
    this.#ints[int + INT.samples] = SAMPLES[samples];
  }

  /** Where the device says what is wrong with natoms and groups: two int64. 0n: nothing can be. */
  setWrong(index: number, place: bigint): void {
    this.#words[index * STRUCT_WORDS + WORD.wrong] = place;
  }

  /** What a task writes. */
  setOutput(index: number, value: Tensor, grad: Tensor | null): void {
    const word = index * STRUCT_WORDS;
    this.#words[word + WORD.result] = addressOf(value);
    this.#address(word + WORD.grad, grad);
    const int = index * STRUCT_INTS;
    this.#ints[int + INT.value_dtype] = dtypeCode(value.dtype);
  }

  /** What value and gradient are multiplied by: a number, times what is at an address (0n: 1). */
  setFactor(index: number, coefficient: number, factors: bigint): void {
    const word = index * STRUCT_WORDS;
    this.#doubles[word + WORD.coefficient] = coefficient;
    this.#words[word + WORD.factors] = factors;
  }

  #setSpread(index: number, member: number, spread: Spread | null): void {
    const word = index * STRUCT_WORDS + member;
    this.#address(word, spread?.values ?? null);
    this.#address(word + SPREAD.by_row, spread?.byRow ?? null);
    this.#integer(word + SPREAD.row_stride, spread?.rowStride ?? 0);
    this.#integer(word + SPREAD.col_stride, spread?.colStride ?? 0);
  }

  /** Where a tensor is; null: 0. */
  #address(word: number, tensor: Tensor | null): void {
    if (tensor === null) this.#integer(word, 0);
    else this.#words[word] = addressOf(tensor);
  }

  /** A 64-bit integer without making a BigInt of it. */
  #integer(word: number, value: number): void {
    this.#ints[2 * word] = value;
    this.#ints[2 * word + 1] = value / 2 ** 32;
  }

  /** Counts the samples of every task's groups (float64), and weighs structures. */
  countSamples(device: Device, counts: Tensor, flow: () => Flow): void {
    const { library, handle } = nativeOf(device);
    checkTraced(
      device,
      library.symbols.al_count_samples(
        handle,
        this.#count,
        this.#bytes,
        pointerOf(counts),
      ),
      flow,
    );
  }

  /** Enqueues the fused pass over all tasks. */
  reduce(device: Device, total: Tensor | null, flow: () => Flow): void {
    const { library, handle } = nativeOf(device);
    checkTraced(
      device,
      library.symbols.al_loss_reduce(
        handle,
        this.#count,
        this.#bytes,
        total && pointerOf(total),
      ),
      flow,
    );
  }
}
