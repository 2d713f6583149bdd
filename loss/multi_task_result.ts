/** What a multi-task loss leaves: its values in one block, and the gradients. */
import type { Device } from "../tensor/device.ts";
import { onNonFinite, partOf, RESULT_BYTES, Tensor } from "../tensor/tensor.ts";

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
  /** All of them as numbers, by one transfer. Waits for the device, like `data()`. */
  read(): Promise<MultiTaskNumbers<Name>>;
}

/** The losses of the tasks and their gradients. Disposing it disposes all tensors. */
export interface MultiTaskGrads<Name extends string>
  extends MultiTaskValues<Name> {
  /** Gradient of the total with respect to each input; absent where that is. */
  readonly grads: { readonly [name in Name]?: Tensor };
}

/** Told of non-finite inputs of a task, or of all of them (undefined). */
export type TaskListener = (count: number, task: string | undefined) => void;

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
  readonly #listener: TaskListener;
  /** The total, then the values: al_loss_result each. */
  readonly #block: Tensor;
  #grads: { readonly [name in Name]?: Tensor } = {};

  /** Tensors for values that are not written yet; no gradients. */
  constructor(
    device: Device,
    names: readonly Name[],
    listener: TaskListener,
    owner: object,
  ) {
    this.#names = names;
    this.#listener = listener;
    this.#block = Tensor.empty(device, [names.length + 1, 2], "float64");
    const [total, ...list] = [undefined, ...names].map((task, i) => {
      const value = partOf(this.#block, [], i * RESULT_BYTES);
      onNonFinite(value, (count) => listener(count, task));
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
    const counts = new BigInt64Array(data.buffer);
    [undefined, ...this.#names].forEach((task, i) => {
      const count = counts[2 * i + 1]!;
      if (count > 0n) this.#listener(Number(count), task);
    });
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
