import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import {
  ArgumentError,
  Device,
  DeviceError,
  DisposedError,
  DTypeError,
  Metrics,
  type MetricsBatch,
  type MetricsReport,
  ProcessGroup,
  ShapeError,
  type Tensor,
} from "../mod.ts";
import { hasCuda, testOnDevices } from "./devices.ts";
import {
  addBatch,
  assertReport,
  type BatchOptions,
  evaluate,
  type Labelled,
  randomStructures,
} from "./evaluate.ts";
import { launchReplicas } from "./launch_replicas.ts";
import { seeded } from "./random.ts";

const DTYPES = ["float32", "float64", "float16", "bfloat16"] as const;

testOnDevices(
  "Metrics are those of a plain loop, in every dtype",
  async (device) => {
    using metrics = new Metrics(device);
    const structures = randomStructures(300, 40, 1);
    for (const forcesDType of DTYPES) {
      for (const energyDType of DTYPES) {
        for (const mask of [false, true]) {
          const options: BatchOptions = {
            mask,
            forcesDType,
            energyDType,
            natomsDType: mask ? "int64" : "int32",
            column: mask,
          };
          metrics.reset();
          addBatch(metrics, structures, options);
          const report = await metrics.result();
          const expected = evaluate(structures, options);
          assertReport(report, expected, JSON.stringify(options));
          // The test's own numbers are neither none nor all.
          if (energyDType !== "float64" || forcesDType !== "float64") continue;
          const { energyForcesWithinThreshold, forcesWithinThreshold } =
            expected;
          assert(energyForcesWithinThreshold > 0.1);
          assert(energyForcesWithinThreshold < forcesWithinThreshold);
          assert(forcesWithinThreshold < 0.95);
        }
      }
    }
  },
);

testOnDevices("Metrics accumulate over batches of any kind", async (device) => {
  using metrics = new Metrics(device);
  const parts: MetricsReport[] = [];
  const both = randomStructures(20, 9, 2);
  const energies = randomStructures(30, 9, 3);
  const forces = randomStructures(5, 2000, 4); // several blocks per structure
  addBatch(metrics, both);
  addBatch(metrics, energies, { forces: false });
  addBatch(metrics, [], {});
  addBatch(metrics, forces, { energy: false });
  parts.push(evaluate(both), evaluate(forces, { energy: false }));
  const report = await metrics.result();
  const allEnergies = evaluate([...both, ...energies], { forces: false });
  const allForces = evaluate([...both, ...forces], { energy: false });
  assertReport(report, {
    ...allEnergies,
    ...Object.fromEntries(
      Object.entries(allForces).filter(([key]) => key.startsWith("forces")),
    ),
    energyForcesWithinThreshold: parts[0]!.energyForcesWithinThreshold,
    structures: 55,
    atoms: parts[0]!.atoms + parts[1]!.atoms,
  });

  // result() changes nothing, and adding goes on after it.
  assertEquals(await metrics.result(), report);
  addBatch(metrics, both);
  assertEquals((await metrics.result()).structures, 75);

  // What is added while a result is read is not in it.
  const reading = metrics.result();
  addBatch(metrics, both);
  assertEquals((await reading).structures, 75);
  metrics.reset();
  addBatch(metrics, both);
  assertReport(await metrics.result(), parts[0]!);
});

/** Some of the labels are missing: energies, single forces, single components of stresses. */
function withoutSome(
  structures: readonly Labelled[],
  seed: number,
): Labelled[] {
  const next = seeded(seed);
  const some = (values: readonly number[]): number[] =>
    values.map((x) => next() < 0.2 ? NaN : x);
  return structures.map((s) => ({
    ...s,
    energy: [s.energy[0], some([s.energy[1]])[0]!],
    target: some(s.target),
    stress: [s.stress![0], some(s.stress![1])],
  }));
}

testOnDevices(
  "Metrics compare where there are labels, and stresses, in every dtype",
  async (device) => {
    for (const ignoreNaN of [true, false]) {
      using metrics = new Metrics(device, { ignoreNaN });
      for (const [i, dtype] of DTYPES.entries()) {
        for (const structureMask of [false, true]) {
          const structures = withoutSome(randomStructures(200, 20, i), i);
          const options: BatchOptions = {
            mask: structureMask !== ignoreNaN,
            structureMask,
            stress: true,
            ignoreNaN,
            column: structureMask,
            energyDType: DTYPES[(i + 1) % 4]!,
            forcesDType: DTYPES[(i + 2) % 4]!,
            stressDType: dtype,
          };
          metrics.reset();
          addBatch(metrics, structures, options);
          const report = await metrics.result();
          const expected = evaluate(structures, options);
          assertReport(report, expected, JSON.stringify(options));
          assertEquals(Number.isNaN(report.stressMAE), !ignoreNaN);
          assertEquals(report.nonFinite > 0, !ignoreNaN);
          assert(report.stresses < 1200 || !structureMask && !ignoreNaN);
        }
      }
    }
  },
);

testOnDevices(
  "Metrics of labels that are all missing are NaN and count none",
  async (device) => {
    const none = randomStructures(5, 5, 1).map((s): Labelled => ({
      ...s,
      energy: [1, NaN],
      target: s.target.map(() => NaN),
      stress: [s.stress![0], s.stress![1].map(() => NaN)],
    }));
    using metrics = new Metrics(device, { ignoreNaN: true });
    addBatch(metrics, none, { stress: true });
    const report = await metrics.result();
    assertReport(report, evaluate(none, { stress: true, ignoreNaN: true }));
    const { structures, energies, atoms, stresses, nonFinite } = report;
    assertEquals([structures, energies, atoms, stresses, nonFinite], [
      5,
      0,
      0,
      0,
      0,
    ]);
    assert(Number.isNaN(report.forcesWithinThreshold));
  },
);

testOnDevices("Metrics take stresses of nine components", async (device) => {
  using natoms = device.tensor(new Int32Array([1, 3]));
  using input = device.tensor(
    Float64Array.from({ length: 18 }, (_, i) => i),
    [2, 3, 3],
  );
  using target = device.zeros([2, 3, 3], "float64");
  using metrics = new Metrics(device);
  metrics.add({ natoms, stress: { input, target } });
  const report = await metrics.result();
  assertEquals([report.stresses, report.stressMAE], [18, 8.5]);
  assertEquals([report.structures, report.energies, report.atoms], [2, 0, 0]);
});

testOnDevices("Metrics of nothing are NaN, their counts 0", async (device) => {
  using metrics = new Metrics(device);
  assertReport(await metrics.result(), evaluate([]));
  addBatch(metrics, []);
  const report = await metrics.result();
  assertReport(report, evaluate([]));
  assert(Number.isNaN(report.energyMAE));
  addBatch(metrics, randomStructures(3, 3, 5), { forces: false });
  const energies = await metrics.result();
  assert(energies.energyMAE > 0);
  assert(Number.isNaN(energies.forcesMAE));
  assert(Number.isNaN(energies.energyForcesWithinThreshold));
  assertEquals(energies.atoms, 0);
});

testOnDevices("Metrics take the thresholds they are given", async (device) => {
  const structures = randomStructures(100, 10, 6);
  const thresholds = [0.01, 0.015] as const;
  using metrics = new Metrics(device, {
    energyThreshold: thresholds[0],
    forceThreshold: thresholds[1],
  });
  addBatch(metrics, structures);
  const expected = evaluate(structures, {}, thresholds);
  assertReport(await metrics.result(), expected);
  assert(
    expected.energyWithinThreshold < evaluate(structures).energyWithinThreshold,
  );

  // Below, not at: 0.5 is exact in binary.
  using at = new Metrics(device, { energyThreshold: 0.5, forceThreshold: 0.5 });
  const exactly = (error: number): Labelled => ({
    energy: [error, 0],
    input: [0, 0, -error],
    target: [0, 0, 0],
    mask: [true],
  });
  addBatch(at, [exactly(0.5), exactly(0.25)]);
  const report = await at.result();
  assertEquals(report.energyWithinThreshold, 0.5);
  assertEquals(report.forcesWithinThreshold, 0.5);
  assertEquals(report.energyForcesWithinThreshold, 0.5);
});

testOnDevices(
  "structures without an atom to compare are not judged by their forces",
  async (device) => {
    const free = randomStructures(1, 1, 7)[0]!;
    const good: Labelled = { ...free, input: free.target, mask: [true] };
    const fixed: Labelled = { ...good, mask: [false] };
    const empty: Labelled = { energy: [1, 0], input: [], target: [], mask: [] };
    const structures = [empty, fixed, good, empty, fixed, empty];
    using metrics = new Metrics(device);
    addBatch(metrics, structures, { mask: true });
    const report = await metrics.result();
    assertReport(report, evaluate(structures, { mask: true }));
    assertEquals(report.forcesWithinThreshold, 1);
    assertEquals(report.atoms, 1);
    assertEquals(report.structures, 6);

    metrics.reset();
    addBatch(metrics, [fixed, empty], { mask: true });
    const none = await metrics.result();
    assertReport(none, evaluate([fixed, empty], { mask: true }));
    assert(Number.isNaN(none.forcesWithinThreshold));
    assert(Number.isNaN(none.energyForcesWithinThreshold));
  },
);

testOnDevices(
  "Metrics show NaN and infinities, except behind the mask",
  async (device) => {
    const change = (
      structures: readonly Labelled[],
      structure: number,
      component: number,
      value: number,
    ): Labelled[] =>
      structures.map((s, i) =>
        i === structure ? { ...s, input: s.input.with(component, value) } : s
      );
    const good = randomStructures(40, 12, 8).map((s): Labelled => ({
      ...s,
      energy: [s.energy[1], s.energy[1]],
      input: s.target,
    }));
    for (const dtype of DTYPES) {
      const options = { energyDType: dtype, forcesDType: dtype };
      for (const value of [NaN, Infinity, -Infinity]) {
        using metrics = new Metrics(device);
        const forces = change(good, 11, 1, value);
        addBatch(metrics, forces, options);
        const report = await metrics.result();
        assertReport(report, evaluate(forces, options), `${dtype} ${value}`);
        assert(!Number.isFinite(report.forcesMAE));
        assertEquals(report.forcesWithinThreshold, 39 / 40);
        assertEquals(report.energyForcesWithinThreshold, 39 / 40);
        assertEquals(report.energyMAE, 0);
        assertEquals(report.nonFinite, 1);

        metrics.reset();
        const energies = good.map((s, i): Labelled =>
          i === 3 ? { ...s, energy: [value, s.energy[1]] } : s
        );
        addBatch(metrics, energies, options);
        const bad = await metrics.result();
        assertReport(bad, evaluate(energies, options), `${dtype} ${value}`);
        assert(!Number.isFinite(bad.energyMAE));
        assertEquals(bad.energyForcesWithinThreshold, 39 / 40);
        assertEquals(bad.forcesMAE, 0);
      }
    }
    const hidden = change(good, 5, 0, NaN).map((s, i): Labelled =>
      i === 5 ? { ...s, mask: s.mask.with(0, false) } : s
    );
    using metrics = new Metrics(device);
    addBatch(metrics, hidden, { mask: true });
    const report = await metrics.result();
    assertReport(report, evaluate(hidden, { mask: true }));
    assertEquals(report.forcesMAE, 0);
    assertEquals(report.nonFinite, 0);
  },
);

testOnDevices(
  "a force of 0 has cosine similarity 0, and a small one less than its angle says",
  async (device) => {
    const along = (size: number): Labelled => ({
      energy: [0, 0],
      input: [size, 0, 0],
      target: [1, 0, 0],
      mask: [true],
    });
    using metrics = new Metrics(device);
    for (const [size, cosine] of [[0, 0], [1e-9, 0.1], [1e-7, 1], [-2, -1]]) {
      metrics.reset();
      addBatch(metrics, [along(size!)]);
      const { forcesCosineSimilarity } = await metrics.result();
      assert(Math.abs(forcesCosineSimilarity - cosine!) < 1e-15);
    }
  },
);

testOnDevices(
  "Metrics have the same bits run after run, also of large batches",
  async (device) => {
    // More atoms than one thread takes, in one structure and in many.
    const structures = randomStructures(1500, 200, 9);
    const one: Labelled = {
      energy: [0, 0],
      input: structures.flatMap((s) => s.input),
      target: structures.flatMap((s) => s.target),
      mask: structures.flatMap((s) => s.mask),
    };
    for (const batch of [structures, [one]]) {
      for (const mask of [false, true]) {
        using metrics = new Metrics(device);
        addBatch(metrics, batch, { mask });
        const first = await metrics.result();
        assertReportLoosely(first, evaluate(batch, { mask }));
        for (let i = 0; i < 5; i++) {
          metrics.reset();
          addBatch(metrics, batch, { mask });
          assertEquals(await metrics.result(), first);
        }
      }
    }
  },
);

/** The plain loop itself rounds more than 1e-12 over so many atoms. */
function assertReportLoosely(
  actual: MetricsReport,
  expected: MetricsReport,
): void {
  for (const key of Object.keys(expected) as (keyof MetricsReport)[]) {
    const off = Math.abs(actual[key] - expected[key]);
    if (Object.is(actual[key], expected[key])) continue; // NaN, of nothing
    assert(off <= 1e-10 * Math.abs(expected[key]), `${key} is off by ${off}`);
  }
}

testOnDevices(
  "wrong counts in natoms touch nothing and are told with the result",
  async (device) => {
    const n = 1000;
    using pred = device.tensor(new Float32Array(3 * n).fill(1), [n, 3]);
    using target = device.zeros([n, 3]);
    using energy = device.zeros([4]);
    using mask = device.tensor(new Uint8Array(n).fill(1), [n], "bool");
    const huge = 2n ** 63n - 1n;
    const wrong = [
      [250n, 250n, 250n, 251n],
      [250n, 250n, 250n, 249n],
      [0n, 0n, 0n, 0n],
      [-1n, 501n, 250n, 250n],
      [1000n, -1n, 1n, 0n],
      [huge, 1n, huge, 1n],
      [huge, huge, 2n, 1000n], // adds up to 1000 modulo 2^64
      [-huge - 1n, -huge - 1n, 0n, 1000n],
      [2n ** 32n + 1000n, 0n, 0n, 0n],
    ];
    using metrics = new Metrics(device);
    const add = (natoms: Tensor, masked: boolean): void => {
      metrics.add({
        natoms,
        energy: { input: energy, target: energy },
        forces: { input: pred, target, ...(masked && { mask }) },
      });
    };
    for (const counts of wrong) {
      for (const masked of [false, true]) {
        metrics.reset();
        using natoms = device.tensor(new BigInt64Array(counts));
        add(natoms, masked);
        await assertRejects(
          () => metrics.result(),
          ArgumentError,
          "natoms of 1 added batch does not",
          `${counts}`,
        );
      }
    }
    using narrow = device.tensor(
      new Int32Array([2 ** 31 - 1, -(2 ** 31), 0, 1]),
    );
    add(narrow, true);
    using right = device.tensor(new Int32Array([0, n, 0, 0]));
    add(right, false);
    await assertRejects(
      () => metrics.result(),
      ArgumentError,
      "natoms of 2 added batches",
    );
    metrics.reset();
    add(right, true);
    assertEquals((await metrics.result()).atoms, n);

    // Without forces there is nothing to add up to, but no negative atoms.
    metrics.reset();
    metrics.add({ natoms: right, energy: { input: energy, target: energy } });
    assertEquals((await metrics.result()).structures, 4);
    metrics.add({ natoms: narrow, energy: { input: energy, target: energy } });
    await assertRejects(() => metrics.result(), ArgumentError, "natoms of 1");
    // No structures, but atoms.
    metrics.reset();
    using none = device.tensor(new Int32Array(0));
    metrics.add({ natoms: none, forces: { input: pred, target } });
    await assertRejects(() => metrics.result(), ArgumentError, "natoms of 1");
  },
);

testOnDevices("Metrics reject arguments that do not fit", async (device) => {
  using natoms = device.tensor(new Int32Array([2, 2]));
  using floats = device.zeros([2]);
  using square = device.tensor(new Int32Array(4), [2, 2]);
  using energy = device.zeros([2], "float64");
  using column = device.zeros([2, 1], "float64");
  using three = device.zeros([3], "float64");
  using ints = device.zeros([2], "int32");
  using forces = device.zeros([4, 3]);
  using double = device.zeros([4, 3], "float64");
  using transposed = device.zeros([3, 4]);
  using mask = device.zeros([4], "bool");
  using short = device.zeros([3], "bool");
  using maskColumn = device.zeros([4, 1], "bool");
  using bytes = device.zeros([4], "int32");
  using metrics = new Metrics(device);

  const same = (tensor: Tensor): { input: Tensor; target: Tensor } => ({
    input: tensor,
    target: tensor,
  });
  const cases: [
    MetricsBatch,
    new (...args: never[]) => Error,
    string,
  ][] = [
    [{ natoms }, ArgumentError, "neither energy, forces nor stress"],
    [
      { natoms: floats, energy: same(energy) },
      DTypeError,
      "natoms has dtype float32",
    ],
    [
      { natoms: square, energy: same(energy) },
      ShapeError,
      "natoms has shape [2, 2]",
    ],
    [
      { natoms: null as unknown as Tensor, energy: same(energy) },
      ArgumentError,
      "natoms must be a Tensor, not null",
    ],
    [
      { natoms, energy: { input: energy, target: column } },
      ShapeError,
      "energy.target has shape [2, 1], expected [2]",
    ],
    [
      { natoms, energy: { input: energy, target: floats } },
      DTypeError,
      "energy.target has dtype float32, expected float64",
    ],
    [
      { natoms, energy: same(ints) },
      DTypeError,
      "energy.input has dtype int32",
    ],
    [
      { natoms, energy: same(three) },
      ShapeError,
      "energy.input has shape [3], expected [2] or [2, 1]",
    ],
    [
      {
        natoms,
        energy: { input: energy } as unknown as {
          input: Tensor;
          target: Tensor;
        },
      },
      ArgumentError,
      "energy.target must be a Tensor",
    ],
    [
      { natoms, forces: { input: forces, target: double } },
      DTypeError,
      "forces.target has dtype float64, expected float32",
    ],
    [
      { natoms, forces: same(transposed) },
      ShapeError,
      "forces.input has shape [3, 4], expected [N, 3]",
    ],
    [{ natoms, forces: same(energy) }, ShapeError, "expected [N, 3]"],
    [
      { natoms, forces: { ...same(forces), mask: bytes } },
      DTypeError,
      "forces.mask has dtype int32, expected bool",
    ],
    [
      { natoms, forces: { ...same(forces), mask: short } },
      ShapeError,
      "forces.mask has shape [3], expected [4]",
    ],
    [
      { natoms, forces: { ...same(forces), mask: maskColumn } },
      ShapeError,
      "[4, 1]",
    ],
    [
      { natoms, energy: { ...same(energy), mask } },
      ShapeError,
      "energy.mask has shape [4], expected [2]",
    ],
    [
      { natoms, energy: { ...same(energy), mask: ints } },
      DTypeError,
      "energy.mask has dtype int32, expected bool",
    ],
    [
      { natoms, stress: same(double) },
      ShapeError,
      "stress.input has shape [4, 3], expected [2, 6], [2, 9] or [2, 3, 3]",
    ],
  ];
  for (const [batch, type, message] of cases) {
    assertThrows(() => metrics.add(batch), type, message);
  }

  using other = await Device.open(device.name);
  using elsewhere = other.tensor(new Int32Array([2, 2]));
  using far = other.zeros([4, 3]);
  using farMask = other.zeros([4], "bool");
  using farEnergy = other.zeros([2]);
  for (
    const batch of [
      { natoms: elsewhere, energy: same(energy) },
      { natoms, energy: same(farEnergy) },
      { natoms, forces: same(far) },
      { natoms, forces: { ...same(forces), mask: farMask } },
    ]
  ) {
    assertThrows(() => metrics.add(batch), DeviceError, "same Device object");
  }
  using group = await ProcessGroup.init({ device: other });
  assertThrows(() => new Metrics(device, { group }), DeviceError, "group");
  for (const value of [0, -1, NaN, "0.1" as unknown as number]) {
    assertThrows(
      () => new Metrics(device, { energyThreshold: value }),
      ArgumentError,
      `energyThreshold is ${value}`,
    );
    assertThrows(
      () => new Metrics(device, { forceThreshold: value }),
      ArgumentError,
      `forceThreshold is ${value}`,
    );
  }

  const gone = device.zeros([4, 3]);
  gone.dispose();
  assertThrows(
    () => metrics.add({ natoms, forces: same(gone) }),
    DisposedError,
  );
  // Nothing of all this was added.
  assertEquals((await metrics.result()).structures, 0);
  metrics.add({
    natoms,
    energy: same(column),
    forces: { ...same(forces), mask },
  });
  assertEquals((await metrics.result()).structures, 2);

  metrics.dispose();
  metrics.dispose();
  assertThrows(
    () => metrics.add({ natoms, energy: same(energy) }),
    DisposedError,
    "Metrics was disposed",
  );
  assertThrows(() => metrics.reset(), DisposedError);
  await assertRejects(() => metrics.result(), DisposedError);
});

testOnDevices("Metrics give back all memory", async (device) => {
  const before = device.memory.tensors;
  {
    using metrics = new Metrics(device);
    addBatch(metrics, randomStructures(5, 5, 10), { mask: true });
    await metrics.result();
    assertEquals(device.memory.tensors, before + 1);
  }
  assertEquals(device.memory.tensors, before);
});

for (const device of ["cpu", "cuda"]) {
  Deno.test({
    name:
      `Metrics of 1, 2 and 3 ragged replicas are those of the whole data set [${device}]`,
    ignore: device === "cuda" && !hasCuda,
    async fn(): Promise<void> {
      for (const worldSize of [1, 2, 3]) {
        const { code, stdout, stderr } = await launchReplicas(
          worldSize,
          "tests/fixtures/metrics_replica.ts",
          [device],
        );
        assertEquals(code, 0, stdout + stderr);
        const reports = [...stdout.matchAll(/report (.*)$/gm)].map((m) => m[1]);
        assertEquals(reports.length, worldSize);
        // The same bits on all replicas; the replica has compared the values.
        assertEquals(new Set(reports).size, 1);
        assertMatch(reports[0]!, /"structures":64,/);
      }
    },
  });
}
