/** al_loss_task of kernels/atomloss.h: the losses that share a launch, as the native library takes them. */
import { type Device, nativeOf } from "../tensor/device.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { addressOf, type Tensor } from "../tensor/tensor.ts";
import type { LossInput } from "./native_loss.ts";

/** Bytes of the struct, and where its members are, in units of their size. */
const STRUCT_BYTES = 120;
const STRUCT_WORDS = STRUCT_BYTES / 8;
const STRUCT_INTS = STRUCT_BYTES / 4;
const WORD = {
  pred: 0,
  target: 1,
  natoms: 2,
  mask: 3,
  row_weights: 4,
  grad: 5,
  result: 6,
  normalizer: 7,
  scale: 8,
  rows: 9,
  cols: 10,
  structures: 11,
};
const INT = {
  loss: 24,
  dtype: 25,
  natoms_dtype: 26,
  value_dtype: 27,
  flags: 28,
};

/** al_task_flags of kernels/atomloss.h. */
const FLAG = { maskPerRow: 1, zeroNonFinite: 2, perStructure: 4 };

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
  }

  /**
   * What a task reads. `structures`: atoms per structure, where entries are
   * weighed per structure by `rowWeights`. `zeroNonFinite`: whether targets that
   * are not finite, and a value that is NaN, count as 0.
   */
  setInput(
    index: number,
    input: LossInput,
    pred: Tensor,
    target: Tensor,
    mask: Tensor | null,
    structures: Tensor | null,
    rowWeights: Tensor | null,
    zeroNonFinite: boolean,
  ): void {
    const words = this.#words;
    const word = index * STRUCT_WORDS;
    const natoms = structures ?? input.natoms;
    words[word + WORD.pred] = addressOf(pred);
    words[word + WORD.target] = addressOf(target);
    words[word + WORD.natoms] = address(natoms);
    words[word + WORD.mask] = address(mask);
    words[word + WORD.row_weights] = address(rowWeights);
    this.#integer(word + WORD.rows, input.rows);
    this.#integer(word + WORD.cols, input.cols);
    this.#integer(word + WORD.structures, structures?.size ?? 0);

    const ints = this.#ints;
    const int = index * STRUCT_INTS;
    const perRow = mask !== null &&
      (input.kind === "row" || mask.size !== input.rows * input.cols);
    ints[int + INT.loss] = input.loss;
    ints[int + INT.dtype] = dtypeCode(pred.dtype);
    ints[int + INT.natoms_dtype] = dtypeCode(natoms?.dtype ?? "int64");
    ints[int + INT.flags] = (perRow ? FLAG.maskPerRow : 0) |
      (zeroNonFinite ? FLAG.zeroNonFinite : 0) |
      (structures === null ? 0 : FLAG.perStructure);
  }

  /** A task that this replica has no part in: no rows. */
  setAbsent(index: number, loss: number): void {
    const word = index * STRUCT_WORDS;
    this.#words.fill(0n, word, word + STRUCT_WORDS);
    this.#ints[index * STRUCT_INTS + INT.loss] = loss;
  }

  /** What a task writes. */
  setOutput(index: number, value: Tensor, grad: Tensor | null): void {
    const word = index * STRUCT_WORDS;
    this.#words[word + WORD.result] = addressOf(value);
    this.#words[word + WORD.grad] = address(grad);
    const int = index * STRUCT_INTS;
    this.#ints[int + INT.value_dtype] = dtypeCode(value.dtype);
  }

  /** The factor of value and gradient: scale, divided by what is at an address (0n: 1). */
  setFactor(index: number, scale: number, normalizer: bigint): void {
    const word = index * STRUCT_WORDS;
    this.#doubles[word + WORD.scale] = scale;
    this.#words[word + WORD.normalizer] = normalizer;
  }

  /** A 64-bit integer without making a BigInt of it. */
  #integer(word: number, value: number): void {
    this.#ints[2 * word] = value;
    this.#ints[2 * word + 1] = value / 2 ** 32;
  }

  /** Counts the samples of every task, and weighs rows per structure. */
  countSamples(device: Device, counts: Tensor): void {
    const { library, handle } = nativeOf(device);
    library.check(
      library.symbols.al_count_samples(
        handle,
        this.#count,
        this.#bytes,
        counts.pointer,
      ),
    );
  }

  /** Enqueues the fused pass over all tasks. */
  reduce(device: Device, total: Tensor | null): void {
    const { library, handle } = nativeOf(device);
    library.check(
      library.symbols.al_loss_reduce(
        handle,
        this.#count,
        this.#bytes,
        total?.pointer ?? null,
      ),
    );
  }
}

function address(tensor: Tensor | null): bigint {
  return tensor === null ? 0n : addressOf(tensor);
}
