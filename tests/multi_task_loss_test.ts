import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  ArgumentError,
  DDPLoss,
  DDPMTLoss,
  Device,
  DeviceError,
  DisposedError,
  DTypeError,
  type Loss,
  MSELoss,
  MultiTaskLoss,
  ShapeError,
  UnknownLossError,
  UnknownReductionError,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import {
  dataOf,
  optionsOf,
  plainLoss,
  type RandomTask,
  toInput,
} from "./random_tasks.ts";
import { assertClose } from "./step_of.ts";

testOnDevices(
  "MultiTaskLoss computes tasks of many blocks, masked and not",
  async (device) => {
    const natoms = Array.from({ length: 250 }, (_, i) => 1 + i % 61);
    const base = { coefficient: 10, dtype: "float32", gaps: true } as const;
    const tasks: RandomTask[] = [];
    for (const mask of ["none", "entries", "rows"] as const) {
      const seed = tasks.length;
      tasks.push(
        { ...base, mask, seed, loss: "mae", reduction: "mean", of: "atoms" },
        {
          ...base,
          mask,
          seed,
          loss: "l2norm",
          reduction: "per_structure",
          of: "atoms",
        },
        {
          ...base,
          mask,
          seed,
          loss: "per_atom_mae",
          reduction: "sum",
          of: "structures",
        },
        {
          ...base,
          mask,
          seed,
          dtype: "float64",
          loss: "mse",
          reduction: "per_structure",
          of: "atoms",
        },
      );
    }
    using stack = new DisposableStack();
    const data = tasks.map((task) =>
      dataOf({ natoms, tasks }, task, 0, natoms.length)
    );
    const loss = new MultiTaskLoss(
      Object.fromEntries(tasks.map((task, i) => [`t${i}`, optionsOf(task)])),
    );
    const inputs = Object.fromEntries(
      tasks.map((task, i) => [
        `t${i}`,
        toInput(device, stack, task, data[i]!),
      ]),
    );
    const first = stack.use(loss.valueAndGrad(inputs));
    // Written again into the same tensors.
    const result = loss.valueAndGrad(inputs, { out: first });
    assert(result.total === first.total);
    for (const [i, task] of tasks.entries()) {
      const { sum, samples, grad } = plainLoss(task, data[i]!);
      const factor = 10 / (task.reduction === "sum" ? 1 : samples);
      const name = `t${i}`;
      assertClose(
        [await result.values[name]!.item()],
        [factor * sum],
        "float32",
      );
      assertClose(
        await result.grads[name]!.toList(),
        Array.from(grad, (g) => factor * g),
        task.dtype,
      );
      using forward = loss.forward(inputs);
      assertEquals(
        await forward.values[name]!.item(),
        await result.values[name]!.item(),
      );
    }
  },
);

testOnDevices(
  "MultiTaskLoss leaves out an absent task and rejects an unknown one",
  async (device) => {
    const loss = new MultiTaskLoss({
      energy: { loss: "mae" },
      forces: { loss: "l2norm" },
    });
    using input = device.tensor(new Float32Array([1, 2]));
    using target = device.zeros([2]);
    using result = loss.valueAndGrad({ energy: { input, target } });
    assertEquals(await result.total.item(), 1.5);
    assertEquals(await result.values.forces.item(), 0);
    assertEquals(Object.keys(result.grads), ["energy"]);
    assertThrows(() => loss.valueAndGrad({}), ArgumentError, "every task");
    assertThrows(
      // deno-lint-ignore no-explicit-any
      () => loss.valueAndGrad({ energie: { input, target } } as any),
      ArgumentError,
      "task 'energie' is unknown: expected one of energy, forces",
    );
    assertThrows(
      // deno-lint-ignore no-explicit-any
      () => loss.normalizer({ energie: 3 } as any),
      ArgumentError,
      "energie",
    );
  },
);

testOnDevices(
  "a mask hides what is not finite, and the rest is named when a value is read",
  async (device) => {
    const told: [number, string | undefined][] = [];
    const loss = new MultiTaskLoss(
      { energy: { loss: "mae" }, forces: { loss: "l2norm" } },
      { onNonFinite: (count, task) => void told.push([count, task]) },
    );
    using energy = device.tensor(new Float32Array([NaN, 2, Infinity, 4]));
    using energyTarget = device.tensor(new Float32Array([1, 1, 1, NaN]));
    using mask = device.tensor(new Uint8Array([0, 1, 0, 1]), [4], "bool");
    using forces = device.tensor(
      new Float32Array([NaN, 0, 0, 3, 4, 0]),
      [2, 3],
    );
    using forcesTarget = device.zeros([2, 3]);
    using result = loss.valueAndGrad({
      energy: { input: energy, target: energyTarget, mask },
      forces: { input: forces, target: forcesTarget },
    });
    assertEquals(await result.values.energy.item(), 2.5);
    assertEquals(await result.grads.energy!.toList(), [0, 0.5, 0, 0.5]);
    assertEquals(told.splice(0), [[1, "energy"]]); // its last target
    assertEquals(await result.values.forces.item(), 2.5);
    assertClose(
      await result.grads.forces!.toList(),
      [0, 0, 0, 0.3, 0.4, 0],
      "float32",
    );
    await result.total.item();
    assertEquals(told, [[1, "forces"], [2, undefined]]);
  },
);

testOnDevices(
  "a task without samples has the value 0 and no gradient",
  async (device) => {
    using input = device.tensor(new Float32Array([1, 2]));
    using target = device.tensor(new Float32Array([NaN, NaN]));
    using mask = device.tensor(new Uint8Array(2), [2], "bool");
    using natoms = device.tensor(new Int32Array([1, 1]));
    for (const loss of ["mae", "per_atom_mae"]) {
      using result = new DDPMTLoss(loss).valueAndGrad(
        input,
        target,
        mask,
        natoms,
      );
      assertEquals(await result.value.item(), 0);
      assertEquals(await result.grad.toList(), [0, 0]);
    }
  },
);

testOnDevices(
  "natoms that do not add up to the rows are told when the value is read",
  async (device) => {
    const told: number[] = [];
    const onNonFinite = (count: number) => void told.push(count);
    for (const Floats of [Float32Array, Float64Array]) {
      using input = device.tensor(new Floats([1, NaN, 3, 4]));
      using target = device.zeros([4], input.dtype);
      const loss = new DDPMTLoss("mae", "per_structure", 1, { onNonFinite });
      const many = new MultiTaskLoss({
        energy: { loss: "mae" },
        forces: { loss: "mae", reduction: "per_structure" },
      }, { onNonFinite });
      const wrong = [[2], [5], [9, 5], [-3, 7], [4, -1], [2 ** 31 - 1, 5], []];
      for (const counts of wrong) {
        using natoms = device.tensor(Int32Array.from(counts));
        using result = loss.valueAndGrad(input, target, null, natoms);
        await assertRejects(
          () => result.value.item(),
          ArgumentError,
          'natoms of DDPMTLoss("mae") does not describe its input',
        );
        assertEquals(await result.grad.toList(), [0, 0, 0, 0]);

        using both = many.valueAndGrad({
          energy: { input: target, target: input },
          forces: { input, target, natoms },
        });
        assertEquals(told, []);
        await assertRejects(
          () => both.read(),
          ArgumentError,
          "natoms of MultiTaskLoss, task forces, does not",
        );
        await assertRejects(() => both.total.item(), ArgumentError, "natoms");
        await assertRejects(() => both.values.forces.item(), ArgumentError);
        assertEquals(told.splice(0), [1]); // a target of energy
        assertEquals(await both.values.energy.item(), 2);
        assertEquals(told.splice(0), [1]);
        assertEquals(await both.grads.forces!.toList(), [0, 0, 0, 0]);
      }
      // What is right after it is told nothing of it.
      using natoms = device.tensor(Int32Array.from([2, 0, 2]));
      using result = loss.valueAndGrad(input, target, null, natoms);
      assertEquals(await result.value.item(), (0.5 + 3.5) / 2);
      assertEquals(told.splice(0), [1]);
    }
  },
);

testOnDevices(
  "MultiTaskLoss writes to what a former call returned, and reads it at once",
  async (device) => {
    const told: [number, string | undefined][] = [];
    const loss = new MultiTaskLoss(
      { energy: { loss: "mse" }, forces: { loss: "l2norm", coefficient: 2 } },
      { onNonFinite: (count, task) => void told.push([count, task]) },
    );
    const before = device.memory.tensors;
    using input = device.tensor(new Float32Array([3]));
    using target = device.zeros([1]);
    using pred = device.tensor(new Float32Array([3, NaN, 4]), [1, 3]);
    using zero = device.zeros([1, 3]);
    const inputs = {
      energy: { input, target },
      forces: { input: pred, target: zero },
    };
    {
      using out = loss.valueAndGrad(inputs);
      assert(loss.valueAndGrad(inputs, { out }) === out);
      assertEquals(await out.read(), {
        total: 19,
        values: { energy: 9, forces: 10 },
        samples: { energy: 1, forces: 1 },
      });
      assertEquals(told, [[1, "forces"], [1, undefined]]);
      // Without forces the result has no gradient of them; then it is the same.
      const { forces } = out.grads;
      assert(loss.valueAndGrad({ energy: inputs.energy }, { out }) === out);
      assertEquals(Object.keys(out.grads), ["energy"]);
      assertEquals((await out.read()).total, 9);
      assert(loss.valueAndGrad(inputs, { out }).grads.forces === forces);
      using values = loss.forward(inputs);
      assertEquals((await values.read()).total, 19);
      // Values alone are written to it too.
      loss.valueAndGrad({ energy: inputs.energy }, { out });
      assert(loss.forward(inputs, { out }) === out);
      assertEquals((await out.read()).total, 19);
      assertThrows(
        () => loss.valueAndGrad(inputs, { out: {} as typeof out }),
        ArgumentError,
        "out must be what a former call",
      );
      const another = new MultiTaskLoss({ energy: { loss: "mse" } });
      assertThrows(
        () => another.forward({ energy: inputs.energy }, { out: values }),
        ArgumentError,
        "out must be what a former call",
      );
    }
    assertEquals(device.memory.tensors - before, 4);
  },
);

testOnDevices("a Normalizer serves the loss that made it", async (device) => {
  using input = device.tensor(new Float32Array([1, 2]));
  using target = device.zeros([2]);
  const mean = new DDPLoss("mae");
  const normalizer = mean.normalizer(8);
  assertEquals(await normalizer.totals(), [8]);
  using result = mean.valueAndGrad(input, target, null, { normalizer });
  assertEquals(await result.value.item(), 3 / 8);
  assertThrows(
    () => new DDPLoss("mae").forward(input, target, null, { normalizer }),
    ArgumentError,
    "another loss",
  );
  normalizer.dispose();
  normalizer.dispose();
  assertThrows(
    () => mean.forward(input, target, null, { normalizer }),
    DisposedError,
  );
  for (const samples of [-1, 0.5, NaN]) {
    assertThrows(() => mean.normalizer(samples), ArgumentError, "samples");
  }
  // Nothing is divided by 0 where tasks may have no samples.
  const masked = new DDPMTLoss("mae");
  using none = masked.normalizer(0);
  assertEquals(await none.totals(), [0]);
});

testOnDevices(
  "a Normalizer made for fewer samples than one batch has is told",
  async (device) => {
    const FORCES = [4, 3];
    using input = device.zeros(FORCES);
    using target = device.zeros(FORCES);
    using natoms = device.tensor(new Int32Array([3, 1]));
    using mask = device.zeros(FORCES, "bool");

    const mean = new DDPLoss("l2norm");
    using three = mean.normalizer(3);
    assertThrows(
      () => mean.valueAndGrad(input, target, null, { normalizer: three }),
      ArgumentError,
      "made for 3 samples, this batch alone has 4",
    );
    const sum = new DDPLoss("l2norm", "sum"); // is divided by nothing
    using unused = sum.normalizer(0);
    sum.forward(input, target, null, { normalizer: unused }).dispose();

    const many = new MultiTaskLoss({
      forces: { loss: "mae" },
      heads: { loss: "l2norm", reduction: "per_structure" },
    });
    const forces = { input, target };
    const heads = { input, target, natoms };
    using counts = many.normalizer({ forces: 12, heads: 2 });
    const before = device.memory.tensors;
    {
      using _result = many.forward({ forces, heads }, { normalizer: counts });
    }
    using forgotten = many.normalizer({ forces: 12 });
    assertThrows(
      () => many.valueAndGrad({ forces, heads }, { normalizer: forgotten }),
      ArgumentError,
      "made for 0 samples of heads, this batch alone has 1",
    );
    using few = many.normalizer({ forces: 4, heads: 2 });
    assertThrows(
      () => many.valueAndGrad({ forces, heads }, { normalizer: few }),
      ArgumentError,
      "made for 4 samples of forces, this batch alone has 12",
    );
    assertEquals(device.memory.tensors, before);

    // How many a mask leaves, and which structures count, the device knows.
    using none = many.normalizer({});
    const masked = { forces: { ...forces, mask } };
    using _masked = many.forward(masked, { normalizer: none });
    using one = many.normalizer({ heads: 1 });
    using _heads = many.forward({ heads }, { normalizer: one });
    assertEquals(await one.totals(), [0, 1]);
  },
);

testOnDevices("a call that fails takes no memory", async (device) => {
  using input = device.zeros([4]);
  using natoms = device.zeros([3], "int64");
  using mask = device.zeros([3], "bool");
  const before = device.memory.tensors;
  const perAtom = new DDPLoss("per_atom_mae");
  assertThrows(() => perAtom.valueAndGrad(input, input, natoms), ShapeError);
  const masked = new DDPMTLoss("mae");
  assertThrows(() => masked.valueAndGrad(input, input, mask), ShapeError);
  const many = new MultiTaskLoss({ a: { loss: "mse" }, b: { loss: "mae" } });
  const [a, b] = [{ input, target: input }, { input, target: input, mask }];
  assertThrows(() => many.valueAndGrad({ a, b }), ShapeError);
  assertEquals(device.memory.tensors, before);
  await device.synchronize();
});

testOnDevices("DDPMTLoss rejects what it cannot compute", async (device) => {
  using input = device.zeros([4, 3]);
  using target = device.zeros([4, 3]);
  using natoms = device.tensor(new Int32Array([4]));
  const forward = (
    mask: typeof input | null,
    reduction: "mean" | "per_structure" = "mean",
    atoms: typeof input | null = natoms,
  ) =>
  () => new DDPMTLoss("mae", reduction).forward(input, target, mask, atoms);
  using float = device.zeros([4]);
  assertThrows(forward(float), DTypeError, "expected bool");
  for (const shape of [[3], [4, 1], [12], [3, 4]]) {
    using mask = device.zeros(shape, "bool");
    assertThrows(
      forward(mask),
      ShapeError,
      "expected [4, 3] or, one entry per",
    );
  }
  using entries = device.zeros([4, 3], "bool");
  assertThrows(
    () => new DDPMTLoss("l2norm").forward(input, target, entries),
    ShapeError,
    "expected [4]",
  );
  assertThrows(forward(null, "per_structure", null), ShapeError, "natoms");
  assertThrows(forward(null, "per_structure", float), DTypeError, "natoms");
  using energy = device.zeros([4]);
  assertThrows(
    () =>
      new DDPMTLoss("per_atom_mae", "per_structure")
        .forward(energy, energy, null, natoms),
  );
  using other = await Device.open(device.name);
  using elsewhere = other.zeros([4, 3], "bool");
  assertThrows(forward(elsewhere), DeviceError);

  assertThrows(() => new DDPMTLoss("maee"), UnknownLossError);
  assertThrows(
    // deno-lint-ignore no-explicit-any
    () => new DDPMTLoss("mae", "median" as any),
    UnknownReductionError,
    "mean, sum, per_structure",
  );
  assertThrows(() => new DDPMTLoss("mae", "mean", NaN), ArgumentError);
  const mse = new MSELoss();
  const own: Loss = {
    name: "own",
    outputShape: (shape) => shape,
    forward: (p, t) => mse.forward(p, t),
    backward: (p, t) => mse.backward(p, t),
  };
  assertThrows(() => new DDPMTLoss(own), ArgumentError, "defineLoss");
});
