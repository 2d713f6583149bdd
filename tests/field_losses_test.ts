/** The losses that published potentials train with, kind by kind, against the formulas of plain_tasks.ts. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  ArgumentError,
  checkGradient,
  DDPLoss,
  DDPMTLoss,
  defineLoss,
  type Device,
  DTypeError,
  MultiTaskLoss,
  ShapeError,
  type TaskOptions,
  type Tensor,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import { DEFINITIONS } from "./plain_losses.ts";
import {
  addSamples,
  type Factor,
  partOf,
  type PlainInput,
  type PlainTask,
  plainTask,
  toTensors,
  type Values,
} from "./plain_tasks.ts";
import { seeded } from "./random.ts";
import { assertClose } from "./step_of.ts";

// Before a device is open: compiled once, with the library.
for (const [name, definition] of Object.entries(DEFINITIONS)) {
  await defineLoss(name, definition);
}

/** A batch of ragged structures, one of them without atoms. */
const NATOMS = [3, 1, 0, 5, 2];
const ATOMS = 11, STRUCTURES = 5;

const next = seeded(13);
const uniform = (low: number, high: number): number =>
  low + (high - low) * next();
const list = (n: number, of: (i: number) => number): number[] =>
  Array.from({ length: n }, (_, i) => of(i));

/** Numbers of this shape between low and high. */
function numbers(shape: readonly number[], low = -1, high = 1): Values {
  const size = shape.reduce((a, b) => a * b, 1);
  return { values: list(size, () => uniform(low, high)), shape };
}

/** Positive numbers, as weights or a scale. */
function factor(per: Factor["per"], shape: readonly number[]): Factor {
  return { ...numbers(shape, 0.2, 3), per };
}

/** The same with some labels missing, among them all of the first row. */
function withGaps({ values, shape }: Values): Values {
  const cols = values.length / shape[0]!;
  const gaps = values.map((x, i) => i < cols || i % 5 === 3 ? NaN : x);
  return { values: gaps, shape };
}

function mask(shape: readonly number[]): Values {
  return { values: numbers(shape).values.map((x) => Number(x > -0.4)), shape };
}

const forces: PlainInput = {
  input: numbers([ATOMS, 3]),
  target: numbers([ATOMS, 3]),
};
const forcesGaps = { ...forces, target: withGaps(forces.target) };
const energies: PlainInput = {
  input: numbers([STRUCTURES], -40, 0),
  target: numbers([STRUCTURES], -40, 0),
};
const stresses: PlainInput = {
  input: numbers([STRUCTURES, 3, 3]),
  target: numbers([STRUCTURES, 3, 3]),
};
const stressesGaps = { ...stresses, target: withGaps(stresses.target) };
/** Mean and variance as columns. */
const gaussian: PlainInput = {
  input: {
    values: list(2 * STRUCTURES, (i) => uniform(i % 2 ? 0.1 : -2, 2)),
    shape: [STRUCTURES, 2],
  },
  target: numbers([STRUCTURES, 2]),
};
const logits: PlainInput = {
  input: numbers([ATOMS, 4], -9, 9),
  target: numbers([ATOMS, 4], 0, 1),
};
/** The second structure without any error. */
const exact: PlainInput = {
  ...forces,
  natoms: NATOMS,
  input: {
    shape: [ATOMS, 3],
    values: forces.input.values.map((x, i) =>
      Math.floor(i / 3) === 3 ? forces.target.values[i]! : x
    ),
  },
};
const groups = list(ATOMS, (i) => [2, 0, 1, 0][i % 4]!);

interface Case {
  readonly of: "atoms" | "structures";
  readonly task: PlainTask;
  readonly x: PlainInput;
}

const atoms = (task: PlainTask, x: PlainInput): Case => ({
  of: "atoms",
  task,
  x,
});
const structures = (task: PlainTask, x: PlainInput): Case => ({
  of: "structures",
  task,
  x,
});

/** The shapes in which every element of forces may have a number. */
const SHAPES: Record<string, Factor> = {
  "[rows]": factor("row", [ATOMS]),
  "[rows, 1]": factor("row", [ATOMS, 1]),
  "the input's": factor("entry", [ATOMS, 3]),
  "[1, cols]": factor("column", [1, 3]),
  "[structures]": factor("structure", [STRUCTURES]),
};
const ofRows = (shape: string): boolean =>
  ["[rows]", "[rows, 1]", "[structures]"].includes(shape);

const CASES: Record<string, Case> = {};
for (const [shape, f] of Object.entries(SHAPES)) {
  const x = { ...forces, natoms: NATOMS };
  CASES[`weights of shape ${shape}`] = atoms({ loss: "mse" }, {
    ...x,
    weights: f,
  });
  CASES[`a scale of shape ${shape}`] = atoms(
    { loss: "huber", parameters: { delta: 0.6 } },
    { ...x, scale: f },
  );
  CASES[`a scale of shape ${shape} of rows`] = atoms({ loss: "l2norm" }, {
    ...x,
    scale: f,
  });
  CASES[`the mean over weights of shape ${shape}`] = atoms(
    { loss: "mae", normalize: "weights", ignoreNaN: true },
    { ...x, target: forcesGaps.target, weights: f, mask: mask([ATOMS, 3]) },
  );
  if (!ofRows(shape)) continue;
  CASES[`weights of shape ${shape} of rows`] = atoms(
    { loss: "l2norm", normalize: "weights" },
    { ...x, weights: f, mask: mask([ATOMS]) },
  );
}
Object.assign(CASES, {
  "weights of stresses": structures({ loss: "mse" }, {
    ...stresses,
    weights: factor("row", [STRUCTURES, 1]),
    scale: factor("column", [1, 9]),
  }),
  "weights that are negative": structures(
    { loss: "mse", normalize: "weights" },
    {
      ...energies,
      weights: {
        per: "row",
        values: [1, -0.5, 0, 2, 0.25],
        shape: [STRUCTURES],
      },
    },
  ),
  "missing labels of elements": atoms(
    { loss: "huber", parameters: { delta: 0.1 }, ignoreNaN: true },
    forcesGaps,
  ),
  "missing labels of stresses": structures(
    { loss: "smooth_l1", parameters: { beta: 0 }, ignoreNaN: true },
    stressesGaps,
  ),
  "missing labels of rows": atoms({ loss: "l2norm", ignoreNaN: true }, {
    ...forcesGaps,
    weights: factor("row", [ATOMS]),
  }),
  "missing labels behind a mask": atoms({ loss: "mae", ignoreNaN: true }, {
    ...forcesGaps,
    mask: mask([ATOMS]),
  }),
  "missing labels of no row": atoms(
    { loss: "cross_entropy", ignoreNaN: true },
    {
      ...logits,
      target: { ...logits.target, values: logits.target.values.map(() => NaN) },
    },
  ),
  "energies per atom": structures({ loss: "per_atom_mae" }, {
    ...energies,
    natoms: [3, 1, 1, 5, 2],
    weights: factor("row", [STRUCTURES]),
  }),
  "groups": atoms(
    { loss: "mse", reduction: "per_group", groupWeights: [5, 1, 0.5] },
    { ...forces, groups },
  ),
  "groups, one of them empty": atoms(
    { loss: "l2norm", reduction: "per_group", groupWeights: [5, 1, 0.5, 100] },
    { ...forces, groups, weights: factor("row", [ATOMS]) },
  ),
  "groups of one weight": atoms(
    { loss: "mae", reduction: "per_group", groupWeights: [2] },
    { ...forces, groups: list(ATOMS, () => 0) },
  ),
  "groups with masks and missing labels": atoms(
    {
      loss: "huber",
      reduction: "per_group",
      groupWeights: [0, 1, 3],
      ignoreNaN: true,
      coefficient: 7,
    },
    {
      ...forcesGaps,
      natoms: NATOMS,
      groups,
      mask: mask([ATOMS, 3]),
      scale: SHAPES["[structures]"]!,
      weights: SHAPES["[1, cols]"]!,
    },
  ),
  "all structures": atoms(
    {
      loss: "mse",
      reduction: "per_structure",
      structures: "all",
      coefficient: 1 / 3,
    },
    exact,
  ),
  "structures with a loss": atoms(
    { loss: "mse", reduction: "per_structure", structures: "with_loss" },
    exact,
  ),
  "structures with a loss of rows": atoms(
    { loss: "l2norm", reduction: "per_structure" },
    { ...exact, weights: SHAPES["[structures]"]! },
  ),
  "structures with masks and missing labels": atoms(
    {
      loss: "mae",
      reduction: "per_structure",
      structures: "all",
      ignoreNaN: true,
    },
    {
      ...exact,
      target: forcesGaps.target,
      mask: mask([ATOMS]),
      weights: SHAPES["the input's"]!,
    },
  ),
  "sums": atoms({ loss: "mse", reduction: "sum", coefficient: 3 }, {
    ...forces,
    natoms: NATOMS,
    scale: SHAPES["[structures]"]!,
    weights: SHAPES["[rows]"]!,
  }),
  "columns of a row": structures({ loss: "plain_gaussian_nll" }, {
    ...gaussian,
    weights: factor("row", [STRUCTURES]),
  }),
  "columns of a row without label": structures(
    {
      loss: "plain_gaussian_nll",
      ignoreNaN: true,
      normalize: "weights",
      parameters: { eps: 0.3 },
    },
    {
      ...gaussian,
      target: withGaps(gaussian.target),
      weights: factor("row", [STRUCTURES]),
      scale: factor("column", [1, 2]),
    },
  ),
  "products of a row": atoms({ loss: "plain_cosine" }, {
    ...forces,
    mask: mask([ATOMS]),
  }),
  "products of a row, scaled": atoms(
    {
      loss: "plain_cosine",
      reduction: "per_structure",
      structures: "all",
      ignoreNaN: true,
    },
    { ...forcesGaps, natoms: NATOMS, scale: SHAPES["the input's"]! },
  ),
  "squares of a row": atoms(
    { loss: "plain_row_huber", parameters: { delta: 0.7 } },
    { ...forces, weights: factor("row", [ATOMS]) },
  ),
  "cross entropy": atoms({ loss: "cross_entropy" }, logits),
  "cross entropy of groups": atoms(
    {
      loss: "cross_entropy",
      reduction: "per_group",
      groupWeights: [1, 2, 3],
      ignoreNaN: true,
    },
    {
      ...logits,
      target: withGaps(logits.target),
      groups,
      weights: factor("row", [ATOMS]),
    },
  ),
});

/** Throws, with the case's name, unless value and gradient are those of the formula. */
function assertCase(
  name: string,
  { task, x }: Case,
  value: number,
  grad: readonly number[],
): void {
  const expected = plainTask(task, x);
  try {
    assertClose([value], [expected.value], "float64");
    assertClose(grad, expected.grad, "float64");
  } catch (error) {
    throw new Error(name, { cause: error });
  }
}

testOnDevices(
  "each kind of loss is its formula, in one call of all and as DDPMTLoss",
  async (device) => {
    using stack = new DisposableStack();
    const names = Object.keys(CASES);
    const loss = new MultiTaskLoss(
      Object.fromEntries(names.map((name) => [name, CASES[name]!.task])),
    );
    const inputs = Object.fromEntries(
      names.map((name) => [name, toTensors(device, stack, CASES[name]!.x)]),
    );
    const all = stack.use(loss.valueAndGrad(inputs));
    const { values, total, samples } = await all.read();
    assertClose(
      [total],
      [Object.values(values).reduce((a, b) => a + b, 0)],
      "float64",
    );
    const forward = await stack.use(loss.forward(inputs)).read();
    assertEquals(forward, { values, total, samples });
    for (const name of names) {
      const one = CASES[name]!;
      const grad = await all.grads[name]!.toList();
      assertCase(name, one, values[name]!, grad);
      const expected = [plainTask(one.task, one.x).samples].flat();
      assertClose([samples[name]!].flat(), expected, "float64");

      const { reduction, coefficient, ...options } = one.task;
      const { input, target, mask, natoms, ...rest } = inputs[name]!;
      const single = stack.use(
        new DDPMTLoss(options.loss, reduction, coefficient, options)
          .valueAndGrad(input, target, mask, natoms, rest),
      );
      assertEquals(await single.grad.toList(), grad, name);
      assertEquals(await single.value.item(), values[name]!, name);
    }
  },
);

testOnDevices(
  "each kind of loss is its formula, over micro-batches",
  async (device) => {
    using stack = new DisposableStack();
    const borders = [[0, 2], [2, 2], [2, STRUCTURES]] as const;
    for (const [name, { of, task, x }] of Object.entries(CASES)) {
      const parts = borders.map(([begin, end]) =>
        partOf(x, of, NATOMS, begin, end)
      );
      const samples = parts.map((part) => plainTask(task, part).samples)
        .reduce(addSamples);
      const loss = new MultiTaskLoss({ x: task });
      using normalizer = loss.normalizer({ x: samples });
      let value = 0;
      const grad: number[] = [];
      for (const part of parts) {
        const result = stack.use(
          loss.valueAndGrad(
            { x: toTensors(device, stack, part) },
            { normalizer },
          ),
        );
        value += await result.total.item();
        grad.push(...await result.grads.x!.toList());
      }
      assertCase(name, { of, task, x }, value, grad);
    }
  },
);

testOnDevices(
  "parameters and coefficients of a call are in place of the task's, for that call",
  async (device) => {
    using stack = new DisposableStack();
    const x = toTensors(device, stack, forces);
    const task = {
      loss: "huber",
      parameters: { delta: 0.3 },
      coefficient: 2,
    } as const;
    const now = { ...task, parameters: { delta: 0.05 }, coefficient: 50 };
    const expected = [task, now, task].map((t) => plainTask(t, forces));
    const { coefficient, parameters } = now;
    const calls = [undefined, { coefficient, parameters }, undefined];

    const multi = new MultiTaskLoss({ x: task, y: { loss: "mse" } });
    const single = new DDPMTLoss(task.loss, "mean", task.coefficient, {
      parameters: task.parameters,
    });
    const plain = new DDPLoss(task.loss, "mean", {
      parameters: task.parameters,
    });
    for (const [i, call] of calls.entries()) {
      const { value, grad } = expected[i]!;
      const all = stack.use(multi.valueAndGrad(
        { x, y: x },
        call &&
          { coefficients: { x: coefficient }, parameters: { x: parameters } },
      ));
      const one = stack.use(
        single.valueAndGrad(x.input, x.target, null, null, call),
      );
      const { values } = await all.read();
      assertClose([values.x], [value], "float64");
      assertClose(
        [values.y],
        [plainTask({ loss: "mse" }, forces).value],
        "float64",
      );
      assertClose(await all.grads.x!.toList(), grad, "float64");
      assertEquals(await one.grad.toList(), await all.grads.x!.toList());

      const ddp = stack.use(
        plain.valueAndGrad(
          x.input,
          x.target,
          null,
          call && { parameters },
        ),
      );
      const share = i === 1 ? coefficient : task.coefficient;
      assertClose(
        (await ddp.grad.toList()).map((g) => share * g),
        grad,
        "float64",
      );
      assertClose([await ddp.value.item() * share], [value], "float64");
    }
  },
);

testOnDevices(
  "checkGradient() covers columns, products and cross entropy",
  async (device) => {
    for (const loss of [...Object.keys(DEFINITIONS), "cross_entropy"]) {
      await checkGradient(loss, device);
    }
  },
);

/** Who was told of how many. */
interface Told {
  readonly tasks: Record<string, number>;
  readonly total: number;
  readonly grad: readonly number[];
  readonly samples: number | readonly number[];
}

/** One task named x, and what its listener heard. */
async function tell(
  device: Device,
  task: TaskOptions,
  x: PlainInput,
): Promise<Told> {
  const tasks: Record<string, number> = {};
  const loss = new MultiTaskLoss({ x: task }, {
    onNonFinite: (count, name) => tasks[String(name)] = count,
  });
  using stack = new DisposableStack();
  const result = stack.use(
    loss.valueAndGrad({ x: toTensors(device, stack, x) }),
  );
  const { total, samples } = await result.read();
  const grad = await result.grads.x!.toList();
  return { tasks, total, grad, samples: samples.x };
}

const vec = (...values: number[]): Values => {
  return { values, shape: [values.length] };
};
const perRow = (...values: number[]): Factor => {
  return { ...vec(...values), per: "row" };
};
const three: PlainInput = { input: vec(1, 2, 4), target: vec(0, 0, 0) };
const MISSING = { ...three, target: vec(0, NaN, 0) };

/** What is warned while something runs. */
async function warnings(body: () => Promise<unknown>): Promise<string[]> {
  const said: string[] = [];
  const { warn } = console;
  console.warn = (text: string) => said.push(text);
  try {
    await body();
  } finally {
    console.warn = warn;
  }
  return said;
}

testOnDevices(
  "missing labels are told with their number and task, and that ignoreNaN exists",
  async (device) => {
    using stack = new DisposableStack();
    const { input, target } = toTensors(device, stack, MISSING);
    const multi = new MultiTaskLoss({ energy: { loss: "mse" } });
    const ddpmt = new DDPMTLoss("mse");
    const ddp = new DDPLoss("mse");
    const calls: [string, () => Promise<unknown>][] = [
      [
        "task energy",
        () =>
          stack.use(multi.forward({ energy: { input, target } })).values.energy
            .item(),
      ],
      [
        'DDPMTLoss("mse")',
        () => stack.use(ddpmt.forward(input, target)).item(),
      ],
      ['DDPLoss("mse")', () => stack.use(ddp.forward(input, target)).item()],
    ];
    for (const [who, call] of calls) {
      const [said, ...more] = await warnings(call);
      assertEquals(more, [], who);
      for (const part of [who, "1 entries of the target", "ignoreNaN"]) {
        assertStringIncludes(said ?? "", part);
      }
    }
    const silent = new DDPMTLoss("mse", "mean", 1, { ignoreNaN: true });
    assertEquals(
      await warnings(() => stack.use(silent.forward(input, target)).item()),
      [],
    );
  },
);

testOnDevices("a missing label counts as 0 or not at all", async (device) => {
  const told = await tell(device, { loss: "mse" }, MISSING);
  assertEquals(told.tasks, { x: 1, undefined: 1 });
  assertEquals([told.total, told.samples], [7, 3]);
  const ignored = await tell(device, { loss: "mse", ignoreNaN: true }, MISSING);
  assertEquals(ignored.tasks, {});
  assertEquals(
    [ignored.total, ignored.samples, ignored.grad],
    [8.5, 2, [1, 0, 4]],
  );
  // An infinity is no missing label: it counts as 0, and is told.
  const infinite = await tell(device, { loss: "mse", ignoreNaN: true }, {
    ...three,
    target: vec(0, Infinity, 0),
  });
  assertEquals(infinite.tasks, { x: 1, undefined: 1 });
  assertEquals([infinite.total, infinite.samples], [7, 3]);
});

testOnDevices(
  "no label anywhere and no error can be told apart by the samples",
  async (device) => {
    const none = { ...three, target: vec(NaN, NaN, NaN) };
    const right = { ...three, target: three.input };
    const task = { loss: "mse", ignoreNaN: true } as const;
    const byGroup = {
      ...task,
      reduction: "per_group",
      groupWeights: [1, 1],
    } as const;
    const inGroups = { groups: [0, 0, 0] };
    const weights = perRow(0.5, 0.25, 2);
    const overWeights = { ...task, normalize: "weights" } as const;
    for (
      const [given, x, samples] of [
        [task, none, 0],
        [task, right, 3],
        [byGroup, { ...none, ...inGroups }, [0, 0]],
        [byGroup, { ...right, ...inGroups }, [3, 0]],
        [overWeights, { ...none, weights }, 0],
        [overWeights, { ...right, weights }, 2.75],
      ] as const
    ) {
      const told = await tell(device, given, x);
      assertEquals(told.samples, samples);
      assertEquals([told.total, ...told.grad], [0, 0, 0, 0]);
    }
  },
);

testOnDevices(
  "weights and scales that are not finite count as 0 and are told, where an entry counts",
  async (device) => {
    for (const bad of [NaN, Infinity, -Infinity]) {
      const weights = perRow(1, bad, 1);
      const mse = { loss: "mse" } as const;
      const over = { loss: "mse", normalize: "weights" } as const;
      for (
        const [task, x, total] of [
          [mse, { ...three, weights }, 17 / 3],
          [over, { ...three, weights }, 17 / 2],
          [mse, { ...three, scale: weights }, 17 / 3],
        ] as const
      ) {
        const told = await tell(device, task, x);
        assertEquals(told.tasks, { x: 1, undefined: 1 });
        assertClose([told.total], [total], "float64");
        assertEquals(told.grad[1], 0);
      }
      const masked = await tell(device, mse, {
        ...three,
        weights,
        scale: weights,
        mask: vec(1, 0, 1),
      });
      assertEquals([masked.tasks, masked.total], [{}, 8.5]);
    }
  },
);

testOnDevices(
  "sums of weights divide, whatever their size; of 0 come 0 and no gradient",
  async (device) => {
    const task = { loss: "mse", normalize: "weights" } as const;
    const small = await tell(device, task, {
      ...three,
      weights: perRow(0.125, 0, 0.125),
    });
    assertEquals([small.total, small.samples], [8.5, 0.25]);
    assertEquals(small.grad, [1, 0, 4]);
    for (const weights of [perRow(0, 0, 0), perRow(1, -2, 1)]) {
      const none = await tell(device, task, { ...three, weights });
      assertEquals([none.total, none.samples, ...none.grad], [0, 0, 0, 0, 0]);
    }
    // Without weights every entry has one of 1.
    assertEquals((await tell(device, task, three)).total, 7);
  },
);

testOnDevices(
  "natoms below 1 that a loss reads are told, without NaN",
  async (device) => {
    using stack = new DisposableStack();
    for (const bad of [0, -1]) {
      const x = { input: vec(1, 2), target: vec(0, 0), natoms: [2, bad] };
      const { input, target, natoms } = toTensors(device, stack, x);
      const multi = stack.use(
        new MultiTaskLoss({ energy: { loss: "per_atom_mae" } })
          .valueAndGrad({ energy: { input, target, natoms: natoms! } }),
      );
      const told = await assertRejects(() => multi.read(), ArgumentError);
      assertStringIncludes(told.message, "task energy");
      assertStringIncludes(told.message, "natoms");
      for (
        const loss of [
          new DDPMTLoss("per_atom_mae"),
          new DDPLoss("per_atom_mae"),
        ]
      ) {
        const single = stack.use(
          loss instanceof DDPLoss
            ? loss.valueAndGrad(input, target, natoms!)
            : loss.valueAndGrad(input, target, null, natoms!),
        );
        await assertRejects(() => single.value.item(), ArgumentError, "natoms");
        const grad = await single.grad.toList();
        assert(grad.every(Number.isFinite), `gradient is ${grad}`);
        assertEquals(grad[1], 0);
      }
    }
  },
);

testOnDevices(
  "natoms that do not spread, and groups without a weight, are told when the value is read",
  async (device) => {
    const rejects = (
      task: TaskOptions,
      x: PlainInput,
      word: string,
    ): Promise<Error> =>
      assertRejects(() => tell(device, task, x), ArgumentError, word);
    const two: Factor = { ...vec(1, 2), per: "structure" };
    for (const natoms of [[1, 1], [2, 2], [4, -1]]) {
      const x = { ...three, natoms };
      await rejects({ loss: "mse" }, { ...x, weights: two }, "natoms");
      await rejects({ loss: "mse" }, { ...x, scale: two }, "natoms");
    }
    for (const bad of [2, -1]) {
      await rejects(
        { loss: "mse", reduction: "per_group", groupWeights: [1, 1] },
        { ...three, groups: [0, 1, bad] },
        "groupWeights",
      );
    }
    // int64 groups are as good.
    using stack = new DisposableStack();
    const { input, target } = toTensors(device, stack, three);
    const groups = stack.use(device.tensor(new BigInt64Array([0n, 1n, 1n])));
    const value = stack.use(
      new DDPMTLoss("mse", "per_group", 1, { groupWeights: [3, 1] })
        .forward(input, target, null, null, { groups }),
    );
    assertEquals(await value.item(), (3 * 1 + 10) / 4);
  },
);

Deno.test("options that do not belong together are refused", () => {
  const refused = (options: Partial<TaskOptions>, word: string): void => {
    const task = { loss: "mse", ...options };
    const { reduction, coefficient, ...variant } = task;
    for (
      const make of [
        () => new MultiTaskLoss({ x: task }),
        () => new DDPMTLoss(task.loss, reduction, coefficient, variant),
      ]
    ) {
      assertStringIncludes(assertThrows(make, ArgumentError).message, word);
    }
  };
  refused({ reduction: "sum", normalize: "weights" }, "normalize");
  refused({ reduction: "per_structure", normalize: "weights" }, "normalize");
  refused({ normalize: "weight" as "weights" }, "'weight'");
  refused({ structures: "all" }, "structures");
  refused({ reduction: "per_structure", structures: "some" as "all" }, "some");
  refused({ groupWeights: [1] }, "groupWeights");
  refused({ reduction: "per_group" }, "groupWeights");
  refused({ reduction: "per_group", groupWeights: [] }, "groupWeights");
  for (const bad of [-1, NaN, Infinity]) {
    const groupWeights = [1, bad];
    refused(
      { reduction: "per_group", groupWeights },
      `groupWeights[1] is ${bad}`,
    );
  }
  refused({ coefficient: NaN }, "coefficient is NaN");
});

Deno.test("parameters out of their domain are refused by name, value and domain", () => {
  const refused = (
    loss: string,
    parameters: Record<string, number>,
    ...words: string[]
  ): void => {
    for (
      const make of [
        () => new MultiTaskLoss({ x: { loss, parameters } }),
        () => new DDPMTLoss(loss, "mean", 1, { parameters }),
        () => new DDPLoss(loss, "mean", { parameters }),
      ]
    ) {
      const { message } = assertThrows(make, ArgumentError);
      for (const word of words) assertStringIncludes(message, word);
    }
  };
  for (const delta of [0, -1, NaN, Infinity]) {
    refused("huber", { delta }, "delta", `is ${delta}`, "> 0");
  }
  refused("smooth_l1", { beta: -1 }, "beta", "is -1", ">= 0");
  refused("plain_row_huber", { delta: 11 }, "delta", "is 11", "> 0", "<= 10");
  refused("huber", { beta: 1 }, "'beta'", "delta");
  refused("mse", { delta: 1 }, "'delta'", "none");
});

Deno.test("a definition out of its own domain is refused", async () => {
  const definition = { value: "c * d * d", grad: "T(2) * c * d" };
  await assertRejects(
    () =>
      defineLoss("plain_bad_default", {
        ...definition,
        parameters: { c: 0 },
        domains: { c: "> 0" },
      }),
    ArgumentError,
    "> 0",
  );
  await assertRejects(
    () =>
      defineLoss("plain_bad_bound", {
        ...definition,
        parameters: { c: 1 },
        domains: { c: "positive" as "> 0" },
      }),
    ArgumentError,
    "positive",
  );
  await assertRejects(
    () =>
      defineLoss("plain_bad_name", {
        ...definition,
        parameters: { c: 1 },
        domains: { e: "> 0" },
      }),
    ArgumentError,
    "'e'",
  );
  await assertRejects(
    () =>
      defineLoss("plain_bad_columns", {
        kind: "columns",
        columns: 3,
        value: "p[0]",
        grad: ["T(1)"],
      }),
    ArgumentError,
    "expected 3",
  );
  await assertRejects(
    () =>
      defineLoss("plain_far_column", {
        kind: "columns",
        columns: 2,
        value: "p[2]",
        grad: ["T(0)", "T(0)"],
      }),
    ArgumentError,
    "column from 0 to 1",
  );
});

testOnDevices("calls refuse what does not fit", (device) => {
  using stack = new DisposableStack();
  const { input, target } = toTensors(device, stack, forces);
  const x = { input, target };
  const natoms = stack.use(device.tensor(Int32Array.from(NATOMS)));
  const floats = (...shape: number[]): Tensor => {
    const size = shape.reduce((a, b) => a * b, 1);
    return stack.use(device.tensor(new Float64Array(size).fill(1), shape));
  };
  const mse = new MultiTaskLoss({ x: { loss: "mse" } });
  for (const name of ["weights", "scale"] as const) {
    for (const shape of [[4], [3], [STRUCTURES, 3], [ATOMS, 3, 1], []]) {
      const wrong = { ...x, natoms, [name]: floats(...shape) };
      const error = assertThrows(() => mse.forward({ x: wrong }), ShapeError);
      assertStringIncludes(error.message, `${name} of x`);
    }
    const without = { ...x, [name]: floats(STRUCTURES) };
    assertThrows(() => mse.forward({ x: without }), ShapeError, "natoms");
    const integers = stack.use(device.tensor(new Int32Array(ATOMS)));
    assertThrows(
      () => mse.forward({ x: { ...x, [name]: integers } }),
      DTypeError,
      "expected float64",
    );
    const single = stack.use(device.tensor(new Float32Array(ATOMS)));
    assertThrows(
      () => mse.forward({ x: { ...x, [name]: single } }),
      DTypeError,
      "float32",
    );
  }
  const rows = new MultiTaskLoss({ x: { loss: "l2norm" } });
  for (const shape of [[1, 3], [ATOMS, 3]]) {
    const weights = floats(...shape);
    assertThrows(() => rows.forward({ x: { ...x, weights } }), ShapeError);
  }
  const columns = new MultiTaskLoss({ x: { loss: "plain_gaussian_nll" } });
  assertThrows(() => columns.forward({ x }), ShapeError);

  const byGroup = new MultiTaskLoss({
    x: { loss: "mse", reduction: "per_group", groupWeights: [1, 1] },
  });
  const groupsOf = (groups: unknown): () => unknown => () =>
    byGroup.forward({ x: { ...x, groups: groups as null } });
  assertThrows(groupsOf(null), ArgumentError, "groups");
  assertThrows(groupsOf(floats(ATOMS)), DTypeError, "int32 or int64");
  assertThrows(groupsOf(natoms), ShapeError, "one number per row");

  const huber = new MultiTaskLoss({ x: { loss: "huber" } });
  const call = (options: object): () => unknown => () =>
    huber.forward({ x }, options);
  assertThrows(call({ coefficients: { x: NaN } }), ArgumentError, "NaN");
  assertThrows(call({ coefficients: { y: 1 } }), ArgumentError, "'y'");
  assertThrows(call({ parameters: { y: {} } }), ArgumentError, "'y'");
  const delta = assertThrows(call({ parameters: { x: { delta: 0 } } }));
  assertInstanceOf(delta, ArgumentError);
  assertStringIncludes(delta.message, "parameter delta of huber of x is 0");
});

Deno.test("a normalizer takes counts, lists of them for groups, any number for weights", () => {
  const loss = new MultiTaskLoss({
    w: { loss: "mse", normalize: "weights" },
    n: { loss: "mse" },
    g: { loss: "mse", reduction: "per_group", groupWeights: [1, 1] },
  });
  using _normalizer = loss.normalizer({ w: 0.3, n: 3, g: [2, 0] });
  using _negative = loss.normalizer({ w: -0.3 });
  for (
    const wrong of [
      { w: NaN },
      { w: Infinity },
      { n: 0.5 },
      { n: -1 },
      { n: [3] },
      { g: [1] },
      { g: [1, 0.5] },
      { g: 3 },
    ]
  ) {
    const error = assertThrows(
      () => loss.normalizer(wrong as { n: number }),
      ArgumentError,
    );
    assertStringIncludes(error.message, `of ${Object.keys(wrong)[0]}`);
  }
});
