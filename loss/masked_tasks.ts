/** Losses with masks, weights and groups, any number of them in one launch: what DDPMTLoss and MultiTaskLoss have in common. */
import {
  ArgumentError,
  DeviceError,
  DTypeError,
  ShapeError,
} from "../errors.ts";
import type { ProcessGroup } from "../distributed/process_group.ts";
import type { Device } from "../tensor/device.ts";
import type { DType } from "../tensor/dtype.ts";
import { formatShape } from "../tensor/shape.ts";
import {
  addressOf,
  checkDevice,
  checkTensor,
  Tensor,
} from "../tensor/tensor.ts";
import { Divisors } from "./divisors.ts";
import type { Loss } from "./loss.ts";
import {
  checkNatoms,
  checkPair,
  type LossInput,
  lossNumber,
  NativeLoss,
  parametersOf,
  prepareInput,
} from "./native_loss.ts";
import {
  checkSamples,
  factorsOf,
  type Normalizer,
  normalizerOf,
  normalizerOfTensor,
  sumsOf,
} from "./normalizer.ts";
import type { Parameters } from "./parameters.ts";
import { checkReduction, lossOf, valueDType } from "./reduction.ts";
import { maskOf, type Spread, spreadOf } from "./spread.ts";
import { type Samples, type Targets, TaskTable } from "./task_table.ts";

/** How the entries of an unreduced loss with a mask become one number. */
export type MaskedReduction = "mean" | "sum" | "per_structure" | "per_group";

const REDUCTIONS: readonly MaskedReduction[] = [
  "mean",
  "sum",
  "per_structure",
  "per_group",
];

/** Fewer samples than this over all replicas count as so many: nothing is divided by 0. */
const MINIMUM_SAMPLES = 1;

/** Two numbers of each task that say what is wrong with natoms and groups. */
const WRONG_BYTES = 16n;

/** What a task may say besides its loss, reduction and coefficient. */
export interface TaskVariant {
  /** Numbers in place of those of the loss's definition. */
  parameters?: Parameters;
  /**
   * Whether an entry whose target is NaN has no label: no loss, no gradient, not
   * counted. The loss of a row needs all of its labels. Default: false; then NaN
   * counts as 0, as infinities always do, and is told when the value is read.
   */
  ignoreNaN?: boolean;
  /** Of the reduction `"mean"`: to divide by the sum of the entries' weights instead of their number. */
  normalize?: "weights";
  /**
   * Of the reduction `"per_structure"`: which structures the mean is over, all
   * or those with an entry whose loss is not 0. Default: `"with_loss"`, as the
   * reference.
   */
  structures?: "all" | "with_loss";
  /** Of the reduction `"per_group"`, which needs it: a weight for each group, finite and >= 0. */
  groupWeights?: readonly number[];
}

/** What a masked loss is, whatever its input. */
export interface MaskedTask {
  /** For messages. */
  readonly name: string;
  readonly loss: NativeLoss;
  readonly reduction: MaskedReduction;
  readonly coefficient: number;
  /** As the native library takes them. */
  readonly parameters: Float64Array<ArrayBuffer>;
  readonly targets: Targets;
  readonly samples: Samples;
  readonly groupWeights: readonly number[] | null;
}

/** What a masked loss is computed from. */
export interface TaskInput {
  /** Predictions; float32, float64, float16 or bfloat16. */
  readonly input: Tensor;
  /** References; shape, dtype and device of `input`. Non-finite ones count as 0. */
  readonly target: Tensor;
  /**
   * Atoms per structure, int32 or int64: for losses that use it, for the
   * reduction `"per_structure"` and for weights or a scale per structure, where
   * they must add up to the rows of `input`: if not, nothing counts, and reading
   * the value throws an `ArgumentError`, as it does where a loss reads natoms
   * below 1.
   */
  readonly natoms?: Tensor | null;
  /** Entries that count, bool: of the shape of the unreduced loss, or one per row. Default: all. */
  readonly mask?: Tensor | null;
  /**
   * What an entry's loss is multiplied by: 0 takes it out of the sum, not out of
   * the count. float64 for float64 inputs, otherwise float32. The first shape
   * that fits: `[rows]` or `[rows, 1]`; that of `input`; `[1, cols]`;
   * `[structures]`, with `natoms`. Of a loss of rows the first and the last. One
   * that is not finite counts as 0, and is told when the value is read.
   */
  readonly weights?: Tensor | null;
  /**
   * What input and target are multiplied by before the loss sees them. dtype and
   * shapes as of `weights`, all of them also for a loss of rows.
   */
  readonly scale?: Tensor | null;
  /** Of the reduction `"per_group"`: the group of each row, int32 or int64. */
  readonly groups?: Tensor | null;
}

/** What is of one call. */
export interface TaskCall {
  readonly coefficient?: number | undefined;
  readonly parameters?: Parameters | undefined;
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
  variant: TaskVariant,
): MaskedTask {
  const found = lossOf(loss);
  if (!(found instanceof NativeLoss)) {
    throw new ArgumentError(
      `${name}: '${found.name}' is not computed by the native library, which alone has masks: ` +
        "write it with defineLoss()",
    );
  }
  checkReduction(reduction, REDUCTIONS);
  checkCoefficient(name, coefficient);
  const { parameters, ignoreNaN = false } = variant;
  const list = parametersOf(found);
  return {
    name,
    loss: found,
    reduction: reduction as MaskedReduction,
    coefficient,
    parameters: list.over(list.defaults, parameters, describe(name, found)),
    targets: ignoreNaN ? "labels" : "finite",
    samples: samplesOf(name, reduction, variant),
    groupWeights: groupWeightsOf(name, reduction, variant),
  };
}

function describe(name: string, loss: NativeLoss): string {
  return name === "" ? loss.name : `${loss.name} of ${name}`;
}

function checkCoefficient(name: string, coefficient: number): void {
  if (Number.isFinite(coefficient)) return;
  throw new ArgumentError(
    `${name}: coefficient is ${coefficient}, expected a finite number`,
  );
}

/** Throws unless an option has a known value and this reduction, if it is there. */
function checkOption(
  name: string,
  option: string,
  value: string | undefined,
  known: readonly string[],
  reduction: string,
  of: string,
): void {
  if (value === undefined) return;
  if (!known.includes(value)) {
    throw new ArgumentError(
      `${name}: ${option} is '${value}', expected ${known.join(" or ")}`,
    );
  }
  if (reduction !== of) {
    throw new ArgumentError(
      `${name}: ${option} is of the reduction "${of}", not of "${reduction}"`,
    );
  }
}

function samplesOf(
  name: string,
  reduction: string,
  { normalize, structures }: TaskVariant,
): Samples {
  checkOption(name, "normalize", normalize, ["weights"], reduction, "mean");
  const known = ["all", "with_loss"];
  checkOption(
    name,
    "structures",
    structures,
    known,
    reduction,
    "per_structure",
  );
  if (normalize === "weights") return "weights";
  if (reduction !== "per_structure") return "entries";
  return structures === "all" ? "structures" : "structuresWithLoss";
}

function groupWeightsOf(
  name: string,
  reduction: string,
  { groupWeights }: TaskVariant,
): readonly number[] | null {
  if (reduction !== "per_group") {
    if (groupWeights === undefined) return null;
    throw new ArgumentError(
      `${name}: groupWeights is of the reduction "per_group", not of "${reduction}"`,
    );
  }
  if (groupWeights === undefined || groupWeights.length === 0) {
    throw new ArgumentError(
      `${name}: the reduction "per_group" needs groupWeights, one number for each group`,
    );
  }
  groupWeights.forEach((weight, group) => {
    if (Number.isFinite(weight) && weight >= 0) return;
    throw new ArgumentError(
      `${name}: groupWeights[${group}] is ${weight}, expected a finite number >= 0`,
    );
  });
  return [...groupWeights];
}

/** Computes the losses of a fixed list of tasks. */
export class MaskedTasks {
  readonly tasks: readonly MaskedTask[];
  readonly group: ProcessGroup | undefined;
  readonly divisors: Divisors;
  readonly #table: TaskTable;
  /** Of the description alone, so that all replicas agree on the collective. */
  readonly #reduces: boolean;
  /** What messages call the tensors of each task. */
  readonly #labels: readonly {
    readonly input: string;
    readonly target: string;
    readonly mask: string;
    readonly weights: string;
    readonly scale: string;
    readonly groups: string;
    readonly of: string;
  }[];

  constructor(tasks: readonly MaskedTask[], group: ProcessGroup | undefined) {
    this.tasks = tasks;
    this.group = group;
    this.divisors = new Divisors(
      tasks.map(({ groupWeights, samples }) => {
        return { groupWeights, ofWeights: samples === "weights" };
      }),
      MINIMUM_SAMPLES,
    );
    this.#table = new TaskTable(tasks.length);
    this.#reduces = tasks.some(({ reduction }) => reduction !== "sum");
    this.#labels = tasks.map(({ name }) => {
      const of = name === "" ? "" : ` of ${name}`;
      return {
        input: `input${of}`,
        target: `target${of}`,
        mask: `mask${of}`,
        weights: `weights${of}`,
        scale: `scale${of}`,
        groups: `groups${of}`,
        of,
      };
    });
  }

  /** Totals of samples that the caller knows: of each task a number, or one per group. */
  normalizer(samples: readonly (number | readonly number[])[]): Normalizer {
    const counts = samples.flatMap((given, i) => {
      const { groupWeights } = this.tasks[i]!;
      const what = `samples${this.#labels[i]!.of}`;
      if (groupWeights !== null) {
        return checkGroupSamples(given, groupWeights.length, what);
      }
      if (typeof given === "object") {
        throw new ArgumentError(`${what} is a list, expected one number`);
      }
      if (this.divisors.isCount(i)) checkSamples(given, what);
      else if (!Number.isFinite(given)) {
        throw new ArgumentError(
          `${what} is ${given}, expected the sum of the weights on this replica, a finite number`,
        );
      }
      return [given];
    });
    return normalizerOf(this.group, counts, this.divisors, this);
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
   * known to fit: what throws before has taken no memory. `sampled` is given what
   * the means are divided by.
   */
  reduce<T extends TaskOutputs>(
    device: Device,
    inputs: readonly (TaskInput | undefined)[],
    calls: readonly (TaskCall | undefined)[],
    given: Normalizer | undefined,
    outputs: () => T,
    sampled: (written: T, samples: Tensor | readonly number[]) => void =
      () => {},
  ): T {
    const table = this.#table;
    const coefficients = this.tasks.map((task, i) =>
      this.#setCall(i, task, calls[i])
    );
    const batch = new Batch(device, this.tasks.length);
    let own: Normalizer | undefined;
    try { // `using` and a DisposableStack would take a fifth of the call
      for (let i = 0; i < inputs.length; i++) {
        this.#setInput(i, batch, inputs[i], given === undefined);
      }
      let counts: Tensor | undefined;
      if (batch.counted) {
        counts = batch.scratch([this.divisors.count], "float64");
        table.countSamples(
          device,
          counts,
          () => ({ reads: tensorsOf(inputs), writes: [counts] }),
        );
      }
      if (given === undefined && this.#reduces) {
        own = counts !== undefined
          ? normalizerOfTensor(this.group, counts, this.divisors, this)
          : normalizerOf(this.group, batch.samples, this.divisors, this);
      }
      const normalizer = given ?? own;
      const factor = normalizer && factorsOf(normalizer, device, this);
      let totals: Tensor | null = null;
      for (let i = 0; i < inputs.length; i++) {
        const coefficient = coefficients[i]!;
        if (this.tasks[i]!.reduction === "sum" || factor === undefined) {
          table.setFactor(i, coefficient, 0n);
        } else {
          const { of } = this.#labels[i]!;
          const mine = factor(
            i,
            batch.samples[this.divisors.first[i]!]!,
            of,
          );
          table.setFactor(i, coefficient * mine.scale, mine.factors);
          totals ??= mine.totals;
        }
      }
      const written = outputs();
      for (let i = 0; i < inputs.length; i++) {
        table.setOutput(i, written.values[i]!, written.grads[i] ?? null);
      }
      const { total, values, grads } = written;
      table.reduce(device, total, () => ({
        reads: [...tensorsOf(inputs), totals],
        writes: [total, ...values, ...grads],
      }));
      sampled(written, normalizer === undefined ? [] : sumsOf(normalizer));
      return written;
    } finally {
      own?.dispose();
      batch.dispose();
    }
  }

  /** The samples of the tasks, from those of all; of a sum 1. */
  split(
    samples: readonly number[],
  ): readonly (number | readonly number[])[] {
    const split = samples.length === 0 ? [] : this.divisors.split(samples);
    return this.tasks.map(({ reduction }, i) =>
      reduction === "sum" ? 1 : split[i]!
    );
  }

  /** Writes the parameters of a call to the table; gives its coefficient. */
  #setCall(i: number, task: MaskedTask, call: TaskCall | undefined): number {
    const { name, loss, coefficient, parameters } = task;
    if (call === undefined) {
      this.#table.setParameters(i, parameters);
      return coefficient;
    }
    const { coefficient: now = coefficient } = call;
    checkCoefficient(name, now);
    this.#table.setParameters(
      i,
      parametersOf(loss).over(
        parameters,
        call.parameters,
        describe(name, loss),
      ),
    );
    return now;
  }

  /** Checks a task's input and writes it to the table, and to the batch what that has to know. */
  #setInput(
    i: number,
    batch: Batch,
    task: TaskInput | undefined,
    counts: boolean,
  ): void {
    const { loss, reduction, targets, samples, groupWeights } = this.tasks[i]!;
    const table = this.#table;
    const groupCount = groupWeights?.length ?? 1;
    if (task === undefined) {
      table.setAbsent(i, lossNumber(loss, batch.device), groupCount);
      batch.samples.push(...Array<number>(groupCount).fill(0));
      return;
    }
    const label = this.#labels[i]!;
    const { input: pred, target, natoms = null, mask = null } = task;
    const { weights = null, scale = null, groups = null } = task;
    checkPair(pred, target, label.input, label.target);
    const input = prepareInput(loss, pred, natoms);
    table.setInput(i, input, pred, target, targets);

    const perStructure = reduction === "per_structure";
    if (perStructure) checkPerStructure(loss, input, natoms, label.of);
    if (natoms !== null && (perStructure || weights || scale)) {
      checkNatoms(pred, natoms);
    }
    let m: Spread | null = null, w: Spread | null = null;
    let s: Spread | null = null;
    if (weights || scale) {
      const rows = (): Tensor => batch.ofRows(input.rows, pred.dtype);
      const spread = (
        values: Tensor | null,
        of: "entries" | "elements",
        what: string,
      ): Spread | null =>
        values && spreadOf(values, of, pred, input, natoms, rows, what);
      w = spread(weights, "entries", label.weights);
      s = spread(scale, "elements", label.scale);
    }
    if (mask) {
      const entries = loss.outputShape(pred.shape);
      m = maskOf(mask, pred, input, entries, label.mask);
    }
    table.setWeights(i, m, w, s);

    const spreads = !!w?.byRow || !!s?.byRow;
    const structureWeights = perStructure
      ? batch.ofRows(input.rows, pred.dtype)
      : null;
    const ofStructures = perStructure || spreads ? natoms : null;
    table.setStructures(i, ofStructures, structureWeights);

    const perGroup = reduction === "per_group";
    if (perGroup) checkGroups(groups, pred, input, label.groups);
    table.setGroups(i, perGroup ? groups : null, groupCount, samples);

    const mayBeWrong = perStructure || spreads || perGroup;
    table.setWrong(i, mayBeWrong ? batch.wrong(i) : 0n);
    const isPartial = mask !== null || targets === "labels" ||
      (samples === "weights" && weights !== null);
    batch.counted ||= mayBeWrong ||
      (counts && reduction === "mean" && isPartial);
    // At least, as far as the host knows: the device counts the others.
    if (perGroup || isPartial) {
      batch.samples.push(...Array<number>(groupCount).fill(0));
    } else if (perStructure) {
      batch.samples.push(
        samples === "structures"
          ? natoms!.size
          : Math.min(natoms!.size, input.rows, 1),
      );
    } else {
      batch.samples.push(input.entries);
    }
  }
}

/** What tasks read. */
function tensorsOf(
  inputs: readonly (TaskInput | undefined)[],
): (Tensor | null | undefined)[] {
  return inputs.flatMap((task) =>
    task === undefined ? [] : [
      task.input,
      task.target,
      task.natoms,
      task.mask,
      task.weights,
      task.scale,
      task.groups,
    ]
  );
}

/** What the tasks of one call need on the device, and what is known of them. */
class Batch {
  readonly device: Device;
  /** Of each task's groups. */
  readonly samples: number[] = [];
  /** Whether the device must look at the tasks before their losses. */
  counted = false;
  readonly #tasks: number;
  readonly #memory: Tensor[] = [];
  #wrong: Tensor | undefined;

  constructor(device: Device, tasks: number) {
    this.device = device;
    this.#tasks = tasks;
  }

  /** Memory until the call has been enqueued. */
  scratch(shape: readonly number[], dtype: DType): Tensor {
    const tensor = Tensor.empty(this.device, shape, dtype);
    this.#memory.push(tensor);
    return tensor;
  }

  /** The same for a weight or a scale of each row, of a task with this input. */
  ofRows(rows: number, input: DType): Tensor {
    return this.scratch([rows], valueDType(input));
  }

  /** Where the device says what is wrong with a task. */
  wrong(task: number): bigint {
    this.#wrong ??= this.scratch([this.#tasks, 2], "int64");
    return addressOf(this.#wrong) + BigInt(task) * WRONG_BYTES;
  }

  /** Gives the scratch memory back. */
  dispose(): void {
    for (const tensor of this.#memory) tensor.dispose();
  }
}

function checkPerStructure(
  loss: NativeLoss,
  input: LossInput,
  natoms: Tensor | null,
  of: string,
): void {
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
}

function checkGroups(
  groups: Tensor | null,
  pred: Tensor,
  { rows }: LossInput,
  what: string,
): void {
  if (groups === null) {
    throw new ArgumentError(
      `the reduction "per_group" needs ${what}, one number per row`,
    );
  }
  checkTensor(groups, what);
  checkDevice(pred, groups, what);
  if (groups.dtype !== "int32" && groups.dtype !== "int64") {
    throw new DTypeError(
      `${what} has dtype ${groups.dtype}, expected int32 or int64`,
    );
  }
  if (groups.shape.length === 1 && groups.size === rows) return;
  throw new ShapeError(
    `${what} has shape ${
      formatShape(groups.shape)
    }, expected [${rows}], one number per row`,
  );
}

/** The samples of a task's groups. */
function checkGroupSamples(
  given: number | readonly number[],
  groups: number,
  what: string,
): readonly number[] {
  if (typeof given !== "object" || given.length !== groups) {
    throw new ArgumentError(
      `${what} is ${
        typeof given === "object" ? `a list of ${given.length}` : given
      }, expected a list of ${groups} numbers, one per group`,
    );
  }
  given.forEach((n, group) => checkSamples(n, `${what}[${group}]`));
  return given;
}
