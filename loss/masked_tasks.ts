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
   * reduction `"per_structure"`, where they must add up to the rows of `input`:
   * if not, nothing counts, and reading the value throws an `ArgumentError`.
   */
  readonly natoms?: Tensor | null;
  /** Entries that count, bool: of the shape of the unreduced loss, or one per row. Default: all. */
  readonly mask?: Tensor | null;
}

/** What the fused pass writes: value and gradient of each task, and the total. */
export interface TaskOutputs {
  readonly values: readonly Tensor[];
  readonly grads: readonly (Tensor | null | undefined)[];
  readonly total: Tensor | null;
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

/** Computes the losses of a fixed list of tasks. */
export class MaskedTasks {
  readonly tasks: readonly MaskedTask[];
  readonly group: ProcessGroup | undefined;
  readonly #table: TaskTable;
  /** Of the description alone, so that all replicas agree on the collective. */
  readonly #reduces: boolean;
  /** What messages call the tensors of each task. */
  readonly #labels: readonly {
    readonly input: string;
    readonly target: string;
    readonly mask: string;
    readonly of: string;
  }[];

  constructor(tasks: readonly MaskedTask[], group: ProcessGroup | undefined) {
    this.tasks = tasks;
    this.group = group;
    this.#table = new TaskTable(tasks.length);
    this.#reduces = tasks.some(({ reduction }) => reduction !== "sum");
    this.#labels = tasks.map(({ name }) => {
      const of = name === "" ? "" : ` of ${name}`;
      return {
        input: `input${of}`,
        target: `target${of}`,
        mask: `mask${of}`,
        of,
      };
    });
  }

  /** Totals of sample counts that the caller knows, one per task. */
  normalizer(samples: readonly number[]): Normalizer {
    return normalizerOf(this.group, samples, MINIMUM_SAMPLES, this);
  }

  /** The device of the inputs. Throws if they are on several, or there is none. */
  device(inputs: readonly (TaskInput | undefined)[]): Device {
    let device = this.group?.device;
    for (let i = 0; i < inputs.length; i++) {
      const input = inputs[i]?.input;
      if (inputs[i] === undefined) continue;
      checkTensor(input, this.#labels[i]!.input);
      device ??= input.device;
      if (input.device !== device) {
        throw new DeviceError(
          `${
            this.#labels[i]!.input
          } is on ${input.device.name}, expected the device of ${
            this.group ? "the process group" : "the other tasks"
          }, ${device.name}`,
        );
      }
    }
    if (device !== undefined) return device;
    throw new ArgumentError(
      "every task is absent: without a process group there is no device to compute on",
    );
  }

  /**
   * Enqueues the fused pass. `outputs` makes what it writes once the inputs are
   * known to fit: what throws before has taken no memory.
   */
  reduce<T extends TaskOutputs>(
    device: Device,
    inputs: readonly (TaskInput | undefined)[],
    given: Normalizer | undefined,
    outputs: () => T,
  ): T {
    const table = this.#table;
    const samples: number[] = [];
    let counted = false; // on the device, where masks are
    using weights = new DisposableStack();
    for (let i = 0; i < inputs.length; i++) {
      const input = inputs[i];
      samples.push(this.#setInput(i, device, input, weights));
      if (input === undefined) continue;
      const { reduction } = this.tasks[i]!;
      counted ||= reduction === "per_structure" ||
        (reduction === "mean" && given === undefined && !!input.mask);
    }
    using counts = counted
      ? Tensor.empty(device, [this.tasks.length], "int64")
      : undefined;
    if (counts !== undefined) table.countSamples(device, counts);
    using own = given !== undefined || !this.#reduces
      ? undefined
      : counts !== undefined
      ? normalizerOfTensor(this.group, counts, MINIMUM_SAMPLES, this)
      : this.normalizer(samples);
    const normalizer = given ?? own;
    const factor = normalizer && factorsOf(normalizer, device, this);
    for (let i = 0; i < inputs.length; i++) {
      const { reduction, coefficient } = this.tasks[i]!;
      if (reduction === "sum" || factor === undefined) {
        table.setFactor(i, coefficient, 0n);
      } else {
        const { of } = this.#labels[i]!;
        const { scale, normalizer } = factor(i, samples[i]!, of);
        table.setFactor(i, coefficient * scale, normalizer);
      }
    }
    const written = outputs();
    for (let i = 0; i < inputs.length; i++) {
      table.setOutput(i, written.values[i]!, written.grads[i] ?? null);
    }
    table.reduce(device, written.total);
    return written;
  }

  /** Checks a task's input and writes it to the table; gives its samples, at least, as far as the host knows. */
  #setInput(
    i: number,
    device: Device,
    task: TaskInput | undefined,
    weights: DisposableStack,
  ): number {
    const { loss, reduction } = this.tasks[i]!;
    if (task === undefined) {
      this.#table.setAbsent(i, lossNumber(loss, device));
      return 0;
    }
    const label = this.#labels[i]!;
    const { input: pred, target, natoms = null, mask = null } = task;
    checkPair(pred, target, label.input, label.target);
    const input = prepareInput(loss, pred, natoms);
    if (mask !== null) {
      checkMask(mask, pred, loss.outputShape(pred.shape), label.mask);
    }
    let rowWeights: Tensor | null = null;
    if (reduction === "per_structure") {
      if (input.natoms !== null) {
        throw new ArgumentError(
          `${loss.name}${label.of} has one entry per structure already: it has no reduction "per_structure"`,
        );
      }
      if (natoms === null) {
        throw new ShapeError(
          `the reduction "per_structure"${label.of} needs natoms, one number per structure`,
        );
      }
      checkNatoms(pred, natoms);
      rowWeights = weights.use(
        Tensor.empty(device, [input.rows + 1], valueDType(pred.dtype)),
      );
    }
    this.#table.setInput(
      i,
      input,
      pred,
      target,
      mask,
      reduction === "per_structure" ? natoms : null,
      rowWeights,
      true,
    );
    if (mask !== null) return 0; // the device counts what it leaves
    if (reduction !== "per_structure") return input.entries;
    return Math.min(natoms!.size, 1); // those without a loss do not count
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
