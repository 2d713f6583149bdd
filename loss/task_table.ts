/** al_loss_task of kernels/atomloss.h: the losses that share a launch, as the native library takes them. */
import { type Device, nativeOf } from "../tensor/device.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { addressOf, type Tensor } from "../tensor/tensor.ts";
import type { LossInput } from "./native_loss.ts";

/** Bytes of the struct, and where its members are, in units of their size. */
const STRUCT_BYTES = 120;
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

/** One task: tensors that were checked, and what is made of them. */
export interface Task {
  /** What the loss makes of its input. */
  readonly input: LossInput;
  /** Predictions; absent on a replica that has no part in the task. */
  readonly pred: Tensor | undefined;
  /** References, like `pred`. */
  readonly target: Tensor | undefined;
  /** Entries that count; absent: all. */
  readonly mask?: Tensor | undefined;
  /** Atoms per structure, where entries are weighed per structure. */
  readonly structures?: Tensor | undefined;
  /** Where those weights go, a number per row. */
  readonly rowWeights?: Tensor | undefined;
  /** Whether non-finite targets, and a value that is NaN, count as 0. */
  readonly zeroNonFinite: boolean;
  /** Where the value goes. */
  readonly value: Tensor;
  /** Where the gradient goes, if it is wanted. */
  readonly grad: Tensor | undefined;
  /** The factor of value and gradient, apart from the normalizer. */
  readonly scale: number;
  /** Address of the number to divide by; 0n: 1. */
  readonly normalizer: bigint;
}

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

  /** Writes a task's struct. */
  set(index: number, task: Task): void {
    const { input, mask, structures } = task;
    const words = this.#words;
    const word = index * (STRUCT_BYTES / 8);
    const natoms = structures ?? input.natoms ?? undefined;
    words[word + WORD.pred] = address(task.pred);
    words[word + WORD.target] = address(task.target);
    words[word + WORD.natoms] = address(natoms);
    words[word + WORD.mask] = address(mask);
    words[word + WORD.row_weights] = address(task.rowWeights);
    words[word + WORD.grad] = address(task.grad);
    words[word + WORD.result] = address(task.value);
    words[word + WORD.normalizer] = task.normalizer;
    this.#doubles[word + WORD.scale] = task.scale;
    this.#integer(word + WORD.rows, input.rows);
    this.#integer(word + WORD.cols, input.cols);
    this.#integer(word + WORD.structures, structures?.size ?? 0);

    const ints = this.#ints;
    const int = index * (STRUCT_BYTES / 4);
    const perRow = mask !== undefined &&
      (input.kind === "row" || mask.size !== input.rows * input.cols);
    ints[int + INT.loss] = input.loss;
    ints[int + INT.dtype] = dtypeCode(task.pred?.dtype ?? "float32");
    ints[int + INT.natoms_dtype] = dtypeCode(natoms?.dtype ?? "int64");
    ints[int + INT.value_dtype] = dtypeCode(task.value.dtype);
    ints[int + INT.flags] = (perRow ? FLAG.maskPerRow : 0) |
      (task.zeroNonFinite ? FLAG.zeroNonFinite : 0) |
      (structures === undefined ? 0 : FLAG.perStructure);
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
  reduce(device: Device, total: Tensor | undefined): void {
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

function address(tensor: Tensor | undefined): bigint {
  return tensor === undefined ? 0n : addressOf(tensor);
}
