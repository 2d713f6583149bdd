/** Numbers of samples over all replicas, known before the losses that are divided by them. */
import { ArgumentError, DeviceError, DisposedError } from "../errors.ts";
import {
  countAllReduce,
  type PendingCounts,
  type ProcessGroup,
} from "../distributed/process_group.ts";
import type { Device } from "../tensor/device.ts";
import { capturing, otherCapture } from "../tensor/capture.ts";
import { addressOf, constant, partOf, Tensor } from "../tensor/tensor.ts";
import type { Divisors } from "./divisors.ts";

const DOUBLE_BYTES = 8n;

/** What a sum is multiplied by: scale, times a number in device memory. */
export interface Factor {
  readonly scale: number;
  /** Address of the number, or of those of the task's groups; 0n: 1. */
  readonly factors: bigint;
  /** What it is in; null: in nothing. */
  readonly totals: Tensor | null;
}

/**
 * The factor of a task's mean over a batch with so many samples, as far as the
 * host knows; `of` names the task in messages.
 */
export type FactorOf = (task: number, samples: number, of: string) => Factor;

/** Numbers of samples over all replicas: on the host where there is one replica. */
type Totals = DeviceTotals | HostTotals;

/** Sums that arrive on the device: nothing waits for them before they are used. */
class DeviceTotals {
  readonly device: Device;
  readonly #divisors: Divisors;
  readonly #pending: PendingCounts;
  #tensor: Tensor | undefined;

  constructor(device: Device, divisors: Divisors, pending: PendingCounts) {
    this.device = device;
    this.#divisors = divisors;
    this.#pending = pending;
    unused.register(this, pending, this);
  }

  /** The sums, then the factors, float64; from here on the device's work waits for them. */
  get tensor(): Tensor {
    if (this.#tensor === undefined) {
      const { count, minimum, table } = this.#divisors;
      const tensor = Tensor.empty(this.device, [2, count], "float64");
      try {
        this.#pending.take(minimum, table, tensor);
      } catch (error) {
        tensor.dispose();
        throw error;
      }
      this.#tensor = tensor;
    }
    return this.#tensor;
  }

  /** A tensor of the sums, which share their memory. */
  sums(): Tensor {
    return partOf(this.tensor, [this.#divisors.count], 0);
  }

  factorOf(task: number): Factor {
    const { count, first } = this.#divisors;
    const place = count + first[task]!;
    const totals = this.tensor;
    const factors = addressOf(totals) + BigInt(place) * DOUBLE_BYTES;
    return { scale: 1, factors, totals };
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

/** Sums of one replica, which its host knows. */
class HostTotals {
  readonly samples: readonly number[];
  readonly #divisors: Divisors;
  /** The same on the device, which computes the factors of groups. */
  #onDevice: DeviceTotals | undefined;

  constructor(samples: readonly number[], divisors: Divisors) {
    this.samples = samples;
    this.#divisors = divisors;
  }

  sums(): readonly number[] {
    return this.samples;
  }

  factorOf(task: number, device: Device): Factor {
    const divisors = this.#divisors;
    if (divisors.hasGroups(task)) {
      return this.#totalsOn(device).factorOf(task);
    }
    const samples = this.samples[divisors.first[task]!]!;
    const scale = divisors.factor(task, samples);
    return { scale, factors: 0n, totals: null };
  }

  #totalsOn(device: Device): DeviceTotals {
    if (this.#onDevice === undefined) {
      using samples = constant(device, Float64Array.from(this.samples));
      const pending = countAllReduce(undefined, samples);
      const totals = new DeviceTotals(device, this.#divisors, pending);
      totals.tensor; // taken while the samples are there
      this.#onDevice = totals;
    }
    if (this.#onDevice.device !== device) {
      throw new DeviceError(
        `the normalizer is on ${this.#onDevice.device.name}, the input on ${device.name}`,
      );
    }
    return this.#onDevice;
  }

  [Symbol.dispose](): void {
    this.#onDevice?.[Symbol.dispose]();
  }
}

let create: (
  totals: Totals,
  worldSize: number,
  owner: object,
  divisors: Divisors,
  samples: readonly number[] | undefined,
) => Normalizer;
let friend: {
  factors: (normalizer: Normalizer, device: Device, owner: object) => FactorOf;
  sums: (normalizer: Normalizer) => Tensor | readonly number[];
};

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
  readonly #divisors: Divisors;
  /** Those of this replica, if its host knows them. */
  readonly #samples: readonly number[] | undefined;
  readonly #capture = capturing;
  #disposed = false;

  static {
    create = (totals, worldSize, owner, divisors, samples) =>
      new Normalizer(totals, worldSize, owner, divisors, samples);
    friend = {
      factors: (normalizer, device, owner) =>
        normalizer.#factors(device, owner),
      sums: (normalizer) => normalizer.#open().sums(),
    };
  }

  private constructor(
    totals: Totals,
    worldSize: number,
    owner: object,
    divisors: Divisors,
    samples: readonly number[] | undefined,
  ) {
    this.#totals = totals;
    this.#worldSize = worldSize;
    this.#owner = owner;
    this.#divisors = divisors;
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
    if (this.#capture !== capturing) throw otherCapture("the normalizer");
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
    const divisors = this.#divisors;
    return (task, samples, of) => {
      const all = this.#samples?.[divisors.first[task]!] ?? samples;
      if (samples > all && divisors.isCount(task)) {
        throw new ArgumentError(
          `the normalizer was made for ${all} samples${of}, this batch alone has ${samples} or more: ` +
            "pass normalizer() the number of the whole step, over all micro-batches",
        );
      }
      const factor = totals.factorOf(task, device);
      return { ...factor, scale: this.#worldSize * factor.scale };
    };
  }

  /**
   * The numbers of samples over all replicas, in the order of the tasks, those
   * of a task's groups one after another. Waits for the device.
   *
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  async totals(): Promise<number[]> {
    const sums = this.#open().sums();
    if (!(sums instanceof Tensor)) return [...sums];
    using tensor = sums;
    return await tensor.toList();
  }

  /** Gives its memory back. Safe to call again. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#totals[Symbol.dispose]();
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
  divisors: Divisors,
  owner: object,
): Normalizer {
  if (group === undefined || group.worldSize === 1) {
    return create(
      new HostTotals(samples, divisors),
      1,
      owner,
      divisors,
      samples,
    );
  }
  const pending = countAllReduce(group, samples);
  return create(
    new DeviceTotals(group.device, divisors, pending),
    group.worldSize,
    owner,
    divisors,
    samples,
  );
}

/** Totals of numbers (float64) that the device computes: enqueues their collective. */
export function normalizerOfTensor(
  group: ProcessGroup | undefined,
  samples: Tensor,
  divisors: Divisors,
  owner: object,
): Normalizer {
  const pending = countAllReduce(group, samples);
  return create(
    new DeviceTotals(samples.device, divisors, pending),
    group?.worldSize ?? 1,
    owner,
    divisors,
    undefined,
  );
}

/** The factor of the mean of each task. Throws unless the normalizer fits this loss and device. */
export function factorsOf(
  normalizer: Normalizer,
  device: Device,
  owner: object,
): FactorOf {
  return friend.factors(normalizer, device, owner);
}

/** The numbers of samples over all replicas: to be disposed, where they are a tensor. */
export function sumsOf(normalizer: Normalizer): Tensor | readonly number[] {
  return friend.sums(normalizer);
}

/** Throws unless samples is a number of samples. */
export function checkSamples(samples: number, what: string): void {
  if (!(Number.isSafeInteger(samples) && samples >= 0)) {
    throw new ArgumentError(
      `${what} is ${samples}, expected the number of samples on this replica, an integer >= 0`,
    );
  }
}
