/** What a multi-task loss leaves: its values in one block, and the gradients. */
import type { Device } from "../tensor/device.ts";
import {
  onResult,
  partOf,
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
}

/** The losses of the tasks. Disposing it disposes all tensors. */
export interface MultiTaskValues<Name extends string> extends Disposable {
  /** Sum of the values, a float64 scalar. */
  readonly total: Tensor;
  /** Value of each task, its coefficient included, a float64 scalar. */
  readonly values: { readonly [name in Name]: Tensor };
  /**
   * All of them as numbers, by one transfer. Waits for the device, like `data()`.
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
  readonly #names: readonly Name[];
  /** Of the total, then of the tasks. */
  readonly #remarks: readonly ResultListener[];
  /** The total, then the values: al_loss_result each. */
  readonly #block: Tensor;
  #grads: { readonly [name in Name]?: Tensor } = {};

  /** Tensors for values that are not written yet; no gradients. */
  constructor(
    device: Device,
    names: readonly Name[],
    remarks: readonly ResultListener[],
    owner: object,
  ) {
    this.#names = names;
    this.#remarks = remarks;
    this.#block = Tensor.empty(device, [names.length + 1, 2], "float64");
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
    const same = this.#names.every((name, i) => this.#grads[name] === grads[i]);
    if (same) return;
    const byName: { [name in Name]?: Tensor } = {};
    this.#names.forEach((name, i) => {
      const grad = grads[i];
      if (grad !== undefined) byName[name] = this.kept[i] = grad;
    });
    this.#grads = byName;
  }

  async read(): Promise<MultiTaskNumbers<Name>> {
    const data = await this.#block.data() as Float64Array<ArrayBuffer>;
    const words = new BigInt64Array(data.buffer);
    const tell = (i: number) => this.#remarks[i]!(words[2 * i + 1]!);
    // The tasks first: a wrong natoms is told with the name of its task.
    this.list.forEach((_, i) => tell(i + 1));
    tell(0);
    return {
      total: data[0]!,
      values: Object.fromEntries(
        this.#names.map((name, i) => [name, data[2 * (i + 1)]!]),
      ) as { readonly [name in Name]: number },
    };
  }

  [Symbol.dispose](): void {
    this.total.dispose();
    for (const value of this.list) value.dispose();
    this.#block.dispose();
    for (const grad of this.kept) grad?.dispose();
  }
}
