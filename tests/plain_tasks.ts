/** One task with any options in plain TypeScript: what the fused pass is compared with. */
import type { Device, TaskInput, TaskOptions, Tensor } from "../mod.ts";
import { ELEMENT_LOSSES, ROW_LOSSES } from "./plain_losses.ts";

/** An array, row after row. */
export interface Values {
  readonly values: readonly number[];
  readonly shape: readonly number[];
}

/** Weights or a scale. */
export interface Factor extends Values {
  readonly per: "row" | "entry" | "column" | "structure";
}

/** A task of a loss that {@linkcode ELEMENT_LOSSES} or {@linkcode ROW_LOSSES} has. */
export interface PlainTask extends TaskOptions {
  readonly loss: string;
}

/** What a task is computed from. */
export interface PlainInput {
  readonly input: Values;
  readonly target: Values;
  /** Atoms of each structure. */
  readonly natoms?: readonly number[];
  /** One per row, or of the shape of the unreduced loss. */
  readonly mask?: Values;
  readonly weights?: Factor;
  readonly scale?: Factor;
  readonly groups?: readonly number[];
}

/** A task's loss, computed plainly. */
export interface PlainResult {
  readonly value: number;
  /** Of the numbers that the value is the sum of, without their signs. */
  readonly size: number;
  readonly grad: readonly number[];
  /** What the mean is divided by: a number, or one per group; of a sum 1. */
  readonly samples: number | readonly number[];
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** The structure of each atom. */
export function owners(natoms: readonly number[]): number[] {
  return natoms.flatMap((n, structure) => Array<number>(n).fill(structure));
}

/** Rows and numbers per row of a tensor. */
function sizes({ shape }: Values): [rows: number, cols: number] {
  return [shape[0]!, shape.slice(1).reduce((a, b) => a * b, 1)];
}

/** The factor of row i and column c; one that is not finite counts as 0. */
function factorOf(
  factor: Factor | undefined,
  { input, natoms }: PlainInput,
): (i: number, c: number) => number {
  if (factor === undefined) return () => 1;
  const { values, per } = factor;
  const [, cols] = sizes(input);
  const owner = per === "structure" ? owners(natoms!) : [];
  return (i, c) => {
    const x = values[
      per === "row"
        ? i
        : per === "column"
        ? c
        : per === "entry"
        ? i * cols + c
        : owner[i]!
    ]!;
    return Number.isFinite(x) ? x : 0;
  };
}

/** One entry of the unreduced loss. */
interface Entry {
  readonly row: number;
  /** Whether its loss is not 0, whatever its weight. */
  readonly hasLoss: boolean;
  readonly weight: number;
  /** With its weight. */
  readonly loss: number;
  /** Derivatives with respect to elements of the input, with its weight. */
  readonly slopes: readonly (readonly [element: number, slope: number])[];
}

/** The entries that count. */
function entriesOf(task: PlainTask, x: PlainInput): Entry[] {
  const [rows, cols] = sizes(x.input);
  const weight = factorOf(x.weights, x), scale = factorOf(x.scale, x);
  const byRow = ROW_LOSSES[task.loss];
  const byElement = ELEMENT_LOSSES[task.loss]!;
  const { parameters = {} } = task;
  const counts = (i: number, columns: readonly number[]): boolean => {
    const { mask } = x;
    const at = mask?.values.length === rows ? i : i * cols + columns[0]!;
    if (mask !== undefined && !mask.values[at]) return false;
    return !task.ignoreNaN ||
      columns.every((c) => !Number.isNaN(x.target.values[i * cols + c]!));
  };
  const numbers = ({ values }: Values, i: number): number[] =>
    range(cols).map((c) => {
      const number = values[i * cols + c]!;
      return Number.isFinite(number) ? number * scale(i, c) : 0;
    });
  return range(rows).flatMap((row): Entry[] => {
    const p = numbers(x.input, row), t = numbers(x.target, row);
    if (byRow !== undefined) {
      if (!counts(row, range(cols))) return [];
      const [loss, slopes] = byRow(p, t, parameters);
      const w = weight(row, 0);
      return [{
        row,
        hasLoss: loss !== 0,
        weight: w,
        loss: w * loss,
        slopes: slopes.map((g, c) => [row * cols + c, w * scale(row, c) * g]),
      }];
    }
    return range(cols).filter((c) => counts(row, [c])).map((c) => {
      const n = x.natoms?.[row] ?? 1;
      const [loss, slope] = byElement(p[c]!, t[c]!, parameters, n);
      const w = weight(row, c);
      return {
        row,
        hasLoss: loss !== 0,
        weight: w,
        loss: w * loss,
        slopes: [[row * cols + c, w * scale(row, c) * slope]],
      };
    });
  });
}

/** The loss of a task, as one process has it with all the data. */
export function plainTask(task: PlainTask, x: PlainInput): PlainResult {
  const { coefficient = 1, reduction = "mean" } = task;
  const entries = entriesOf(task, x);
  const sum = (of: (entry: Entry) => number): number =>
    entries.reduce((total, entry) => total + of(entry), 0);

  /** What the loss and the slopes of an entry are multiplied by. */
  let share: (entry: Entry) => number;
  let samples: number | number[];
  if (reduction === "sum") {
    samples = 1;
    share = () => 1;
  } else if (reduction === "per_structure") {
    const owner = owners(x.natoms!);
    const free = x.natoms!.map(() => new Set<number>());
    const withLoss = new Set<number>();
    for (const { row, hasLoss } of entries) {
      free[owner[row]!]!.add(row);
      if (hasLoss) withLoss.add(owner[row]!);
    }
    const n = task.structures === "all" ? x.natoms!.length : withLoss.size;
    samples = n;
    share = ({ row }) => 1 / free[owner[row]!]!.size / Math.max(n, 1);
  } else if (reduction === "per_group") {
    const weights = task.groupWeights!;
    const numbers = weights.map((_, group) =>
      sum(({ row }) => Number(x.groups![row] === group))
    );
    const all = weights.reduce((a, c, k) => a + (numbers[k]! > 0 ? c : 0), 0);
    samples = numbers;
    share = ({ row }) => {
      const group = x.groups![row]!;
      return all === 0 ? 0 : weights[group]! / numbers[group]! / all;
    };
  } else if (task.normalize === "weights") {
    const all = sum(({ weight }) => weight);
    samples = all;
    share = () => all === 0 ? 0 : 1 / all;
  } else {
    samples = entries.length;
    share = () => 1 / Math.max(entries.length, 1);
  }
  const grad = x.input.values.map(() => 0);
  for (const entry of entries) {
    for (const [element, slope] of entry.slopes) {
      grad[element] = coefficient * share(entry) * slope;
    }
  }
  return {
    value: coefficient * sum((entry) => share(entry) * entry.loss),
    size: Math.abs(coefficient) *
      sum((entry) => Math.abs(share(entry) * entry.loss)),
    grad,
    samples,
  };
}

/** What the means of two parts are divided by, together. */
export function addSamples(
  a: number | readonly number[],
  b: number | readonly number[],
): number | readonly number[] {
  return typeof a === "number"
    ? a + (b as number)
    : a.map((n, group) => n + (b as readonly number[])[group]!);
}

/** The numbers of structures [begin, end) of a batch of these natoms, whose rows are atoms or structures. */
export function partOf(
  x: PlainInput,
  of: "atoms" | "structures",
  natoms: readonly number[],
  begin: number,
  end: number,
): PlainInput {
  const before = (structure: number): number =>
    of === "structures"
      ? structure
      : natoms.slice(0, structure).reduce((a, b) => a + b, 0);
  const [first, last] = [before(begin), before(end)];
  const rowsOf = <V extends Values>(values: V): V => {
    const width = values.shape.slice(1).reduce((a, b) => a * b, 1);
    return {
      ...values,
      values: values.values.slice(first * width, last * width),
      shape: [last - first, ...values.shape.slice(1)],
    };
  };
  const factor = (f: Factor): Factor =>
    f.per === "column"
      ? f
      : f.per === "structure"
      ? { ...f, values: f.values.slice(begin, end), shape: [end - begin] }
      : rowsOf(f);
  return {
    input: rowsOf(x.input),
    target: rowsOf(x.target),
    ...(x.natoms && { natoms: x.natoms.slice(begin, end) }),
    ...(x.mask && { mask: rowsOf(x.mask) }),
    ...(x.weights && { weights: factor(x.weights) }),
    ...(x.scale && { scale: factor(x.scale) }),
    ...(x.groups && { groups: x.groups.slice(first, last) }),
  };
}

/** The input as tensors of float64, owned by `stack`. */
export function toTensors(
  device: Device,
  stack: DisposableStack,
  x: PlainInput,
): TaskInput {
  const floats = ({ values, shape }: Values): Tensor =>
    stack.use(device.tensor(Float64Array.from(values), shape));
  /** As many structures as rows: the tensor would be read as one number per row. */
  const factor = (f: Factor): Tensor => {
    if (f.per !== "structure" || x.natoms!.length !== x.input.shape[0]) {
      return floats(f);
    }
    const values = owners(x.natoms!).map((structure) => f.values[structure]!);
    return floats({ values, shape: [values.length] });
  };
  const { natoms, mask, weights, scale, groups } = x;
  return {
    input: floats(x.input),
    target: floats(x.target),
    natoms: natoms ? stack.use(device.tensor(Int32Array.from(natoms))) : null,
    mask: mask
      ? stack.use(
        device.tensor(Uint8Array.from(mask.values), mask.shape, "bool"),
      )
      : null,
    weights: weights ? factor(weights) : null,
    scale: scale ? factor(scale) : null,
    groups: groups ? stack.use(device.tensor(Int32Array.from(groups))) : null,
  };
}
