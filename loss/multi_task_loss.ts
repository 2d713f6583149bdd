/** All the losses of a training step in one launch and one collective. */
import { ArgumentError, DeviceError } from "../errors.ts";
import type { ProcessGroup } from "../distributed/process_group.ts";
import { capturing, otherCapture } from "../tensor/capture.ts";
import type { Device } from "../tensor/device.ts";
import {
  addressOf,
  outputTensor,
  type ResultListener,
  type Tensor,
} from "../tensor/tensor.ts";
import type { Loss } from "./loss.ts";
import {
  type MaskedReduction,
  maskedTask,
  MaskedTasks,
  type TaskInput,
  type TaskVariant,
} from "./masked_tasks.ts";
import {
  type MultiTaskGrads,
  MultiTaskResult,
  type MultiTaskValues,
} from "./multi_task_result.ts";
import type { Normalizer } from "./normalizer.ts";
import type { Parameters } from "./parameters.ts";
import type { ReduceOptions } from "./reduction.ts";
import { COUNTED_AS_0, remarksOn } from "./remarks.ts";

/** One task of {@linkcode MultiTaskLoss}. */
export interface TaskOptions extends TaskVariant {
  /** Name of a registered loss, or a loss object of this package. */
  loss: string | Loss;
  /** What value and gradient are multiplied by. Default: 1. */
  coefficient?: number;
  /** As of {@linkcode DDPMTLoss}. Default: `"mean"`. */
  reduction?: MaskedReduction;
}

/** Told how many numbers of a task, or of all of them (undefined), were not finite where they counted. */
export type TaskListener = (count: number, task: string | undefined) => void;

/** Options of {@linkcode MultiTaskLoss}. */
export interface MultiTaskLossOptions {
  /** The replicas to take the means over. Default: this process alone. */
  group?: ProcessGroup;
  /**
   * Called with how many numbers of a task's input, target, weights and scale
   * were NaN or infinite where they counted, when its value, or the total (task
   * undefined), is read. Default: a warning.
   */
  onNonFinite?: TaskListener;
}

/** Options of one call of {@linkcode MultiTaskLoss}. */
export interface MultiTaskCallOptions<Name extends string, Out>
  extends ReduceOptions<Out> {
  /** Of this call, each in place of its task's: a schedule. The same on all replicas. */
  coefficients?: { readonly [name in Name]?: number };
  /** Of this call, each in place of its task's. The same on all replicas. */
  parameters?: { readonly [name in Name]?: Parameters };
}

/** What the tasks are computed from; an absent one has no samples here. */
export type TaskInputs<Name extends string> = {
  readonly [name in Name]?: TaskInput | undefined;
};

/**
 * Any number of losses at once: their values, total and gradients from one
 * launch and one collective, whatever their shapes, dtypes and sizes, without
 * waiting for the device.
 *
 * Each task is what {@linkcode DDPMTLoss} computes with its loss, reduction
 * and coefficient, from its input, target, natoms and mask. A task may be
 * absent on a replica (no label in this batch); the replica still takes part
 * in the collective. Values are float64 scalars, whatever the dtypes.
 *
 * @example
 * ```ts
 * import { Device, MultiTaskLoss } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * const loss = new MultiTaskLoss({
 *   energy: { loss: "per_atom_mae", coefficient: 1 },
 *   forces: { loss: "l2norm", coefficient: 10 },
 * });
 * using natoms = device.tensor(new Int32Array([2]));
 * using energy = device.tensor(new Float32Array([-8]), [1, 1]);
 * using energyTarget = device.tensor(new Float32Array([-9]), [1, 1]);
 * using forces = device.tensor(new Float32Array([3, 4, 0, 0, 0, 1]), [2, 3]);
 * using forcesTarget = device.zeros([2, 3]);
 * using result = loss.valueAndGrad({
 *   energy: { input: energy, target: energyTarget, natoms },
 *   forces: { input: forces, target: forcesTarget },
 * });
 * const { total, values, samples } = await result.read();
 * console.log(total, values); // 30.5 { energy: 0.5, forces: 30 }
 * console.log(samples); // { energy: 1, forces: 2 }
 * console.log(await result.grads.energy!.toList()); // [ 0.5 ]
 * ```
 */
export class MultiTaskLoss<Name extends string> {
  /** Names of the tasks, in their order. */
  readonly names: readonly Name[];
  readonly #tasks: MaskedTasks;
  /** Of the total, then of the tasks. */
  readonly #remarks: readonly ResultListener[];

  /**
   * The losses of a step. Every replica must name the same tasks, in the same order.
   *
   * @param tasks Loss, coefficient and reduction of each task by its name.
   * @param options The process group, and who is told of non-finite inputs.
   * @throws {UnknownLossError} if a loss has an unknown name.
   * @throws {UnknownReductionError} if there is no such reduction.
   * @throws {ArgumentError} if a coefficient is not finite, or a loss is written in TypeScript.
   */
  constructor(
    tasks: { readonly [name in Name]: TaskOptions },
    options: MultiTaskLossOptions = {},
  ) {
    this.names = Object.freeze(Object.keys(tasks) as Name[]);
    this.#tasks = new MaskedTasks(
      this.names.map((name) => {
        const task = tasks[name];
        const { loss, coefficient = 1, reduction = "mean" } = task;
        return maskedTask(name, loss, reduction, coefficient, task);
      }),
      options.group,
    );
    const { onNonFinite } = options;
    this.#remarks = [undefined, ...this.names].map((task) =>
      remarksOn(
        task === undefined ? "MultiTaskLoss" : `MultiTaskLoss, task ${task},`,
        COUNTED_AS_0,
        onNonFinite && ((count) => onNonFinite(count, task)),
      )
    );
  }

  /**
   * The values of the tasks and their sum. Enqueued on the device; does not
   * wait for it.
   *
   * @param inputs Input, target, natoms and mask of each task that this replica has.
   * @param options `out`: what a former call returned, to be written again; of
   * gradients that it has nothing is written. `normalizer`: the samples of the
   * whole step.
   * @throws {ArgumentError} if a task is unknown, all are absent without a group, or the normalizer was made by another loss, or for fewer samples.
   * @throws {ShapeError} if shapes differ (there is no broadcasting) or a loss does not take them.
   * @throws {DTypeError} if dtypes differ or do not fit.
   * @throws {DeviceError} if a tensor is not on the device of the others, or of the group.
   * @throws {DisposedError} if a tensor, the normalizer or the group was disposed.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  forward(
    inputs: TaskInputs<Name>,
    options: MultiTaskCallOptions<Name, MultiTaskValues<Name>> = {},
  ): MultiTaskValues<Name> {
    return this.#reduce(inputs, options, () => []).result;
  }

  /**
   * The values of the tasks, their sum and its gradients, in one pass. Enqueued
   * on the device; does not wait for it.
   *
   * @param inputs Input, target, natoms and mask of each task that this replica has.
   * @param options As for `forward`. `out` gets the gradients of this call's
   * tasks, and keeps the memory of the others' for a later call.
   * @throws What `forward` throws.
   */
  valueAndGrad(
    inputs: TaskInputs<Name>,
    options: MultiTaskCallOptions<Name, MultiTaskGrads<Name>> = {},
  ): MultiTaskGrads<Name> {
    const { result, grads } = this.#reduce(
      inputs,
      options,
      (list, { kept }) =>
        list.map((task, i) => {
          if (task === undefined) return undefined;
          const { input, target } = task;
          const { device, shape, dtype } = input;
          return outputTensor(device, shape, dtype, kept[i], [input, target]);
        }),
    );
    result.setGrads(grads);
    return result;
  }

  /**
   * Starts the collective of a step's samples, before its predictions are there;
   * see {@linkcode Normalizer}.
   *
   * @param samples What the mean of each task is divided by, on this replica and
   * over all micro-batches: entries of its unreduced loss that count (not
   * masked, with a label); with `normalize: "weights"` the sum of their weights,
   * any finite number; structures for `"per_structure"`; for `"per_group"` a
   * list, one number of entries per group. Absent: 0.
   * @returns To be passed to every call of the step, then disposed.
   * @throws {ArgumentError} if a task is unknown, or a number is not an integer >= 0, or what else is expected.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  normalizer(
    samples: { readonly [name in Name]?: number | readonly number[] },
  ): Normalizer {
    this.#checkNames(samples);
    return this.#tasks.normalizer(this.names.map((name, i) => {
      const { groupWeights } = this.#tasks.tasks[i]!;
      return samples[name] ?? groupWeights?.map(() => 0) ?? 0;
    }));
  }

  #reduce(
    inputs: TaskInputs<Name>,
    options: MultiTaskCallOptions<Name, MultiTaskValues<Name>>,
    gradsOf: (
      list: readonly (TaskInput | undefined)[],
      result: MultiTaskResult<Name>,
    ) => (Tensor | undefined)[],
  ): { result: MultiTaskResult<Name>; grads: (Tensor | undefined)[] } {
    this.#checkNames(inputs);
    const { out, normalizer, coefficients, parameters } = options;
    if (coefficients !== undefined) this.#checkNames(coefficients);
    if (parameters !== undefined) this.#checkNames(parameters);
    const list = this.names.map((name) => inputs[name]);
    const calls = coefficients === undefined && parameters === undefined
      ? []
      : this.names.map((name) => {
        return {
          coefficient: coefficients?.[name],
          parameters: parameters?.[name],
        };
      });
    const device = this.#tasks.device(list);
    return this.#tasks.reduce(
      device,
      list,
      calls,
      normalizer,
      () => {
        const result = this.#result(device, out);
        const { list: values, total } = result;
        return { result, values, total, grads: gradsOf(list, result) };
      },
      ({ result }, samples) => result.setSamples(samples, this.#tasks),
    );
  }

  #checkNames(named: object): void {
    for (const name of Object.keys(named)) {
      if (this.names.includes(name as Name)) continue;
      throw new ArgumentError(
        `task '${name}' is unknown: expected one of ${this.names.join(", ")}`,
      );
    }
  }

  /** Where to write: what a former call returned, or something new. */
  #result(
    device: Device,
    out: MultiTaskValues<Name> | undefined,
  ): MultiTaskResult<Name> {
    if (out === undefined) {
      return new MultiTaskResult(device, this.names, this.#remarks, this);
    }
    if (!(out instanceof MultiTaskResult && out.owner === this)) {
      throw new ArgumentError(
        "out must be what a former call of this MultiTaskLoss returned",
      );
    }
    if (out.capture !== capturing) throw otherCapture("out");
    checkOnDevice(out.total, device);
    return out;
  }
}

/** Throws unless a tensor is usable and on the device. */
function checkOnDevice(tensor: Tensor, device: Device): void {
  addressOf(tensor); // throws if it was disposed
  if (tensor.device !== device) {
    throw new DeviceError(
      `out is on ${tensor.device.name}, expected ${device.name}`,
    );
  }
}
