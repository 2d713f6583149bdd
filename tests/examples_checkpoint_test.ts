import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import {
  CheckpointError,
  prepareCheckpoints,
  readCheckpoint,
  type Training,
  writeCheckpoint,
} from "../examples/potential/checkpoint.ts";
import { parseOptions } from "../examples/potential/options.ts";
import {
  decodeSafetensors,
  encodeSafetensors,
  SafetensorsError,
} from "../tensor/safetensors.ts";
import { decisiveSettings } from "../examples/potential/settings.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import { Adam, Device } from "../mod.ts";
import { standIn, testOnDevices } from "./devices.ts";
import { type LaunchedJob, startProgram } from "./launch_replicas.ts";
import { freePort, withFolder } from "./system.ts";
import {
  deno,
  difference,
  TRAINING_SCRIPT,
  type TrainingReport,
} from "./training.ts";

const FILE = "checkpoint.safetensors";

async function names(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name);
}

// --- One file. ---------------------------------------------------------------

/** A training of three parameters after two steps. */
async function withTraining(
  device: Device,
  test: (make: (changes?: Partial<Training>) => Training) => Promise<void>,
): Promise<void> {
  using owned = new DisposableStack();
  const make = (changes: Partial<Training> = {}): Training => {
    const parameters = owned.use(
      device.tensor(new Float32Array([1, 2, 3]), [3, 1]),
    );
    const adam = owned.use(new Adam([parameters], { lr: 0.1 }));
    using gradient = device.tensor(new Float32Array([1, -1, 0.5]), [3, 1]);
    adam.step([gradient]);
    adam.step([gradient]);
    return {
      parameters,
      adam,
      losses: [{ step: 1, loss: 0.5 }, { step: 2, loss: 0.1 }],
      whitening: {
        freeAtoms: new Float64Array(119).fill(-5.4),
        mean: new Float64Array([1, 2, 3, 4]),
        transform: new Float64Array(12).fill(0.1),
        start: new Float64Array(3),
        size: 3,
      },
      settings: { "--steps": 10, "--lr": 0.1 },
      division: { "the number of replicas": 2 },
      ...changes,
    };
  };
  await test(make);
}

testOnDevices(
  "readCheckpoint() puts back what writeCheckpoint() wrote",
  (device) =>
    withFolder((folder) =>
      withTraining(device, async (make) => {
        const written = make();
        await writeCheckpoint(folder, written);
        assertEquals(await names(folder), [FILE]);

        const read = make({
          losses: [],
          division: { "the number of replicas": 3 },
        });
        using zeros = device.zeros([3, 1]);
        for (const t of [read.parameters, ...read.adam.state]) t.copy_(zeros);
        read.adam.steps = 0;
        assertEquals(await readCheckpoint(folder, read), [
          "the number of replicas was 2, is 3",
        ]);
        assertEquals(read.adam.steps, 2);
        assertEquals(read.losses, written.losses);
        const pairs = [
          [read.parameters, written.parameters] as const,
          ...read.adam.state.map((t, i) =>
            [t, written.adam.state[i]!] as const
          ),
        ];
        assertEquals(pairs.length, 3);
        for (const [a, b] of pairs) {
          assertEquals(await a.toList(), await b.toList());
          assert((await a.toList()).some((x) => x !== 0));
        }
      })
    ),
);

Deno.test("readCheckpoint() does nothing when there is no checkpoint", () =>
  withFolder(async (folder) => {
    using device = await Device.open("cpu");
    await withTraining(device, async (make) => {
      const training = make();
      assertEquals(await readCheckpoint(folder, training), []);
      assertEquals(training.adam.steps, 2);
    });
  }));

Deno.test("readCheckpoint() says what is wrong and changes nothing when a checkpoint is another training's or damaged", () =>
  withFolder(async (folder) => {
    using device = await Device.open("cpu");
    await withTraining(device, async (make) => {
      const path = `${folder}/${FILE}`;
      await writeCheckpoint(folder, make());
      const good = decodeSafetensors(await Deno.readFile(path), path);
      const refused = async (
        training: Training,
        error: typeof CheckpointError | typeof SafetensorsError,
        problem: string,
      ): Promise<void> => {
        using start = device.tensor(new Float32Array([7, 7, 7]), [3, 1]);
        training.parameters.copy_(start);
        await assertRejects(
          () => readCheckpoint(folder, training),
          error,
          problem,
        );
        assertEquals(await training.parameters.toList(), [7, 7, 7]);
        assertEquals(training.losses.length, 2);
      };

      const { whitening } = make();
      for (
        const [changes, problem] of [
          [
            { settings: { "--steps": 10, "--lr": 0.5 } },
            "other options: --lr was 0.1, is 0.5",
          ],
          [{ settings: { "--steps": 10 } }, "--lr was 0.1, is undefined"],
          [
            {
              whitening: {
                ...whitening,
                freeAtoms: whitening.freeAtoms.with(14, -5.5),
              },
            },
            "whitening.freeAtoms is another",
          ],
          [
            { whitening: { ...whitening, mean: new Float64Array(5) } },
            "no whitening.mean of shape [5]",
          ],
        ] as const
      ) {
        await refused(make(changes), CheckpointError, problem);
      }
      using wide = device.zeros([4, 1]);
      using wideAdam = new Adam([wide]);
      await refused(
        { ...make(), adam: wideAdam },
        CheckpointError,
        "no adam.0 of shape [4,1] and dtype float32",
      );

      const parameters = good.arrays.parameters!;
      const settings = good.metadata.settings!;
      const division = good.metadata.division!;
      for (
        const [changes, problem] of [
          [{ metadata: { settings, division } }, "no number of steps"],
          [
            { metadata: { ...good.metadata, steps: "11" } },
            "no number of steps",
          ],
          [{ metadata: { ...good.metadata, steps: "" } }, "no number of steps"],
          [{ metadata: { steps: "2", division } }, "with which options"],
          [
            {
              arrays: {
                ...good.arrays,
                parameters: { ...parameters, shape: [1, 3] },
              },
            },
            "no parameters of shape [3,1]",
          ],
          [
            {
              arrays: {
                ...good.arrays,
                parameters: {
                  dtype: "float64",
                  shape: [3, 1],
                  data: new Float64Array(3),
                },
              },
            },
            "no parameters of shape [3,1] and dtype float32",
          ],
          [
            { arrays: { ...good.arrays, losses: parameters } },
            "no losses of shape [3,2]",
          ],
        ] as const
      ) {
        await Deno.writeFile(path, encodeSafetensors({ ...good, ...changes }));
        await refused(make(), CheckpointError, problem);
      }
      await Deno.writeFile(path, encodeSafetensors(good).subarray(0, -1));
      await refused(make(), SafetensorsError, path);
      await Deno.remove(path);
      await Deno.mkdir(path);
      await refused(make(), CheckpointError, "cannot be read");
    });
  }));

Deno.test("writeCheckpoint() leaves the checkpoint as it was when it cannot write", () =>
  withFolder(async (folder) => {
    using device = await Device.open("cpu");
    await withTraining(device, async (make) => {
      const path = `${folder}/${FILE}`;
      await Deno.mkdir(`${path}/sub`, { recursive: true }); // no file can have the name
      await assertRejects(
        () => writeCheckpoint(folder, make()),
        CheckpointError,
        `${path}: cannot be written`,
      );
      assertEquals(await names(folder), [FILE]);
      await Deno.remove(path, { recursive: true });

      // A state that cannot be read from the device: nothing is touched.
      await writeCheckpoint(folder, make());
      const before = await Deno.readFile(path);
      const broken = make();
      broken.parameters.dispose();
      await assertRejects(() => writeCheckpoint(folder, broken));
      assertEquals(await Deno.readFile(path), before);
    });
  }));

Deno.test("prepareCheckpoints() throws when checkpoints could not be written, or one would be lost", () =>
  withFolder(async (folder) => {
    const inside = `${folder}/new/folder`;
    await prepareCheckpoints(inside, false);
    await prepareCheckpoints(inside, true);
    assertEquals(await names(inside), []);

    await Deno.writeTextFile(`${inside}/${FILE}`, "");
    await prepareCheckpoints(inside, true);
    await assertRejects(
      () => prepareCheckpoints(inside, false),
      CheckpointError,
      "go on with --resume",
    );
    await assertRejects(
      () => prepareCheckpoints(`${inside}/${FILE}`, true),
      CheckpointError,
      "cannot be written",
    );
  }));

Deno.test("decisiveSettings() notices every number of the data that is another", async () => {
  const options = parseOptions([])!;
  const [trainSet, testSet] = [
    siliconStructures(3, 1),
    siliconStructures(2, 2),
  ];
  const seen = new Set<string>();
  const of = async (first: Partial<typeof trainSet[0]>): Promise<void> => {
    const changed = [{ ...trainSet[0]!, ...first }, ...trainSet.slice(1)];
    const settings = await decisiveSettings(options, {
      trainSet: changed,
      testSet,
    });
    seen.add(JSON.stringify(settings));
  };
  const { positions, forces, lattice, energy, stress, weights } = trainSet[0]!;
  const nudged = (x: Float64Array): Float64Array =>
    x.with(x.length - 1, x.at(-1)! + 1e-12);
  await of({});
  await of({ source: "another/file.xyz:7" }); // where it is does not matter
  assertEquals(seen.size, 1);
  await of({ positions: nudged(positions) });
  await of({ forces: nudged(forces) });
  await of({ lattice: nudged(lattice) });
  await of({ energy: energy + 1e-10 });
  await of({ periodic: [true, true, false] });
  await of({ stress: nudged(stress) });
  await of({ weights: { ...weights, stress: 2 } });
  assertEquals(seen.size, 8);
});

// --- Whole trainings. ----------------------------------------------------------

const OPTIONS = "--device cpu --steps 2000".split(" ");
const LAUNCH = ["launch.ts", "--nproc-per-node", "2", TRAINING_SCRIPT];

/** Starts a training with checkpoints, every so many steps. */
function start(
  args: readonly string[],
  folder: string,
  every?: number,
  env: Record<string, string> = {},
): LaunchedJob {
  const often = every === undefined ? [] : ["--checkpoint-every", `${every}`];
  return startProgram(
    Deno.execPath(),
    ["run", "-A", ...args, "--checkpoint", folder, ...often],
    env,
  );
}

/** The last checkpoint of two replicas that nothing interrupts. */
let whole: Promise<Uint8Array<ArrayBuffer>> | undefined;

function wholeTraining(): Promise<Uint8Array<ArrayBuffer>> {
  return whole ??= (async () => {
    let bytes = new Uint8Array();
    await withFolder(async (folder) => {
      const { code, err } = await deno(
        ...LAUNCH,
        ...OPTIONS,
        "--checkpoint",
        folder,
      );
      assertEquals(code, 0, err);
      bytes = await Deno.readFile(`${folder}/${FILE}`);
    });
    return bytes;
  })();
}

/** Goes on from a folder's checkpoint to the end, which must be that of the whole training. */
async function goOn(folder: string, from: number | undefined): Promise<void> {
  const { code, out, err } = await deno(
    ...LAUNCH,
    ...OPTIONS,
    "--checkpoint",
    folder,
    "--resume",
  );
  assertEquals(code, 0, err);
  const step = Number(/going on after step (\d+)/.exec(out)?.[1]);
  assert(step > 0 && step < 2000, out);
  if (from !== undefined) assertEquals(step, from);
  // Parameters, Adam's state, losses: all of it, to the bit.
  assertEquals(await Deno.readFile(`${folder}/${FILE}`), await wholeTraining());
}

/** Waits until a training is under way: until its first checkpoint. */
async function underWay(folder: string): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (await Deno.stat(`${folder}/${FILE}`).then(() => false, () => true)) {
    assert(performance.now() < deadline, "there is no checkpoint");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

for (const [signal, exitCode] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
  Deno.test(`train_potential.ts writes a checkpoint when ${signal} comes, and goes on from it to the bit`, () =>
    withFolder(async (folder) => {
      const job = start([...LAUNCH, ...OPTIONS], folder, 97);
      await underWay(folder);
      job.kill(signal);
      const { code, stdout, stderr } = await job.finished();
      assert(!stdout.includes("energy MAE"), "it was not interrupted");
      assertEquals(code, exitCode, stderr);
      assertStringIncludes(stderr, `0 of 2: Interrupted: stopped by ${signal}`);
      assert(!stderr.includes("CollectiveError"), stderr);
      // That of the signal, and not the last of every 97 steps.
      const step = /checkpoint after step (\d+)/.exec(stderr)?.[1];
      assertEquals(await names(folder), [FILE]);
      await goOn(folder, Number(step));
    }));
}

Deno.test("train_potential.ts goes on to the bit from the last checkpoint when all was killed", () =>
  withFolder(async (folder) => {
    const job = start([...LAUNCH, ...OPTIONS], folder, 7);
    await underWay(folder);
    job.kill("SIGKILL");
    await job.finished();
    await goOn(folder, undefined);
  }));

/**
 * Starts two replicas without launch.ts, which would end both if one fails.
 *
 * @param args The script and its options.
 */
function startApart(
  args: readonly string[],
  folder: string,
  every: number,
): LaunchedJob[] {
  const port = freePort();
  return [0, 1].map((rank) =>
    start(args, folder, every, {
      RANK: `${rank}`,
      LOCAL_RANK: `${rank}`,
      WORLD_SIZE: "2",
      MASTER_ADDR: "127.0.0.1",
      MASTER_PORT: `${port}`,
      ATOMLOSS_SECRET: "secret",
      OMP_NUM_THREADS: "1",
    })
  );
}

/** The step of the checkpoint that a replica writes when it has lost the other. */
async function stepOfSurvivor(job: LaunchedJob): Promise<number> {
  const { code, stderr } = await job.finished();
  assertEquals(code, 1, stderr);
  assertStringIncludes(stderr, "replica 0 of 2: CollectiveError");
  const step = /checkpoint after step (\d+)/.exec(stderr)?.[1];
  assert(step !== undefined, stderr);
  return Number(step);
}

Deno.test("train_potential.ts writes a checkpoint when another replica dies [cpu]", () =>
  withFolder(async (folder) => {
    const [first, second] = startApart(
      [TRAINING_SCRIPT, ...OPTIONS],
      folder,
      97,
    ) as [LaunchedJob, LaunchedJob];
    await underWay(folder);
    second.kill("SIGKILL");
    await second.finished();
    await goOn(folder, await stepOfSurvivor(first));
  }));

Deno.test({
  name:
    "train_potential.ts writes a checkpoint when another replica dies [stand-in]",
  ignore: standIn === undefined,
  fn: () =>
    withFolder(async (folder) => {
      const dies = ["--preload", "tests/fixtures/dies_in_step.ts"];
      const script = [...dies, TRAINING_SCRIPT, ...OPTIONS.with(1, "cuda")];
      const [first, second] = startApart(script, folder, 30);
      // It had stepped with what failed in step 45. Before it read the loss last,
      // in step 40, it kept what it had.
      assertEquals(await stepOfSurvivor(first!), 39);
      await second!.finished();

      // As a training on the CPU has it.
      const other = `${folder}/cpu`;
      const job = start([...LAUNCH, ...OPTIONS], other, 39);
      await underWay(other);
      const [saved, expected] = await Promise.all(
        [folder, other].map(async (of) => {
          const path = `${of}/${FILE}`;
          return decodeSafetensors(await Deno.readFile(path), path);
        }),
      );
      job.kill("SIGKILL");
      await job.finished();
      assertEquals(saved!.metadata.steps, "39");
      assertEquals(expected!.metadata.steps, "39");
      for (const name of ["parameters", "adam.0", "losses"]) {
        const [a, b] = [saved!, expected!].map(({ arrays }) =>
          Array.from(arrays[name]!.data, Number)
        );
        assert(difference(a!, b!) < 1e-3, `${name} differ`);
      }
    }),
});

Deno.test("train_potential.ts ends when one replica alone is told to, and keeps its state", () =>
  withFolder(async (folder) => {
    const job = start([...LAUNCH, ...OPTIONS.with(-1, "1000000")], folder);
    // Replicas by their environment: the launcher tells nobody their ids.
    let pid: number | undefined;
    const isSecond = async (id: string): Promise<boolean> => {
      const text = await Deno.readTextFile(`/proc/${id}/environ`)
        .catch(() => "");
      const command = await Deno.readTextFile(`/proc/${id}/cmdline`)
        .catch(() => "");
      return text.split("\0").includes("RANK=1") && command.includes(folder);
    };
    await underWay(folder);
    for await (const { name } of Deno.readDir("/proc")) {
      if (/^\d+$/.test(name) && await isSecond(name)) pid = Number(name);
    }
    Deno.kill(pid!, "SIGTERM");
    const { stderr } = await job.finished();
    assertStringIncludes(stderr, "1 of 2: Interrupted: stopped by SIGTERM");
    assertMatch(stderr, /checkpoint after step \d+/);
  }));

Deno.test("train_potential.ts tells the same errors again, and trains no more, when a finished training is resumed", () =>
  withFolder(async (folder) => {
    const reports: TrainingReport[] = [];
    const options = "--device cpu --dtype float64 --steps 30".split(" ");
    const run = async (
      replicas: string,
      ...more: string[]
    ): Promise<{ out: string; err: string; code: number }> => {
      const report = `${folder}/report.json`;
      const outcome = await deno(
        ...LAUNCH.with(2, replicas),
        ...options,
        "--checkpoint",
        folder,
        "--report",
        report,
        ...more,
      );
      if (outcome.code === 0) {
        reports.push(JSON.parse(await Deno.readTextFile(report)));
      }
      return outcome;
    };
    assertEquals((await run("2")).code, 0);
    const again = await run("2", "--resume");
    assertEquals(again.code, 0, again.err);
    assertStringIncludes(again.out, "going on after step 30");
    const timeless = reports.map((report) => ({
      ...report,
      secondsPerStep: null,
    }));
    assertEquals(timeless[1], timeless[0]);

    // Other replicas and micro-batches: said, and right to rounding.
    const three = await run("3", "--resume", "--micro-batch", "2");
    assertEquals(three.code, 0, three.err);
    assertStringIncludes(three.out, "the number of replicas was 2, is 3");
    assertStringIncludes(three.out, "--micro-batch was the whole batch, is 2");
    const [first, , last] = reports;
    for (const key of ["energyMAE", "forceMAE", "forceRMSE"] as const) {
      assert(difference([last![key]], [first![key]]) < 1e-12, key);
    }

    for (
      const [more, problem] of [
        [["--resume", "--lr", "0.5"], "--lr was 0.001, is 0.5"],
        [["--resume", "--batch", "8"], "--batch was 32, is 8"],
        [[], "go on with --resume, or name another folder"],
      ] as const
    ) {
      const { code, err } = await run("2", ...more);
      assertEquals(code, 1);
      assertStringIncludes(err, "CheckpointError");
      assertStringIncludes(err, problem);
    }
  }));
