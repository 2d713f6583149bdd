/** Random batches and tasks for property tests, and the losses written out plainly. */
import fc from "fast-check";
import type {
  Device,
  DType,
  MaskedReduction,
  TaskInput,
  TaskOptions,
} from "../mod.ts";
import { emptyArray } from "../tensor/dtype.ts";
import { seeded } from "./random.ts";

/** One task over a batch of structures. */
export interface RandomTask {
  readonly loss: "mae" | "mse" | "per_atom_mae" | "l2norm";
  readonly reduction: MaskedReduction;
  readonly coefficient: number;
  readonly dtype: "float32" | "float64" | "float16" | "bfloat16";
  /** One number per structure, or a vector per atom. */
  readonly of: "structures" | "atoms";
  readonly mask: "none" | "entries" | "rows";
  /** Some targets are NaN or infinite. */
  readonly gaps: boolean;
  readonly seed: number;
}

/** A batch and what is trained on it. */
export interface RandomStep {
  readonly natoms: readonly number[];
  readonly tasks: readonly RandomTask[];
}

const task: fc.Arbitrary<RandomTask> = fc.record({
  loss: fc.constantFrom("mae", "mse", "per_atom_mae", "l2norm"),
  reduction: fc.constantFrom("mean", "sum", "per_structure"),
  coefficient: fc.constantFrom(1, 10, 0.25),
  dtype: fc.constantFrom("float32", "float64", "float16", "bfloat16"),
  of: fc.constantFrom("structures", "atoms"),
  mask: fc.constantFrom("none", "entries", "rows"),
  gaps: fc.boolean(),
  seed: fc.integer(),
}).map((task) => {
  const { loss } = task;
  const of = loss === "per_atom_mae"
    ? "structures"
    : loss === "l2norm"
    ? "atoms"
    : task.of;
  // What is given per structure has no rows to sum per structure.
  const reduction = of === "structures" && task.reduction === "per_structure"
    ? "mean"
    : task.reduction;
  return { ...task, of, reduction } as RandomTask;
});

/** Batches of up to 9 structures of up to 40 atoms, empty ones included. */
export const randomStep: fc.Arbitrary<RandomStep> = fc.record({
  natoms: fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 9 }),
  tasks: fc.array(task, { minLength: 1, maxLength: 5 }),
});

/** The numbers of a task over some of the structures of a batch. */
export interface TaskData {
  readonly cols: number;
  readonly rows: number;
  /** As stored in the task's dtype. */
  readonly pred: Float64Array;
  readonly target: Float64Array;
  /** One per entry of the unreduced loss. */
  readonly mask: Uint8Array<ArrayBuffer>;
  readonly natoms: readonly number[];
}

/** Numbers that every floating dtype holds exactly. */
function eighths(n: number, next: () => number): Float64Array {
  return Float64Array.from(
    { length: n },
    () => Math.floor(next() * 64 - 32) / 8,
  );
}

/** The data of structures [begin, end) of a batch. */
export function dataOf(
  { natoms }: RandomStep,
  task: RandomTask,
  begin: number,
  end: number,
): TaskData {
  const next = seeded(task.seed);
  const atomsBefore = (i: number): number =>
    natoms.slice(0, i).reduce((a, b) => a + b, 0);
  const at = (i: number): number => task.of === "atoms" ? atomsBefore(i) : i;
  const cols = task.of === "atoms" ? 3 : 1;
  const all = at(natoms.length);
  const pred = eighths(all * cols, next);
  const target = eighths(all * cols, next);
  if (task.gaps) {
    for (let i = 0; i < target.length; i++) {
      if (next() < 0.1) target[i] = next() < 0.5 ? NaN : Infinity;
    }
  }
  const entries = task.loss === "l2norm" ? 1 : cols;
  const mask = Uint8Array.from(
    { length: all * entries },
    () => Number(next() < 0.7),
  );
  if (task.mask === "none") mask.fill(1);
  if (task.mask === "rows") {
    mask.forEach((_, i) => mask[i] = mask[i - i % entries]!);
  }
  return {
    cols,
    rows: at(end) - at(begin),
    pred: pred.slice(at(begin) * cols, at(end) * cols),
    target: target.slice(at(begin) * cols, at(end) * cols),
    mask: mask.slice(at(begin) * entries, at(end) * entries),
    natoms: natoms.slice(begin, end),
  };
}

/** The bits of a number that bfloat16 or float16 holds exactly, or the number. */
function stored(
  values: Float64Array,
  dtype: DType,
): ReturnType<typeof emptyArray> {
  const array = emptyArray(dtype, values.length);
  if (dtype === "bfloat16") {
    const bits = new Uint32Array(Float32Array.from(values).buffer);
    bits.forEach((b, i) => array[i] = b >>> 16);
  } else {
    values.forEach((x, i) => array[i] = x);
  }
  return array;
}

/** The data as tensors, owned by `stack`. */
export function toInput(
  device: Device,
  stack: DisposableStack,
  { dtype, mask, loss }: RandomTask,
  data: TaskData,
): TaskInput {
  const { rows, cols } = data;
  const shape = cols === 1 ? [rows] : [rows, cols];
  const entries = loss === "l2norm" ? [rows] : shape;
  const perRow = data.mask.length / Math.max(rows, 1);
  const rowMask = data.mask.filter((_, i) => i % perRow === 0);
  return {
    input: stack.use(device.tensor(stored(data.pred, dtype), shape, dtype)),
    target: stack.use(device.tensor(stored(data.target, dtype), shape, dtype)),
    natoms: stack.use(device.tensor(Int32Array.from(data.natoms))),
    mask: mask === "none"
      ? null
      : mask === "rows"
      ? stack.use(device.tensor(rowMask, [rows], "bool"))
      : stack.use(device.tensor(data.mask, entries, "bool")),
  };
}

/** The options of a task as MultiTaskLoss takes them. */
export function optionsOf(
  { loss, reduction, coefficient }: RandomTask,
): Required<Pick<TaskOptions, "loss" | "reduction" | "coefficient">> {
  return { loss, reduction, coefficient };
}

/** The sum, samples and gradient of a task, written out in float64. */
export function plainLoss(
  { loss, reduction }: RandomTask,
  { rows, cols, pred, target, mask, natoms }: TaskData,
): { sum: number; samples: number; grad: Float64Array } {
  const grad = new Float64Array(pred.length);
  const entries = loss === "l2norm" ? 1 : cols;
  const rowLoss = new Float64Array(rows);
  let sum = 0;
  for (let row = 0; row < rows; row++) {
    const d = Array.from({ length: cols }, (_, j) => {
      const t = target[row * cols + j]!;
      return pred[row * cols + j]! - (Number.isFinite(t) ? t : 0);
    });
    const norm = Math.hypot(...d);
    for (let e = 0; e < entries; e++) {
      if (!mask[row * entries + e]) continue;
      const n = natoms[row]!;
      const x = d[e]!;
      const i = row * cols + e;
      if (loss === "l2norm") {
        rowLoss[row]! += norm;
        d.forEach((x, j) => grad[row * cols + j] = norm === 0 ? 0 : x / norm);
      } else if (loss === "mse") {
        rowLoss[row]! += x * x;
        grad[i] = 2 * x;
      } else {
        const scale = loss === "per_atom_mae" ? 1 / n : 1;
        rowLoss[row]! += Math.abs(x) * scale;
        grad[i] = Math.sign(x) * scale;
      }
    }
    sum += rowLoss[row]!;
  }
  if (reduction !== "per_structure") {
    return { sum, samples: mask.reduce((a, b) => a + b, 0), grad };
  }
  sum = 0;
  let samples = 0, row = 0;
  for (const n of natoms) {
    let free = 0, loss = 0;
    for (let i = row; i < row + n; i++) {
      free += Number(mask.slice(i * entries, (i + 1) * entries).includes(1));
      loss += rowLoss[i]!;
    }
    for (let i = row * cols; i < (row + n) * cols; i++) {
      grad[i]! /= free || n;
    }
    sum += loss / (free || n);
    samples += Number(loss !== 0);
    row += n;
  }
  return { sum, samples, grad };
}
