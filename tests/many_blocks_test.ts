/** Tasks of all options over many blocks: blocks that share a sum, a count, a group, a structure. */
import { assertEquals, assertRejects } from "@std/assert";
import { ArgumentError, MultiTaskLoss } from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import {
  type Factor,
  type PlainInput,
  type PlainTask,
  plainTask,
  toTensors,
  type Values,
} from "./plain_tasks.ts";
import { seeded } from "./random.ts";

/** More structures than there are blocks. */
const NATOMS = Array.from({ length: 300 }, (_, i) => i % 16);
const STRUCTURES = NATOMS.length;
const ATOMS = NATOMS.reduce((a, b) => a + b, 0);
/** More than a block counts by itself. */
const GROUPS = 1500;

const next = seeded(20261125);

function numbers(
  shape: readonly number[],
  of = (): number => next() - 0.5,
): Values {
  const length = shape.reduce((a, b) => a * b, 1);
  return { values: Array.from({ length }, of), shape };
}

/** Positive numbers, a few of which are no numbers: those count as 0. */
function factor(per: Factor["per"], shape: readonly number[]): Factor {
  return { ...numbers(shape, () => next() < 0.01 ? NaN : 0.2 + next()), per };
}

const mask = (shape: readonly number[]): Values =>
  numbers(shape, () => Number(next() < 0.8));

const groupsOf = (count: number): number[] =>
  Array.from({ length: ATOMS }, () => Math.floor(next() * count));

/** Rows of this width for each atom, some labels of which are missing. */
function ofAtoms(cols: number, missing = 0): PlainInput {
  return {
    input: numbers([ATOMS, cols]),
    target: numbers([ATOMS, cols], () => next() < missing ? NaN : next()),
    natoms: NATOMS,
  };
}

const TASKS: readonly (readonly [PlainTask, PlainInput])[] = [
  [
    { loss: "mse" },
    { ...ofAtoms(3), weights: factor("entry", [ATOMS, 3]) },
  ],
  [
    { loss: "mae", normalize: "weights", ignoreNaN: true },
    {
      ...ofAtoms(3, 0.1),
      mask: mask([ATOMS, 3]),
      weights: factor("structure", [STRUCTURES]),
    },
  ],
  [
    { loss: "huber", parameters: { delta: 0.3 }, reduction: "sum" },
    { ...ofAtoms(3), scale: factor("structure", [STRUCTURES]) },
  ],
  [
    { loss: "l2norm", reduction: "per_structure" },
    { ...ofAtoms(3, 0.1), weights: factor("row", [ATOMS]) },
  ],
  [
    { loss: "mse", reduction: "per_structure", structures: "all" },
    { ...ofAtoms(1), mask: mask([ATOMS]) },
  ],
  [
    {
      loss: "mse",
      reduction: "per_group",
      groupWeights: [1, 5, 0.5],
      ignoreNaN: true,
    },
    { ...ofAtoms(2, 0.1), groups: groupsOf(3), mask: mask([ATOMS]) },
  ],
  [
    {
      loss: "l2norm",
      reduction: "per_group",
      groupWeights: Array.from({ length: GROUPS }, (_, i) => 1 + i % 7),
    },
    { ...ofAtoms(3), groups: groupsOf(GROUPS) },
  ],
  [
    { loss: "smooth_l1", parameters: { beta: 0.2 }, ignoreNaN: true },
    { ...ofAtoms(3, 0.1), scale: factor("column", [1, 3]) },
  ],
  [
    { loss: "l2norm", normalize: "weights", ignoreNaN: true },
    { ...ofAtoms(20, 0.01), weights: factor("row", [ATOMS]) },
  ],
  [{ loss: "cross_entropy" }, ofAtoms(4)],
  [{ loss: "l2norm", coefficient: 3 }, ofAtoms(3)],
];

/** Throws unless numbers agree to the rounding of sums of so many. */
function assertNear(
  actual: readonly number[],
  expected: readonly number[],
  what: string,
): void {
  assertEquals(actual.length, expected.length, what);
  const most = Math.max(...expected.map(Math.abs));
  for (const [i, e] of expected.entries()) {
    // Written so that a NaN is a difference.
    if (Math.abs(actual[i]! - e) <= 1e-10 * most) continue;
    throw new Error(`${what}[${i}] is ${actual[i]}, expected ${e}`);
  }
}

testOnDevices(
  "tasks of many blocks are their formulas, whatever is asked, and have the same bits again",
  async (device) => {
    using stack = new DisposableStack();
    const told: [number, string | undefined][] = [];
    const loss = new MultiTaskLoss(
      Object.fromEntries(TASKS.map(([task], i) => [`t${i}`, task])),
      { onNonFinite: (count, task) => told.push([count, task]) },
    );
    const inputs = Object.fromEntries(
      TASKS.map(([, x], i) => [`t${i}`, toTensors(device, stack, x)]),
    );
    const result = stack.use(loss.valueAndGrad(inputs));
    const again = stack.use(loss.valueAndGrad(inputs));
    const { values, samples, total } = await result.read();
    const first = told.splice(0);
    assertEquals(await again.read(), { values, samples, total });
    assertEquals(told, first);
    for (const [i, [task, x]] of TASKS.entries()) {
      const name = `t${i}`, expected = plainTask(task, x);
      const what = `${name}, ${task.loss}:`;
      assertNear([values[name]!], [expected.value], `${what} value`);
      assertNear(
        [samples[name]!].flat(),
        [expected.samples].flat(),
        `${what} samples`,
      );
      assertNear(
        await result.grads[name]!.toList(),
        expected.grad,
        `${what} grad`,
      );
    }
  },
);

testOnDevices(
  "of a task whose groups or natoms are wrong nothing is written elsewhere, and its gradient is 0",
  async (device) => {
    using stack = new DisposableStack();
    const atoms = 1024; // that fill their memory
    const rows = {
      input: numbers([atoms, 3]),
      target: numbers([atoms, 3]),
    };
    const byGroup: PlainTask = {
      loss: "mse",
      reduction: "per_group",
      groupWeights: [1, 2, 3],
    };
    const scaled: PlainTask = { loss: "l2norm", reduction: "sum" };
    const scale: Factor = { values: [1, 2, 3], shape: [3], per: "structure" };
    const groups = Array.from({ length: atoms }, (_, i) => i % 3);
    for (
      const [task, x, word] of [
        [byGroup, { groups: groups.with(700, 3) }, "groupWeights"],
        [byGroup, { groups: groups.with(10, -1) }, "groupWeights"],
        [scaled, { natoms: [512, 512, 1], scale }, "natoms"],
        [scaled, { natoms: [512, 511, 0], scale }, "natoms"],
        [scaled, { natoms: [2000, -1, -975], scale }, "natoms"],
      ] as const
    ) {
      const loss = new MultiTaskLoss({ x: task });
      const result = stack.use(loss.valueAndGrad({
        x: toTensors(device, stack, { ...rows, ...x }),
      }));
      await assertRejects(() => result.read(), ArgumentError, word);
      const grad = await result.grads.x!.toList();
      assertEquals(grad, Array(3 * atoms).fill(0), JSON.stringify(task));
    }
  },
);
