/** A loss with a mask over all replicas, as the reference trains many tasks with. */
import {
  onResult,
  type ResultListener,
  type Tensor,
} from "../tensor/tensor.ts";
import type { Loss } from "./loss.ts";
import {
  type MaskedReduction,
  maskedTask,
  MaskedTasks,
  type TaskCall,
  type TaskInput,
  type TaskVariant,
} from "./masked_tasks.ts";
import type { NativeLoss } from "./native_loss.ts";
import type { Normalizer } from "./normalizer.ts";
import {
  type DDPLossCallOptions,
  type LossOutputs,
  type ReducedLossOptions,
  type ValueAndGrad,
  valueAndGrad,
  valueOnly,
} from "./reduction.ts";
import { COUNTED_AS_0, remarksOn } from "./remarks.ts";

/** Options of {@linkcode DDPMTLoss}. */
export interface DDPMTLossOptions extends ReducedLossOptions, TaskVariant {}

/** Options of one call of {@linkcode DDPMTLoss}: also what {@linkcode MultiTaskLoss} takes of a task. */
export interface DDPMTCallOptions<Out> extends DDPLossCallOptions<Out> {
  /** As of {@linkcode TaskInput}. */
  weights?: Tensor | null;
  /** As of {@linkcode TaskInput}. */
  scale?: Tensor | null;
  /** As of {@linkcode TaskInput}. */
  groups?: Tensor | null;
  /** Of this call, in place of the loss's. */
  coefficient?: number;
}

/**
 * A loss of the entries that a mask leaves, reduced over this replica and
 * normalised over all of them, as fairchem's `DDPMTLoss`: structures without a
 * label, fixed atoms, data sets that lack a property.
 *
 * - `"mean"`: the sum over this replica, times the number of replicas, divided
 *   by the number of unmasked entries on all replicas.
 * - `"sum"`: the sum over this replica.
 * - `"per_structure"`: the rows of a structure are summed and divided by the
 *   number of those that the mask leaves (by natoms where it leaves none); of
 *   these the mean over the structures, of all replicas, with an entry whose
 *   loss is not 0. natoms must add up to the rows. That is seen on the device:
 *   if not, nothing of this replica counts, value and gradient are 0, and
 *   reading the value throws an {@linkcode ArgumentError}.
 * - `"per_group"`: the mean of each group of rows, over all replicas, then their
 *   mean weighted by `groupWeights`, over the groups that any replica has.
 *
 * `coefficient` scales value and gradient. A number of samples below 1 counts
 * as 1, non-finite targets as 0, a value that is NaN as 0. NaN in the input
 * counts as 0 and an infinity as the largest finite number, without gradient,
 * and a warning comes with the value when it is read. Masked entries have no
 * gradient, whatever they hold. Sums accumulate in float64. Every replica must
 * make the same calls, in the same order.
 *
 * Reference: fairchem.core.modules.loss.DDPMTLoss.
 *
 * @example
 * ```ts
 * import { DDPMTLoss, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * const loss = new DDPMTLoss("mae", "mean", 10);
 * using input = device.tensor(new Float32Array([1, 2, 3]));
 * using target = device.tensor(new Float32Array([0, NaN, 0]));
 * using mask = device.tensor(new Uint8Array([1, 0, 1]), [3], "bool");
 * using result = loss.valueAndGrad(input, target, mask);
 * console.log(await result.value.item()); // 20
 * console.log(await result.grad.toList()); // [ 5, 0, 5 ]
 * ```
 */
export class DDPMTLoss {
  /** The loss without reduction. */
  readonly lossFn: NativeLoss;
  /** Name of the reduction in use. */
  readonly reduction: MaskedReduction;
  /** What value and gradient are multiplied by. */
  readonly coefficient: number;
  readonly #tasks: MaskedTasks;
  readonly #remarks: ResultListener;

  /**
   * A loss with its reduction.
   *
   * @param loss Name of a registered loss, or a loss object of this package.
   * @param reduction `"mean"`, `"sum"`, `"per_structure"` or `"per_group"`.
   * @param coefficient A finite number.
   * @param options The process group, and who is told of non-finite inputs.
   * @throws {UnknownLossError} if no loss has this name.
   * @throws {UnknownReductionError} if there is no such reduction.
   * @throws {ArgumentError} if the coefficient is not finite, or the loss is written in TypeScript.
   */
  constructor(
    loss: string | Loss,
    reduction: MaskedReduction = "mean",
    coefficient = 1,
    options: DDPMTLossOptions = {},
  ) {
    const task = maskedTask("", loss, reduction, coefficient, options);
    this.lossFn = task.loss;
    this.reduction = task.reduction;
    this.coefficient = coefficient;
    this.#tasks = new MaskedTasks([task], options.group);
    this.#remarks = remarksOn(
      `DDPMTLoss("${task.loss.name}")`,
      COUNTED_AS_0,
      options.onNonFinite,
    );
  }

  /**
   * The reduced loss. Enqueued on the device; does not wait for it.
   *
   * @param input Predictions; float32, float64, float16 or bfloat16.
   * @param target References; shape, dtype and device of `input`.
   * @param multMask Entries that count, bool: of the shape of the unreduced
   * loss, or one per row; null: all.
   * @param natoms Atoms per structure, int32 or int64, for losses that use it
   * and for `"per_structure"`.
   * @param options `out`: a scalar to write to. `normalizer`: the samples of
   * the whole step.
   * @returns Scalar: float64 for float64 inputs, otherwise float32.
   * @throws {ShapeError} if shapes differ (there is no broadcasting) or the loss does not take them.
   * @throws {DTypeError} if dtypes differ or do not fit.
   * @throws {DeviceError} if a tensor is not on the device of the others, or of the group.
   * @throws {DisposedError} if a tensor, the normalizer or the group was disposed.
   * @throws {ArgumentError} if the normalizer was made by another loss, or for fewer samples.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  forward(
    input: Tensor,
    target: Tensor,
    multMask: Tensor | null = null,
    natoms: Tensor | null = null,
    options: DDPMTCallOptions<Tensor> = {},
  ): Tensor {
    const { out, weights = null, scale = null, groups = null } = options;
    const task = {
      input,
      target,
      mask: multMask,
      natoms,
      weights,
      scale,
      groups,
    };
    return this.#reduce(task, options, () => valueOnly(input, target, out))
      .value;
  }

  /**
   * The reduced loss and its gradient, in one pass over the input. Enqueued on
   * the device; does not wait for it.
   *
   * @param input Predictions, as for `forward`.
   * @param target References, as for `forward`.
   * @param multMask Entries that count, as for `forward`.
   * @param natoms Atoms per structure, as for `forward`.
   * @param options `out`: what a former call with the same shapes returned, to
   * be written again. `normalizer`: the samples of the whole step.
   * @returns The value and its gradient with respect to `input`.
   * @throws What `forward` throws.
   */
  valueAndGrad(
    input: Tensor,
    target: Tensor,
    multMask: Tensor | null = null,
    natoms: Tensor | null = null,
    options: DDPMTCallOptions<{ value: Tensor; grad: Tensor }> = {},
  ): ValueAndGrad {
    const { out, weights = null, scale = null, groups = null } = options;
    const task = {
      input,
      target,
      mask: multMask,
      natoms,
      weights,
      scale,
      groups,
    };
    return this.#reduce(
      task,
      options,
      () => valueAndGrad(input, target, out),
    );
  }

  /**
   * Starts the collective of a step's samples, before its predictions are there;
   * see {@linkcode Normalizer}.
   *
   * @param samples What the mean of the step is divided by, on this replica and
   * over all micro-batches: entries that count; with `normalize: "weights"` the
   * sum of their weights; structures for `"per_structure"`; for `"per_group"` a
   * list, one number of entries per group.
   * @returns To be passed to every call of the step, then disposed.
   * @throws {ArgumentError} if samples is not an integer >= 0, or what else is expected.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  normalizer(samples: number | readonly number[]): Normalizer {
    return this.#tasks.normalizer([samples]);
  }

  #reduce<T extends LossOutputs>(
    task: TaskInput,
    { normalizer, coefficient, parameters }: TaskCall & {
      normalizer?: Normalizer;
    },
    outputs: () => T,
  ): T {
    const inputs = [task];
    const device = this.#tasks.device(inputs);
    const calls = coefficient === undefined && parameters === undefined
      ? []
      : [{ coefficient, parameters }];
    const { written } = this.#tasks.reduce(
      device,
      inputs,
      calls,
      normalizer,
      () => {
        const written = outputs();
        const { value, grad } = written;
        return { written, values: [value], grads: [grad], total: null };
      },
    );
    onResult(written.value, this.#remarks);
    return written;
  }
}
