/** What happens to a group of GPUs when something fails: see fixtures/cuda_group_faults.ts. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { standIn } from "./devices.ts";
import type { Settings } from "./cuda_platform/control.ts";
import { type Finished, ROOT, startProgram } from "./launch_replicas.ts";
import { freePort } from "./system.ts";

/** Replicas of a scenario that have ended by themselves have done so by then. */
const LIMIT = 25_000;

/**
 * Runs a scenario without a launcher, which would end the survivors. Those in
 * `lost` are killed when the others have ended.
 */
async function run(
  scenario: string,
  {
    worldSize = 2,
    timeout = 20_000,
    lost = [] as number[],
    settings = {} as Settings,
  },
): Promise<Finished[]> {
  const port = String(freePort());
  const jobs = Array.from(
    { length: worldSize },
    (_, rank) =>
      startProgram(Deno.execPath(), [
        "run",
        "-A",
        "--no-check",
        `${ROOT}tests/fixtures/cuda_group_faults.ts`,
        scenario,
        String(timeout),
      ], {
        RANK: String(rank),
        WORLD_SIZE: String(worldSize),
        MASTER_ADDR: "127.0.0.1",
        MASTER_PORT: port,
        ...standIn!.environment({ GPUS: worldSize, ...settings }),
      }),
  );
  const outcomes = jobs.map(async (job) => {
    const hangs = setTimeout(() => job.kill("SIGKILL"), LIMIT);
    const outcome = await job.finished();
    clearTimeout(hangs);
    return outcome;
  });
  await Promise.all(outcomes.filter((_, rank) => !lost.includes(rank)));
  for (const rank of lost) {
    try {
      jobs[rank]!.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended
    }
  }
  return await Promise.all(outcomes);
}

/** Registers a scenario that all replicas but the lost ones pass. */
function scenarioTest(
  name: string,
  scenario: string,
  options: Parameters<typeof run>[1] = {},
): void {
  Deno.test({
    name: `${name} [stand-in]`,
    ignore: standIn === undefined,
    async fn(): Promise<void> {
      const outcomes = await run(scenario, options);
      const text = outcomes
        .map(({ stdout, stderr }, rank) => `rank ${rank}: ${stdout}${stderr}`)
        .join("");
      for (const [rank, { code, stdout }] of outcomes.entries()) {
        if (options.lost?.includes(rank)) continue;
        assertEquals(code, 0, text);
        assertStringIncludes(stdout, "passed", text);
      }
    },
  });
}

const lost = [1];

scenarioTest(
  "a call that fails before NCCL has it breaks its group",
  "failsBefore",
);
for (const [notices, how] of ["does not notice", "notices"].entries()) {
  const settings = { NCCL_NOTICES_DEATH: notices };
  scenarioTest(
    `replicas are told within 3 s of one that was killed, which NCCL ${how}`,
    "killed",
    { worldSize: 3, lost, settings },
  );
  scenarioTest(
    `in debug mode replicas are told within 3 s of one that was killed, which NCCL ${how}`,
    "killedInDebug",
    { worldSize: 3, lost, settings },
  );
}
scenarioTest("two groups on a device do not wait for each other", "twoGroups");
scenarioTest(
  "the timeout of a collective begins when the work before it is done",
  "longEvaluation",
  { timeout: 500 },
);
scenarioTest(
  "a group and its device are disposed at once when a replica hangs",
  "disposeBesideHanging",
  { lost, timeout: 2_000 },
);
scenarioTest(
  "a group and its device are disposed at once when the GPU is at work",
  "disposeBesideWork",
);
scenarioTest(
  "no call is held while a collective times out",
  "callsOverTimeout",
  { lost, timeout: 1_500 },
);
scenarioTest("a group ends whose device was disposed before", "deviceFirst");
scenarioTest("a group ends that was forgotten with its device", "forgotten");
scenarioTest("a barrier reads its token behind what writes it", "barrierFirst");
scenarioTest("a timeout may be as long as a number", "endlessTimeout");
scenarioTest(
  "counts without room for their totals leave nothing taken",
  "noRoomForTotals",
);
scenarioTest(
  "counts of the device are copied where their memory is",
  "countsOfDevice",
);
scenarioTest(
  "slots of forgotten normalizers are used again",
  "forgottenNormalizers",
);
scenarioTest("a watchdog leaves the captures of others alone", "captured");
scenarioTest("a group that fails to open leaves nothing", "failsToOpen");
// No process is kept at its end: the timeout is longer than it may take.
const timeout = 60_000;
scenarioTest(
  "a process ends in the middle of a collective",
  "exitInside",
  { lost, timeout },
);
scenarioTest(
  "a process ends that is connecting to the others",
  "exitInConnect",
  { timeout },
);
scenarioTest(
  "a process ends behind a group that it disposed beside a dead replica",
  "disposeBesideDead",
  { lost, timeout },
);
scenarioTest("a process ends whose GPU is lost", "lostDevice", { timeout });
