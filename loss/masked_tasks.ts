/** Losses with masks, any number of them in one launch: what DDPMTLoss and MultiTaskLoss have in common. */
import {
  ArgumentError,
  DeviceError,
  DTypeError,
  ShapeError,
} from "../errors.ts";
import type { ProcessGroup } from "../distributed/process_group.ts";
import type { Device } from "../tensor/device.ts";
import { equalShapes, formatShape } from "../tensor/shape.ts";
import { checkDevice, checkTensor, Tensor } from "../tensor/tensor.ts";
import type { Loss } from "./loss.ts";
import {
  checkNatoms,
  checkPair,
  type LossInput,
  lossNumber,
  NativeLoss,
  prepareInput,
} from "./native_loss.ts";
import {
  factorsOf,
  type Normalizer,
  normalizerOf,
  normalizerOfTensor,
} from "./normalizer.ts";
import { checkReduction, lossOf, valueDType } from "./reduction.ts";
import { TaskTable } from "./task_table.ts";

/** How the entries of an unreduced loss with a mask become one number. */
export type MaskedReduction = "mean" | "sum" | "per_structure";

const REDUCTIONS: readonly MaskedReduction[] = ["mean", "sum", "per_structure"];

/** Fewer samples than this over all replicas count as so many: nothing is divided by 0. */
const MINIMUM_SAMPLES = 1;

/** What a masked loss is, whatever its input. */
export interface MaskedTask {
  /** For messages. */
  readonly name: string;
  readonly loss: NativeLoss;
  readonly reduction: MaskedReduction;
  readonly coefficient: number;
}

/** What a masked loss is computed from. */
export interface TaskInput {
  /** Predictions; float32, float64, float16 or bfloat16. */
  readonly input: Tensor;
  /** References; shape, dtype and device of `input`. Non-finite ones count as 0. */
  readonly target: Tensor;
  /**
   * Atoms per structure, int32 or int64: for losses that use it, and for the
   * reduction `"per_structure"`.
   */
  readonly natoms?: Tensor | null;
  /** Entries that count, bool: of the shape of the unreduced loss, or one per row. Default: all. */
  readonly mask?: Tensor | null;
}

/** The checked description of a masked loss. */
export function maskedTask(
  name: string,
  loss: string | Loss,
  reduction: string,
  coefficient: number,
): MaskedTask {
  const found = lossOf(loss);
  if (!(found instanceof NativeLoss)) {
    throw new ArgumentError(
      `${name}: '${found.name}' is not computed by the native library, which alone has masks: ` +
        "write it with defineLoss()",
    );
  }
  checkReduction(reduction, REDUCTIONS);
  if (!Number.isFinite(coefficient)) {
    throw new ArgumentError(
      `${name}: coefficient is ${coefficient}, expected a finite number`,
    );
  }
  return {
    name,
    loss: found,
    reduction: reduction as MaskedReduction,
    coefficient,
  };
}

/** A task's input as it was checked; undefined where the replica has no part in it. */
interface Prepared extends LossInput {
  readonly pred: Tensor | undefined;
  readonly target: Tensor | undefined;
  readonly mask: Tensor | undefined;
  readonly structures: Tensor | undefined;
}

/** Computes the losses of a fixed list of tasks. */
export class MaskedTasks {
  readonly tasks: readonly MaskedTask[];
  readonly group: ProcessGroup | undefined;
  readonly #table: TaskTable;
  readonly #reduces: boolean;

  constructor(tasks: readonly MaskedTask[], group: ProcessGroup | undefined) {
    this.tasks = tasks;
    this.group = group;
    this.#table = new TaskTable(tasks.length);
    // Of the description alone, so that all replicas agree on the collective.
    this.#reduces = tasks.some(({ reduction }) => reduction !== "sum");
  }

  /** Totals of sample counts that the caller knows, one per task. */
  normalizer(samples: readonly number[]): Normalizer {
    return normalizerOf(this.group, samples, MINIMUM_SAMPLES, this);
  }

  /** The device of the inputs. Throws if they are on several, or there is none. */
  device(inputs: readonly (TaskInput | undefined)[]): Device {
    let device = this.group?.device;
    inputs.forEach((task, i) => {
      if (task === undefined) return;
      const what = this.#input(i);
      checkTensor(task.input, what);
      device ??= task.input.device;
      if (task.input.device !== device) {
        throw new DeviceError(
          `${what} is on ${task.input.device.name}, expected the device of ${
            this.group ? "the process group" : "the other tasks"
          }, ${device.name}`,
        );
      }
    });
    if (device !== undefined) return device;
    throw new ArgumentError(
      "every task is absent: without a process group there is no device to compute on",
    );
  }

  /**
   * Enqueues the fused pass: writes the value and, where there is one, the
   * gradient of every task, and the total.
   */
  reduce(
    device: Device,
    inputs: readonly (TaskInput | undefined)[],
    given: Normalizer | undefined,
    values: readonly Tensor[],
    grads: readonly (Tensor | undefined)[],
    total: Tensor | undefined,
  ): void {
    const prepared = inputs.map((input, i) => this.#prepare(i, device, input));
    using weights = new Weights();
    const setTasks = (factor?: ReturnType<typeof factorsOf>): void => {
      prepared.forEach((input, i) => {
        const { reduction, coefficient } = this.tasks[i]!;
        const { scale, normalizer } = reduction === "sum" || !factor
          ? { scale: 1, normalizer: 0n }
          : factor(i);
        this.#table.set(i, {
          input,
          pred: input.pred,
          target: input.target,
          mask: input.mask,
          structures: input.structures,
          rowWeights: weights.of(i, input),
          zeroNonFinite: true,
          value: values[i]!,
          grad: grads[i],
          scale: coefficient * scale,
          normalizer,
        });
      });
    };
    const counted = prepared.some(({ mask, structures }, i) =>
      structures !== undefined ||
      (mask !== undefined && given === undefined &&
        this.tasks[i]!.reduction === "mean")
    );
    using counts = counted
      ? Tensor.empty(device, [this.tasks.length], "int64")
      : undefined;
    if (counts !== undefined) {
      setTasks();
      this.#table.countSamples(device, counts);
    }
    using own = given !== undefined || !this.#reduces
      ? undefined
      : counts !== undefined
      ? normalizerOfTensor(this.group, counts, MINIMUM_SAMPLES, this)
      : this.normalizer(prepared.map(({ entries }) => entries));
    const normalizer = given ?? own;
    setTasks(normalizer && factorsOf(normalizer, device, this));
    this.#table.reduce(device, total);
  }

  #input(i: number): string {
    const { name } = this.tasks[i]!;
    return name === "" ? "input" : `input of ${name}`;
  }

  #prepare(
    i: number,
    device: Device,
    task: TaskInput | undefined,
  ): Prepared {
    const { name, loss, reduction } = this.tasks[i]!;
    if (task === undefined) {
      return {
        loss: lossNumber(loss, device),
        kind: "element",
        natoms: null,
        rows: 0,
        cols: 1,
        entries: 0,
        pred: undefined,
        target: undefined,
        mask: undefined,
        structures: undefined,
      };
    }
    const { input: pred, target, natoms = null, mask = null } = task;
    const of = name === "" ? "" : ` of ${name}`;
    checkPair(pred, target, [`input${of}`, `target${of}`]);
    const input = prepareInput(loss, pred, natoms);
    if (mask !== null) {
      checkMask(mask, pred, loss.outputShape(pred.shape), `mask${of}`);
    }
    if (reduction === "per_structure") {
      if (input.natoms !== null) {
        throw new ArgumentError(
          `${loss.name}${of} has one entry per structure already: it has no reduction "per_structure"`,
        );
      }
      if (natoms === null) {
        throw new ShapeError(
          `the reduction "per_structure"${of} needs natoms, one number per structure`,
        );
      }
      checkNatoms(pred, natoms);
    }
    return {
      ...input,
      pred,
      target,
      mask: mask ?? undefined,
      structures: reduction === "per_structure" ? natoms! : undefined,
    };
  }
}

/** The weights of rows per structure, made where a task needs them. */
class Weights implements Disposable {
  readonly #made = new Map<number, Tensor>();

  of(task: number, { pred, structures, rows }: Prepared): Tensor | undefined {
    if (pred === undefined || structures === undefined) return undefined;
    let weights = this.#made.get(task);
    if (weights === undefined) {
      weights = Tensor.empty(pred.device, [rows], valueDType(pred.dtype));
      this.#made.set(task, weights);
    }
    return weights;
  }

  [Symbol.dispose](): void {
    for (const weights of this.#made.values()) weights.dispose();
  }
}

/** Throws unless the mask says of every entry, or of every row, whether it counts. */
function checkMask(
  mask: Tensor,
  pred: Tensor,
  entries: readonly number[],
  what: string,
): void {
  checkTensor(mask, what);
  checkDevice(pred, mask, what);
  if (mask.dtype !== "bool") {
    throw new DTypeError(`${what} has dtype ${mask.dtype}, expected bool`);
  }
  const perRow = pred.shape.slice(0, 1);
  if (equalShapes(mask.shape, entries) || equalShapes(mask.shape, perRow)) {
    return;
  }
  throw new ShapeError(
    `${what} has shape ${formatShape(mask.shape)}, expected ${
      formatShape(entries)
    }${
      equalShapes(entries, perRow)
        ? ""
        : ` or, one entry per row, ${formatShape(perRow)}`
    }`,
  );
}
