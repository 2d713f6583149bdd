/** What a multi-task loss leaves: its values in one block, and the gradients. */
import { capturing } from "../tensor/capture.ts";
import type { Device } from "../tensor/device.ts";
import {
  onResult,
  partOf,
  remarksOf,
  RESULT_BYTES,
  type ResultListener,
  Tensor,
} from "../tensor/tensor.ts";

/** The losses of the tasks, as numbers. */
export interface MultiTaskNumbers<Name extends string> {
  /** Sum of the values. */
  readonly total: number;
  /** Value of each task, its coefficient included. */
  readonly values: { readonly [name in Name]: number };
  /**
   * What the mean of each task was divided by, over all replicas and
   * micro-batches of the step: the number of its entries or structures, or the
   * sum of their weights; of `"per_group"` a list, one number per group; 1 for a
   * sum. 0: there was nothing to learn from anywhere, and the value is 0.
   */
  readonly samples: { readonly [name in Name]: number | readonly number[] };
}

/** The losses of the tasks. Disposing it disposes all tensors. */
export interface MultiTaskValues<Name extends string> extends Disposable {
  /** Sum of the values, a float64 scalar. */
  readonly total: Tensor;
  /** Value of each task, its coefficient included, a float64 scalar. */
  readonly values: { readonly [name in Name]: Tensor };
  /**
   * All of them as numbers. Waits for the device once, like `data()`.
   *
   * @throws What `data()` throws.
   */
  read(): Promise<MultiTaskNumbers<Name>>;
}

/** The losses of the tasks and their gradients. Disposing it disposes all tensors. */
export interface MultiTaskGrads<Name extends string>
  extends MultiTaskValues<Name> {
  /** Gradient of the total with respect to each input; absent where that is. */
  readonly grads: { readonly [name in Name]?: Tensor };
}

/** Knows which of the samples of all tasks are which task's. */
interface TaskSamples {
  split(samples: readonly number[]): readonly (number | readonly number[])[];
}

/** The tensors of one call, or of several that write to the same. */
export class MultiTaskResult<Name extends string>
  implements MultiTaskGrads<Name> {
  readonly total: Tensor;
  readonly values: { readonly [name in Name]: Tensor };
  /** The values in the order of the tasks. */
  readonly list: readonly Tensor[];
  /** Gradients in that order: also those of former calls, to be written again. */
  readonly kept: (Tensor | undefined)[];
  /** Who made it. */
  readonly owner: object;
  /** In which it was made. */
  readonly capture = capturing;
  readonly #names: readonly Name[];
  /** Of the total, then of the tasks. */
  readonly #remarks: readonly ResultListener[];
  /** The total, then the values: al_loss_result each. */
  readonly #block: Tensor;
  #grads: { readonly [name in Name]?: Tensor } = {};
  /** The same in the order of the tasks. */
  #written: readonly (Tensor | undefined)[] = [];
  /** What the means were divided by, one after another: of one replica, or on the device. */
  #samples: Tensor | readonly number[] = [];
  /** Tells those of the tasks apart. */
  #tasks: TaskSamples | undefined;

  /** Tensors for values that are not written yet; no gradients. */
  constructor(
    device: Device,
    names: readonly Name[],
    remarks: readonly ResultListener[],
    owner: object,
  ) {
    this.#names = names;
    this.#remarks = remarks;
    this.#block = Tensor.empty(
      device,
      [names.length + 1, RESULT_BYTES / 8],
      "float64",
    );
    const [total, ...list] = remarks.map((listener, i) => {
      const value = partOf(this.#block, [], i * RESULT_BYTES);
      onResult(value, listener);
      return value;
    });
    this.total = total!;
    this.list = list;
    this.values = Object.fromEntries(
      names.map((name, i) => [name, list[i]!]),
    ) as {
      readonly [name in Name]: Tensor;
    };
    this.kept = names.map(() => undefined);
    this.owner = owner;
  }

  get grads(): { readonly [name in Name]?: Tensor } {
    return this.#grads;
  }

  /** The gradients that a call has written, in the order of the tasks. */
  setGrads(grads: readonly (Tensor | undefined)[]): void {
    if (grads.every((grad, i) => grad === this.#written[i])) return;
    this.#written = grads;
    const byName: { [name in Name]?: Tensor } = {};
    this.#names.forEach((name, i) => {
      const grad = grads[i];
      if (grad !== undefined) byName[name] = this.kept[i] = grad;
    });
    this.#grads = byName;
  }

  /** What the means of a call were divided by, and who tells the tasks apart. */
  setSamples(
    samples: Tensor | readonly number[],
    tasks: TaskSamples,
  ): void {
    this.#disposeSamples();
    this.#samples = samples;
    this.#tasks = tasks;
  }

  #disposeSamples(): void {
    if (this.#samples instanceof Tensor) this.#samples.dispose();
  }

  async read(): Promise<MultiTaskNumbers<Name>> {
    const known = this.#samples;
    const tasks = this.#tasks;
    const [data, totals] = await Promise.all([
      this.#block.data() as Promise<Float64Array<ArrayBuffer>>,
      known instanceof Tensor ? known.toList() : known,
    ]);
    const tell = (i: number): void =>
      this.#remarks[i]!(
        remarksOf(new DataView(data.buffer, i * RESULT_BYTES, RESULT_BYTES)),
      );
    // The tasks first: a wrong natoms is told with the name of its task.
    this.list.forEach((_, i) => tell(i + 1));
    tell(0);
    const samples = tasks?.split(totals) ?? [];
    const byName = <T>(
      of: (task: number) => T,
    ): { readonly [name in Name]: T } =>
      Object.fromEntries(this.#names.map((name, i) => [name, of(i)])) as {
        readonly [name in Name]: T;
      };
    return {
      total: data[0]!,
      values: byName((i) => data[(i + 1) * RESULT_BYTES / 8]!),
      samples: byName((i) => samples[i]!),
    };
  }

  [Symbol.dispose](): void {
    this.total.dispose();
    for (const value of this.list) value.dispose();
    this.#block.dispose();
    this.#disposeSamples();
    for (const grad of this.kept) grad?.dispose();
  }
}
