import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { hasCuda } from "./devices.ts";
import { withFolder } from "./system.ts";
import {
  deno,
  difference,
  launch,
  type Outcome,
  TRAINING_SCRIPT,
  type TrainingReport,
} from "./training.ts";
import { Random } from "../examples/potential/random.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import { stillingerWeber } from "../examples/potential/stillinger_weber.ts";
import type { Structure } from "../examples/potential/structure.ts";
import { OptionError } from "../examples/command/arguments.ts";
import { HELP, parseOptions } from "../examples/potential/options.ts";

Deno.test("train_potential.ts reaches the same parameters when 1, 2 or 3 replicas train", async () => {
  // 80 structures in batches of 6: the last has 2, and of 3 replicas one has
  // nothing then.
  const run = (replicas: number): Promise<TrainingReport> =>
    launch(replicas, TRAINING_SCRIPT, (path) => [
      ..."--device cpu --dtype float64 --steps 60 --batch 6".split(" "),
      "--report",
      path,
    ]);
  const alone = await run(1);
  assertEquals(alone.worldSize, 1);
  for (const replicas of [2, 3]) {
    const together = await run(replicas);
    assertEquals(together.worldSize, replicas);
    assertEquals(together.trainAtoms, alone.trainAtoms);
    const off = difference(together.parameters, alone.parameters);
    assert(off < 1e-11, `${replicas} replicas: parameters are off by ${off}`);
    for (const key of ["energyMAE", "forceMAE", "finalLoss"] as const) {
      // The signs of energies' errors may cancel in a batch: what rounding
      // leaves of that gradient, Adam divides by its epsilon of 1e-8.
      const off = difference([together[key]], [alone[key]]);
      assert(off < 1e-9, `${replicas} replicas: ${key} is off by ${off}`);
    }
  }
});

Deno.test("train_potential.ts takes the same steps in micro-batches", async () => {
  const run = (
    replicas: number,
    ...options: string[]
  ): Promise<TrainingReport> =>
    launch(replicas, TRAINING_SCRIPT, (path) => [
      ..."--device cpu --dtype float64 --steps 20 --batch 12".split(" "),
      ...options,
      "--report",
      path,
    ]);
  const whole = await run(1);
  for (const [replicas, size] of [[1, 5], [2, 1], [3, 3]] as const) {
    const micro = await run(replicas, "--micro-batch", String(size));
    const off = difference(micro.parameters, whole.parameters);
    assert(off < 1e-11, `${replicas} replicas by ${size}: off by ${off}`);
    assert(difference([micro.finalLoss], [whole.finalLoss]) < 1e-11);
  }
  // From a file, nothing is another bit.
  const filed = await run(1, "--memory", "0.001");
  assertEquals(filed.parameters, whole.parameters);
  assertEquals(filed.forceMAE, whole.forceMAE);
});

Deno.test({
  name:
    "train_potential.ts reaches the CPU's parameters on 1 and 2 replicas [cuda]",
  ignore: !hasCuda,
  fn: async () => {
    const run = (replicas: number, device: string): Promise<TrainingReport> =>
      launch(replicas, TRAINING_SCRIPT, (path) => [
        ...`--device ${device} --dtype float64 --steps 60`.split(" "),
        "--report",
        path,
      ]);
    const cpu = await run(1, "cpu");
    for (const replicas of [1, 2]) {
      const gpu = await run(replicas, "cuda");
      assertEquals(gpu.backend, replicas === 1 ? "single" : "nccl");
      const off = difference(gpu.parameters, cpu.parameters);
      assert(off < 1e-6, `${replicas} replicas: parameters are off by ${off}`);
    }
  },
});

Deno.test("DDPLoss trains the same on any number of replicas when a mean of each replica does not", async () => {
  const run = (
    replicas: number,
  ): Promise<{ ofAllReplicas: number[]; ofEachReplica: number[] }> =>
    launch(replicas, "tests/fixtures/replica_mean.ts", (path) => [path]);
  const alone = await run(1);
  const together = await run(3);
  assertEquals(difference(alone.ofEachReplica, alone.ofAllReplicas), 0);
  assert(difference(together.ofAllReplicas, alone.ofAllReplicas) < 1e-12);
  const off = difference(together.ofEachReplica, alone.ofAllReplicas);
  assert(off > 1e-3, `off by ${off} only`);
});

Deno.test("train_potential.ts trains on extended XYZ when the files are named", async () => {
  await withFolder(async (directory) => {
    const structure = (shift: number): string =>
      `2\nLattice="0 2.7 2.7 2.7 0 2.7 2.7 2.7 0" ` +
      `Properties=species:S:1:pos:R:3:forces:R:3 energy=${-9 + shift}\n` +
      `Si 0 0 0 ${shift} 0 0\nSi ${1.35 + shift} 1.35 1.35 ${-shift} 0 0\n`;
    const [data, report, plot] = ["data.xyz", "report.json", "plot.svg"]
      .map((name) => `${directory}/${name}`) as [string, string, string];
    await Deno.writeTextFile(data, [0, 0.1, 0.2].map(structure).join(""));

    const { code, out, err } = await deno(
      TRAINING_SCRIPT,
      ...["--train", data, "--test", data, "--report", report, "--plot", plot],
      ..."--device cpu --steps 20 --batch 2 --energy-loss mse --force-loss mae"
        .split(" "),
    );
    assertEquals(code, 0, err);
    assertMatch(out, /energy MAE +force MAE/);
    assertMatch(out, /\ntrain( +-?\d+\.\d+){5}\ntest( +-?\d+\.\d+){5}\n/);
    const written: TrainingReport = JSON.parse(await Deno.readTextFile(report));
    assertEquals(Object.keys(written), [
      ..."worldSize device backend dtype steps trainStructures".split(" "),
      ..."trainAtoms testStructures testAtoms energyMAE forceMAE".split(" "),
      ..."forceRMSE baselineForceMAE forceCosine stressMAE stressRMSE"
        .split(" "),
      ..."energyForcesWithinThreshold labels byConfigType byElement".split(" "),
      ..."finalLoss secondsPerStep parameters".split(" "),
    ]);
    assertEquals(written.trainStructures, 3);
    assertEquals(written.testAtoms, 6);
    assertEquals(written.dtype, "float32");
    assert(written.parameters.every(Number.isFinite));
    assert(Math.abs(written.baselineForceMAE - 0.1 / 3) < 1e-8);
    assertMatch(await Deno.readTextFile(plot), /^<svg[^]*<\/svg>$/);
  });
});

Deno.test("train_potential.ts learns crystals, slabs, wires, molecules and free atoms of two elements from one file", async () => {
  await withFolder(async (directory) => {
    // Silicon and germanium that differ by the energies of their atoms only.
    const random = new Random(7);
    const periodicities = ["T T T", "T T F", "T F F", "F F F"];
    const text = (structure: Structure, k: number): string => {
      const periodic = periodicities[k % 4]!;
      const geometry = {
        ...structure,
        periodic: periodic.split(" ").map((p) =>
          p === "T"
        ) as unknown as Structure["periodic"],
      };
      const { energy, forces } = stillingerWeber(geometry);
      const symbols = [...structure.numbers].map(() =>
        random.uniform(0, 1) < 0.5 ? "Si" : "Ge"
      );
      const free = symbols.reduce(
        (sum, symbol) => sum + (symbol === "Si" ? -1 : -2.5),
        0,
      );
      const row = (i: number): string =>
        [
          symbols[i],
          ...structure.positions.slice(3 * i, 3 * i + 3),
          ...forces.slice(3 * i, 3 * i + 3),
        ].join(" ");
      return `${symbols.length}\nLattice="${structure.lattice.join(" ")}" ` +
        `pbc="${periodic}" Properties=species:S:1:pos:R:3:forces:R:3 ` +
        `energy=${energy + free}\n${
          symbols.map((_, i) => row(i)).join("\n")
        }\n`;
    };
    const [train, test, other, report] = ["a.xyz", "b.xyz", "c.xyz", "r.json"]
      .map((name) => `${directory}/${name}`) as [
        string,
        string,
        string,
        string,
      ];
    const atom = (symbol: string, energy: number): string =>
      `1\nconfig_type=IsolatedAtom energy=${energy}\n${symbol} 0 0 0\n`;
    await Deno.writeTextFile(
      train,
      atom("Si", -1) + atom("Ge", -2.5) +
        siliconStructures(40, 1).map(text).join(""),
    );
    await Deno.writeTextFile(test, siliconStructures(8, 2).map(text).join(""));

    const run = (test: string): Promise<Outcome> =>
      deno(
        TRAINING_SCRIPT,
        ...["--train", train, "--test", test, "--report", report],
        ..."--device cpu --steps 50".split(" "),
      );
    const { code, out, err } = await run(test);
    assertEquals(code, 0, err);
    assertStringIncludes(
      out,
      "Si -1.0000 eV (isolated atom), Ge -2.5000 eV (isolated atom)",
    );
    const errors: TrainingReport = JSON.parse(await Deno.readTextFile(report));
    const { forceMAE, baselineForceMAE, energyMAE } = errors;
    assert(forceMAE < 0.2 * baselineForceMAE, `force MAE ${forceMAE} eV/Å`);
    assert(energyMAE < 0.03, `energy MAE ${energyMAE} eV/atom`);

    await Deno.writeTextFile(other, atom("O", -3));
    const refused = await run(other);
    assertEquals(refused.code, 1);
    assertStringIncludes(refused.err, `${other}:1: has O, but there is none`);
  });
});

const mlearn = Deno.env.get("ATOMLOSS_MLEARN");
for (const [element, forceLimit] of [["Si", 0.075], ["Ge", 0.06]] as const) {
  Deno.test({
    name:
      `train_potential.ts learns ${element} when the data is mlearn's (ATOMLOSS_MLEARN)`,
    ignore: mlearn === undefined,
    fn: async () => {
      const report = await launch<TrainingReport>(
        2,
        TRAINING_SCRIPT,
        (path) => [
          ...["--train", `${mlearn}/${element}_training.extxyz`],
          ...["--test", `${mlearn}/${element}_test.extxyz`],
          ...["--report", path],
        ],
      );
      assert(
        report.energyMAE < 0.003,
        `energy MAE ${report.energyMAE} eV/atom`,
      );
      assert(report.forceMAE < forceLimit, `force MAE ${report.forceMAE} eV/Å`);
      assert(report.baselineForceMAE > 3 * report.forceMAE);
    },
  });
}

Deno.test("train_potential.ts says in one line what is wrong when the data is", async () => {
  const path = await Deno.makeTempFile({ suffix: ".xyz" });
  try {
    await Deno.writeTextFile(path, "3\nLattice=1\n");
    const { code, err } = await deno(
      TRAINING_SCRIPT,
      ..."--device cpu --train".split(" "),
      path,
      "--test",
      path,
    );
    assertEquals(code, 1);
    assertEquals(
      err.trim().split("\n").at(-1),
      `replica 0 of 1: ExtxyzError: ${path}:2: Lattice is "1", expected 9 finite numbers`,
    );
  } finally {
    await Deno.remove(path);
  }
});

Deno.test("train_potential.ts exits with 2 when an option is wrong", async () => {
  const { code, err } = await deno(TRAINING_SCRIPT, "--stepz", "3");
  assertEquals(code, 2);
  assertStringIncludes(err, "unknown argument --stepz: did you mean --steps?");
});

Deno.test("train_potential.ts says once what is wrong for all replicas", async () => {
  for (
    const [args, status, problem] of [
      [["--stepz", "3"], 2, "unknown argument --stepz"],
      [
        ["--device", "cpu", "--train", "none.xyz"],
        1,
        "none.xyz: cannot be read",
      ],
    ] as const
  ) {
    const { code, err } = await deno(
      ..."launch.ts --nproc-per-node 3".split(" "),
      TRAINING_SCRIPT,
      ...args,
    );
    assertEquals(code, status);
    assertEquals(err.split(problem).length, 2, err);
  }
});

Deno.test("train_potential.ts prints its options when asked for help", async () => {
  const { code, out } = await deno(TRAINING_SCRIPT, "--help");
  assertEquals(code, 0);
  for (const option of ["--train FILE", "--plot FILE", "--energy-loss NAME"]) {
    assertStringIncludes(out, option);
  }
});

Deno.test("quickstart.ts prints a loss and its gradient", async () => {
  const { code, out, err } = await deno("examples/quickstart.ts");
  assertEquals(code, 0, err);
  assertStringIncludes(out, "loss: 3");
  assertStringIncludes(out, "0.5");
});

Deno.test("parseOptions() has defaults for everything", () => {
  assertEquals(parseOptions([]), {
    train: [],
    test: [],
    testFraction: 0.2,
    energyKey: undefined,
    forcesKey: undefined,
    stressKey: undefined,
    cutoff: 5,
    steps: 1500,
    batch: 32,
    microBatch: undefined,
    lr: 0.001,
    energyLoss: "per_atom_mae",
    energyWeight: 10,
    forceLoss: "l2norm",
    stressWeight: 10,
    configTypeWeights: new Map(),
    e0s: new Map(),
    seed: 1,
    memory: 0.5,
    dtype: "float32",
    device: "auto",
    report: undefined,
    plot: undefined,
    save: undefined,
    checkpoint: undefined,
    checkpointEvery: 100,
    resume: false,
  });
  const { e0s, configTypeWeights } = parseOptions([
    ...["--e0s", "Si=-0.8, O=-1.2e1"],
    ...["--config-type-weights", '{"bulk": 1, "surface": 4}'],
  ])!;
  assertEquals(e0s, new Map([[14, -0.8], [8, -12]]));
  assertEquals(configTypeWeights, new Map([["bulk", 1], ["surface", 4]]));
  assertEquals(parseOptions(["--help"]), undefined);
  assertEquals(parseOptions(["-h"]), undefined);
});

Deno.test("parseOptions() takes many files, and every option is in the help", () => {
  const options = parseOptions(
    "--train a b --steps 3 --train c --test d".split(" "),
  )!;
  assertEquals([options.train, options.test], [["a", "b", "c"], ["d"]]);
  for (const name of Object.keys(options)) {
    const option = name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
    assertMatch(HELP, new RegExp(`^  --${option} `, "m"));
  }
});

Deno.test("parseOptions() throws when an option is unknown or its value bad", () => {
  const bad: readonly (readonly [string, string])[] = [
    ["--what 1", "unknown argument --what"],
    ["-x", "unknown argument"],
    ["file.xyz", "unknown argument file.xyz"],
    ["-- file.xyz", "unknown argument --"],
    ["--steps", "--steps needs a value"],
    ["--steps 0", `--steps is "0", expected an integer from 1`],
    ["--steps 1.5", "expected an integer from 1"],
    ["--steps many", `--steps is "many"`],
    ["--batch=-3", `--batch is "-3"`],
    ["--micro-batch 0", `--micro-batch is "0", expected an integer from 1`],
    ["--checkpoint-every x", `--checkpoint-every is "x"`],
    ["--checkpoint x --checkpoint-every 0", `--checkpoint-every is "0"`],
    ["--checkpoint-every 5", "--checkpoint-every needs --checkpoint"],
    ["--checkpoint", "--checkpoint needs a value"],
    ["--resume", "--resume needs --checkpoint"],
    ["--cutoff 0", "expected a number from 1 to 20"],
    ["--cutoff NaN", `--cutoff is "NaN"`],
    ["--lr=-1", `--lr is "-1"`],
    ["--seed 4294967296", "--seed"],
    ["--energy-loss l2norm", "expected one of per_atom_mae, mae, mse"],
    ["--force-loss per_atom_mae", "expected one of l2norm, mae, mse"],
    [`--config-type-weights {"bulk":-1}`, "expected JSON with numbers from 0"],
    ["--config-type-weights [1]", "expected JSON with numbers from 0"],
    ["--config-type-weights {bulk:1}", "expected JSON with numbers from 0"],
    ["--e0s Si", `--e0s is "Si", expected energies in eV of elements`],
    ["--e0s Si=1,Xx=2", "expected energies in eV of elements"],
    ["--e0s Si=1,Si=2", "expected energies in eV of elements, each once"],
    ["--e0s Si=1eV", "expected energies in eV of elements"],
    ["--memory=-1", `--memory is "-1"`],
    ["--stress-weight x", `--stress-weight is "x"`],
    ["--dtype float16", "expected one of float32, float64"],
    ["--device tpu", "expected cpu, cuda, cuda:N or auto"],
    ["--test a.xyz", "--test needs --train"],
    ["--energy-key E", "--energy-key needs --train"],
    ["--train a --test b --test-fraction 0.1", "is for a training without"],
    ["--train a --test-fraction 1", "expected a number from 0 to 0.9"],
    [
      "--chekpoint x",
      "unknown argument --chekpoint: did you mean --checkpoint?",
    ],
  ];
  for (const [line, problem] of bad) {
    assertThrows(
      () => parseOptions(line.split(" ")),
      OptionError,
      problem,
    );
  }
});
