/** A random step as MultiTaskLoss computes it, or a part of its structures. */
import {
  type Device,
  type DType,
  MultiTaskLoss,
  type Normalizer,
  type ProcessGroup,
} from "../mod.ts";
import { difference } from "./golden.ts";
import {
  dataOf,
  optionsOf,
  plainLoss,
  type RandomStep,
  toInput,
} from "./random_tasks.ts";

/** Structures [begin, end) of the step; default: all. */
export interface Part {
  readonly begin: number;
  readonly end: number;
  readonly normalizer?: Normalizer;
  /** Tasks without a row are left out instead of given with 0 rows. */
  readonly absent?: boolean;
}

/** What came out, as numbers. */
export interface StepResult {
  readonly total: number;
  readonly values: readonly number[];
  readonly grads: readonly (readonly number[])[];
}

/** The tasks of a step, named by their numbers. */
export function stepLoss(
  { tasks }: RandomStep,
  group?: ProcessGroup,
): MultiTaskLoss<string> {
  return new MultiTaskLoss(
    Object.fromEntries(tasks.map((task, i) => [`t${i}`, optionsOf(task)])),
    group ? { group } : {},
  );
}

/** What the means of structures [begin, end) are divided by. */
export function samplesOf(
  step: RandomStep,
  begin: number,
  end: number,
): Record<string, number> {
  return Object.fromEntries(
    step.tasks.map((task, i) => [
      `t${i}`,
      plainLoss(task, dataOf(step, task, begin, end)).samples,
    ]),
  );
}

/** Computes a step, or a part of it. */
export async function stepOf(
  device: Device,
  stack: DisposableStack,
  loss: MultiTaskLoss<string>,
  step: RandomStep,
  part: Part = { begin: 0, end: step.natoms.length },
): Promise<StepResult> {
  const inputs = Object.fromEntries(
    step.tasks.flatMap((task, i) => {
      const data = dataOf(step, task, part.begin, part.end);
      if (part.absent && data.rows === 0) return [];
      return [[`t${i}`, toInput(device, stack, task, data)]];
    }),
  );
  const { normalizer } = part;
  const result = stack.use(
    loss.valueAndGrad(inputs, normalizer ? { normalizer } : {}),
  );
  return {
    total: await result.total.item(),
    values: await Promise.all(
      loss.names.map((name) => result.values[name]!.item()),
    ),
    grads: await Promise.all(
      loss.names.map((name) => result.grads[name]?.toList() ?? []),
    ),
  };
}

/** Throws unless the lists agree to the rounding of a dtype. */
export function assertClose(
  actual: readonly number[],
  expected: readonly number[],
  dtype: DType,
): void {
  const text = difference(actual, expected, dtype);
  if (text !== undefined) throw new Error(text);
}
