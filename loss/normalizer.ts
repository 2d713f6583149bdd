/** Numbers of samples over all replicas, known before the losses that are divided by them. */
import { ArgumentError, DeviceError, DisposedError } from "../errors.ts";
import {
  countAllReduce,
  type PendingCounts,
  type ProcessGroup,
} from "../distributed/process_group.ts";
import type { Device } from "../tensor/device.ts";
import { addressOf, Tensor } from "../tensor/tensor.ts";

const DOUBLE_BYTES = 8n;

/** What a sum is multiplied by: scale, divided by a number in device memory. */
export interface Factor {
  readonly scale: number;
  /** Address of the number; 0n: 1. */
  readonly normalizer: bigint;
}

/**
 * The factor of a task's mean over a batch with so many samples, as far as the
 * host knows; `of` names the task in messages.
 */
export type FactorOf = (task: number, samples: number, of: string) => Factor;

/** The numbers of samples over all replicas: on the host where there is one replica. */
type Totals = DeviceTotals | readonly number[];

/** Sums that arrive on the device: nothing waits for them before they are used. */
class DeviceTotals {
  readonly device: Device;
  readonly #n: number;
  readonly #minimum: number;
  readonly #pending: PendingCounts;
  #tensor: Tensor | undefined;

  constructor(
    device: Device,
    n: number,
    minimum: number,
    pending: PendingCounts,
  ) {
    this.device = device;
    this.#n = n;
    this.#minimum = minimum;
    this.#pending = pending;
    unused.register(this, pending, this);
  }

  /** The sums as a float64 tensor; from here on the device's work waits for them. */
  get tensor(): Tensor {
    if (this.#tensor === undefined) {
      const tensor = Tensor.empty(this.device, [this.#n], "float64");
      try {
        this.#pending.take(this.#minimum, tensor);
      } catch (error) {
        tensor.dispose();
        throw error;
      }
      this.#tensor = tensor;
    }
    return this.#tensor;
  }

  [Symbol.dispose](): void {
    unused.unregister(this);
    this.#pending.drop();
    this.#tensor?.dispose();
  }
}

/** Gives up sums whose normalizer was neither used nor disposed. */
const unused = new FinalizationRegistry<PendingCounts>((pending) =>
  pending.drop()
);

let create: (
  totals: Totals,
  worldSize: number,
  owner: object,
  samples: readonly number[] | undefined,
) => Normalizer;
let friend: (
  normalizer: Normalizer,
  device: Device,
  owner: object,
) => FactorOf;

/**
 * The numbers of samples that the means of one step are divided by, over all
 * replicas and micro-batches. `loss.normalizer(samples)` makes it and starts
 * its collective at once; made before the model runs, it has arrived when the
 * loss is computed (on GPUs; on CPUs a collective holds its caller).
 *
 * Pass the same normalizer to every `valueAndGrad` of a step: the values and
 * gradients of its micro-batches then add up to the mean over all replicas and
 * micro-batches, however they are divided.
 *
 * @example
 * ```ts
 * import { DDPLoss, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * const loss = new DDPLoss("mae");
 * using normalizer = loss.normalizer(3); // of the whole step, on this replica
 * let value = 0;
 * for (const micro of [[1, 2], [6]]) {
 *   using pred = device.tensor(new Float32Array(micro));
 *   using target = device.zeros([micro.length]);
 *   using result = loss.valueAndGrad(pred, target, null, { normalizer });
 *   value += await result.value.item();
 * }
 * console.log(value); // 3
 * ```
 */
export class Normalizer implements Disposable {
  readonly #totals: Totals;
  readonly #worldSize: number;
  readonly #owner: object;
  /** Those of this replica, if its host knows them. */
  readonly #samples: readonly number[] | undefined;
  #disposed = false;

  static {
    create = (totals, worldSize, owner, samples) =>
      new Normalizer(totals, worldSize, owner, samples);
    friend = (normalizer, device, owner) => normalizer.#factors(device, owner);
  }

  private constructor(
    totals: Totals,
    worldSize: number,
    owner: object,
    samples: readonly number[] | undefined,
  ) {
    this.#totals = totals;
    this.#worldSize = worldSize;
    this.#owner = owner;
    this.#samples = samples;
  }

  #open(): Totals {
    if (this.#disposed) {
      throw new DisposedError("this Normalizer was disposed");
    }
    return this.#totals;
  }

  #factors(device: Device, owner: object): FactorOf {
    const totals = this.#open();
    if (this.#owner !== owner) {
      throw new ArgumentError(
        "the normalizer was made by another loss: use the one of this loss's normalizer()",
      );
    }
    if (totals instanceof DeviceTotals && totals.device !== device) {
      throw new DeviceError(
        `the normalizer is on ${totals.device.name}, the input on ${device.name}`,
      );
    }
    const scale = this.#worldSize;
    const first = totals instanceof DeviceTotals
      ? addressOf(totals.tensor)
      : 0n;
    return (task, samples, of) => {
      const all = this.#samples?.[task] ?? samples;
      if (samples > all) {
        throw new ArgumentError(
          `the normalizer was made for ${all} samples${of}, this batch alone has ${samples} or more: ` +
            "pass normalizer() the number of the whole step, over all micro-batches",
        );
      }
      return totals instanceof DeviceTotals
        ? { scale, normalizer: first + BigInt(task) * DOUBLE_BYTES }
        : { scale: scale / totals[task]!, normalizer: 0n };
    };
  }

  /**
   * The numbers of samples over all replicas, in the order of the tasks. Waits
   * for the device.
   *
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  async totals(): Promise<number[]> {
    const totals = this.#open();
    return totals instanceof DeviceTotals
      ? await totals.tensor.toList()
      : [...totals];
  }

  /** Gives its memory back. Safe to call again. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#totals instanceof DeviceTotals) this.#totals[Symbol.dispose]();
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}

/** Totals of numbers that this replica's host knows: starts their collective. */
export function normalizerOf(
  group: ProcessGroup | undefined,
  samples: readonly number[],
  minimum: number,
  owner: object,
): Normalizer {
  if (group === undefined || group.worldSize === 1) {
    const totals = samples.map((n) => Math.max(n, minimum));
    return create(totals, 1, owner, samples);
  }
  const pending = countAllReduce(group, samples);
  return create(
    new DeviceTotals(group.device, samples.length, minimum, pending),
    group.worldSize,
    owner,
    samples,
  );
}

/** Totals of numbers (int64) that the device computes: enqueues their collective. */
export function normalizerOfTensor(
  group: ProcessGroup | undefined,
  samples: Tensor,
  minimum: number,
  owner: object,
): Normalizer {
  const pending = countAllReduce(group, samples);
  return create(
    new DeviceTotals(samples.device, samples.size, minimum, pending),
    group?.worldSize ?? 1,
    owner,
    undefined,
  );
}

/** The factor of the mean of each task. Throws unless the normalizer fits this loss and device. */
export function factorsOf(
  normalizer: Normalizer,
  device: Device,
  owner: object,
): FactorOf {
  return friend(normalizer, device, owner);
}

/** Throws unless samples is a number of samples. */
export function checkSamples(samples: number, what: string): void {
  if (!(Number.isSafeInteger(samples) && samples >= 0)) {
    throw new ArgumentError(
      `${what} is ${samples}, expected the number of samples on this replica, an integer >= 0`,
    );
  }
}
