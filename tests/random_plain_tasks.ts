/** Random batches and tasks with all options at once, for plain_tasks.ts, and their calls. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  type Device,
  MultiTaskLoss,
  type Normalizer,
  type ProcessGroup,
} from "../mod.ts";
import { ELEMENT_LOSSES, ROW_LOSSES } from "./plain_losses.ts";
import {
  type Factor,
  partOf,
  type PlainInput,
  type PlainTask,
  plainTask,
  toTensors,
  type Values,
} from "./plain_tasks.ts";
import { seeded } from "./random.ts";

/** A task over all structures of a batch. */
export interface RandomTask {
  readonly task: PlainTask;
  readonly of: "atoms" | "structures";
  readonly x: PlainInput;
}

/** A batch and what is trained on it. */
export interface RandomStep {
  readonly natoms: readonly number[];
  readonly tasks: readonly RandomTask[];
}

type Per = Factor["per"] | "none";

const choices = fc.record({
  loss: fc.constantFrom(
    ...Object.keys(ELEMENT_LOSSES),
    ...Object.keys(ROW_LOSSES),
  ),
  reduction: fc.constantFrom("mean", "sum", "per_structure", "per_group"),
  coefficient: fc.constantFrom(1, 10, -0.25),
  of: fc.constantFrom("atoms", "structures"),
  mask: fc.constantFrom("none", "rows", "entries"),
  /** Which share of the labels is missing. */
  missing: fc.constantFrom(0, 0, 0.2, 1),
  ignoreNaN: fc.boolean(),
  normalize: fc.boolean(),
  structures: fc.constantFrom("all", "with_loss"),
  groupWeights: fc.array(fc.constantFrom(0, 0.5, 1, 5), {
    minLength: 1,
    maxLength: 4,
  }),
  weights: fc.constantFrom("none", "row", "entry", "column", "structure"),
  scale: fc.constantFrom("none", "row", "entry", "column", "structure"),
  delta: fc.constantFrom(0.1, 0.5, 3),
  seed: fc.integer(),
});
type Choices = typeof choices extends fc.Arbitrary<infer T> ? T : never;

/** The task that these choices make, over a batch of these natoms. */
function taskOf(choice: Choices, natoms: readonly number[]): RandomTask {
  const { loss, seed } = choice;
  const next = seeded(seed);
  const isRow = Object.hasOwn(ROW_LOSSES, loss);
  const of = loss === "per_atom_mae"
    ? "structures"
    : isRow
    ? "atoms"
    : choice.of as RandomTask["of"];
  // What is given per structure has no rows to add.
  const reduction = of === "structures" && choice.reduction === "per_structure"
    ? "mean"
    : choice.reduction as NonNullable<PlainTask["reduction"]>;
  const rows = of === "structures"
    ? natoms.length
    : natoms.reduce((a, b) => a + b, 0);
  const cols = of === "structures" ? 1 : loss === "plain_gaussian_nll" ? 2 : 3;
  const shape = cols === 1 ? [rows] : [rows, cols];
  const random = (shape: readonly number[], of: () => number): Values => {
    const size = shape.reduce((a, b) => a * b, 1);
    return { shape, values: Array.from({ length: size }, of) };
  };

  // Away from 0, where variances and directions have no meaning.
  const away = (): number => 0.1 + 2 * next();
  const number = loss === "plain_gaussian_nll" || loss === "cross_entropy"
    ? away
    : () => away() * (next() < 0.5 ? -1 : 1);
  const input = random(shape, number), target = random(shape, number);
  // A normalizer for no structure with a loss is refused, where there are
  // structures and nothing is masked.
  const someLoss = reduction === "per_structure" &&
    choice.structures === "with_loss" && choice.mask === "none" &&
    !choice.ignoreNaN;
  // Directions of nothing are NaN, and of equal ones the gradient is rounding.
  const isCosine = loss === "plain_cosine";
  const missing = someLoss || (isCosine && !choice.ignoreNaN)
    ? 0
    : choice.missing;
  const exact = someLoss || isCosine ? 0 : 0.2;
  for (let row = 0; row < rows; row++) {
    const isExact = next() < exact;
    for (let i = row * cols; i < (row + 1) * cols; i++) {
      if (isExact) (target.values as number[])[i] = input.values[i]!;
      if (next() < missing) (target.values as number[])[i] = NaN;
    }
  }

  const factor = (
    per: Per,
    ofRows: boolean,
    of_: () => number,
  ): Factor | undefined => {
    if (per === "none") return undefined;
    if (per === "structure" && of === "structures") per = "row";
    if (ofRows && (per === "entry" || per === "column")) per = "row";
    const shapes = {
      row: next() < 0.5 ? [rows] : [rows, 1],
      entry: shape,
      column: [1, cols],
      structure: [natoms.length],
    };
    return { ...random(shapes[per], of_), per };
  };
  const weights = factor(
    choice.weights as Per,
    isRow,
    () => next() < 0.1 ? 0 : away(),
  );
  const scale = factor(choice.scale as Per, false, away);
  const perRow = isRow || choice.mask === "rows";
  const mask = choice.mask === "none"
    ? undefined
    : random(perRow ? [rows] : shape, () => Number(next() < 0.7));
  const byGroup = reduction === "per_group";
  return {
    of,
    task: {
      loss,
      reduction,
      coefficient: choice.coefficient,
      ignoreNaN: choice.ignoreNaN,
      ...(loss === "huber" || loss === "plain_row_huber"
        ? { parameters: { delta: choice.delta } }
        : {}),
      ...(reduction === "mean" && choice.normalize
        ? { normalize: "weights" }
        : {}),
      ...(reduction === "per_structure"
        ? { structures: choice.structures as "all" }
        : {}),
      ...(byGroup ? { groupWeights: choice.groupWeights } : {}),
    },
    x: {
      input,
      target,
      // A loss that reads natoms needs an atom in each structure.
      natoms: of === "structures" ? natoms.map((n) => Math.max(n, 1)) : natoms,
      ...(mask && { mask }),
      ...(weights && { weights }),
      ...(scale && { scale }),
      ...(byGroup && {
        groups: Array.from(
          { length: rows },
          () => Math.floor(next() * choice.groupWeights.length),
        ),
      }),
    },
  };
}

/** Batches of up to 7 structures of up to 9 atoms, some without any. */
export const randomStep: fc.Arbitrary<RandomStep> = fc.record({
  natoms: fc.array(fc.nat({ max: 9 }), { maxLength: 7 }),
  tasks: fc.array(choices, { minLength: 1, maxLength: 5 }),
}).map(({ natoms, tasks }) => {
  return { natoms, tasks: tasks.map((choice) => taskOf(choice, natoms)) };
});

/** Structures [begin, end) of each task. */
export function inputsOf(
  { natoms, tasks }: RandomStep,
  begin: number,
  end: number,
): PlainInput[] {
  return tasks.map(({ x, of }) => partOf(x, of, natoms, begin, end));
}

/** The tasks, named by their numbers. Missing labels are told to nobody. */
export function lossOf(
  { tasks }: RandomStep,
  group?: ProcessGroup,
): MultiTaskLoss<string> {
  return new MultiTaskLoss(
    Object.fromEntries(tasks.map(({ task }, i) => [`t${i}`, task])),
    { onNonFinite: () => {}, ...(group && { group }) },
  );
}

/** The normalizer of structures [begin, end), whatever batches they are in. */
export function normalizerOf(
  step: RandomStep,
  loss: MultiTaskLoss<string>,
  begin: number,
  end: number,
): Normalizer {
  const samples = inputsOf(step, begin, end).map((x, i) =>
    plainTask(step.tasks[i]!.task, x).samples
  );
  return loss.normalizer(
    Object.fromEntries(samples.map((n, i) => [`t${i}`, n])),
  );
}

/** What came of structures in one batch, or in several. */
export interface StepResult {
  readonly values: number[];
  readonly grads: number[][];
  readonly samples: readonly (number | readonly number[])[];
}

/**
 * Structures [borders[0], last border), in a batch from each border to the next.
 * `absent`: a batch without structures leaves its tasks out.
 */
export async function resultOf(
  device: Device,
  step: RandomStep,
  loss: MultiTaskLoss<string>,
  borders: readonly number[],
  { normalizer, absent = false }: {
    normalizer?: Normalizer | undefined;
    absent?: boolean;
  } = {},
): Promise<StepResult> {
  const values = step.tasks.map(() => 0);
  const grads: number[][] = step.tasks.map(() => []);
  let samples: StepResult["samples"] = [];
  for (let b = 1; b < borders.length; b++) {
    const [begin, end] = [borders[b - 1]!, borders[b]!];
    using stack = new DisposableStack();
    const inputs = absent && begin === end
      ? []
      : inputsOf(step, begin, end).map((x, i) => [
        `t${i}`,
        toTensors(device, stack, x),
      ]);
    const result = stack.use(
      loss.valueAndGrad(
        Object.fromEntries(inputs),
        normalizer ? { normalizer } : {},
      ),
    );
    const read = await result.read();
    for (const [i, name] of loss.names.entries()) {
      values[i]! += read.values[name]!;
      grads[i]!.push(...await result.grads[name]?.toList() ?? []);
    }
    samples = loss.names.map((name) => read.samples[name]!);
  }
  return { values, grads, samples };
}

/** Throws, with the task, unless a result is that of the formulas over all the data. */
export function assertStep(
  step: RandomStep,
  { values, grads, samples }: StepResult,
): void {
  for (const [i, { task, x }] of step.tasks.entries()) {
    const expected = plainTask(task, x);
    const near = (
      what: string,
      actual: readonly number[],
      expected: readonly number[],
      size: number,
    ): void => {
      assertEquals(actual.length, expected.length, what);
      for (const [k, e] of expected.entries()) {
        // Written so that a NaN is a difference.
        if (Math.abs(actual[k]! - e) <= 1e-10 * size) continue;
        throw new Error(
          `${what}[${k}] is ${actual[k]}, expected ${e}: ${
            JSON.stringify(task)
          } over ${step.natoms}`,
        );
      }
    };
    const counts = [expected.samples].flat();
    near("value", [values[i]!], [expected.value], expected.size);
    near(
      "grad",
      grads[i]!,
      expected.grad,
      Math.max(...expected.grad.map(Math.abs)),
    );
    near("samples", [samples[i]!].flat(), counts, Math.max(...counts));
  }
}
