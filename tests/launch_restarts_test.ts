/** launch.ts --max-restarts: what is killed goes on from its last checkpoint, or all of it ends. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { Device } from "../mod.ts";
import { BridgedHosts } from "./bridged_hosts.ts";
import {
  type Finished,
  type LaunchedJob,
  startProgram,
} from "./launch_replicas.ts";
import { isAlive, withFolder } from "./system.ts";

const SCRIPT = "tests/fixtures/restarted_job.ts";
const STEPS = 60;

/** Reads until a line matches, and adds the process ids that it meets. */
async function until(
  job: LaunchedJob,
  pattern: RegExp,
  pids: number[],
): Promise<void> {
  for (;;) {
    const line = await job.nextLine();
    if (line === undefined) {
      const { stdout, stderr } = await job.finished();
      throw new Error(`it ended before ${pattern}:\n${stdout}${stderr}`);
    }
    const pid = /pid (\d+)/.exec(line);
    if (pid !== null) pids.push(Number(pid[1]));
    if (pattern.test(line)) return;
  }
}

/** Waits until none of the processes is there. */
async function assertGone(pids: readonly number[]): Promise<void> {
  const deadline = performance.now() + 10_000;
  for (const pid of pids) {
    while (await isAlive(pid)) {
      assert(performance.now() < deadline, `pid ${pid} is left`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

function launch(...options: readonly string[]): LaunchedJob {
  const args = ["run", "-A", "launch.ts", ...options];
  return startProgram(Deno.execPath(), args, { OMP_NUM_THREADS: "1" });
}

Deno.test("launch.ts starts again from the checkpoint when a replica is killed, with a file a replica and attempt", () =>
  withFolder(async (folder) => {
    (await Device.open("cpu")).dispose(); // built before
    const job = launch(
      ..."--standalone --nproc-per-node 2 --max-restarts 2 --tee".split(" "),
      ...["--log-dir", `${folder}/logs`],
      ...[SCRIPT, `${folder}/step`, String(STEPS)],
    );
    const pids: number[] = [];
    await until(job, /step 5$/, pids);
    Deno.kill(pids[0]!, "SIGKILL");
    const { code, stdout, stderr } = await job.finished();
    assertEquals(code, 0, stderr);
    assertMatch(stderr, /launch: rank [01] was ended by SIGKILL/);
    assertMatch(stderr, /launch: starting again: restart 1 of 2\n/);
    assertMatch(stdout, /done from step ([5-9]|[1-5]\d) in attempt 1\n/);
    for (const attempt of [0, 1]) {
      for (const rank of [0, 1]) {
        const text = await Deno.readTextFile(
          `${folder}/logs/attempt_${attempt}/rank_${rank}.log`,
        );
        assertMatch(text, /^pid \d+\nstep \d+\n/);
        assertEquals(/done/.test(text), attempt === 1);
      }
    }
  }));

Deno.test("launch.ts starts again no oftener than it may, and not when it is told to end", () =>
  withFolder(async (folder) => {
    await Deno.writeTextFile(
      `${folder}/fails.ts`,
      `console.log("attempt", Deno.env.get("TORCHELASTIC_RESTART_COUNT"), "of",
        Deno.env.get("TORCHELASTIC_MAX_RESTARTS")); Deno.exit(3);`,
    );
    const options = "--nproc-per-node 1 --max-restarts 2".split(" ");
    const { code, stdout } = await launch(...options, `${folder}/fails.ts`)
      .finished();
    assertEquals(code, 3);
    assertEquals(
      stdout,
      [0, 1, 2].map((n) => `[rank 0] attempt ${n} of 2\n`).join(""),
    );
    const job = launch(...options, SCRIPT, `${folder}/step`, "1000");
    const pids: number[] = [];
    await until(job, /step 2$/, pids);
    job.kill("SIGTERM");
    const ended = await job.finished();
    assertEquals(ended.code, 143);
    assertEquals(ended.stderr, "");
    await assertGone(pids);
  }));

Deno.test("launch.ts writes to files alone without --tee, and says where", () =>
  withFolder(async (folder) => {
    await Deno.writeTextFile(
      `${folder}/fails.ts`,
      `console.log("out"); console.error("err"); Deno.exit(3);`,
    );
    const { code, stdout, stderr } = await launch(
      ..."--nproc-per-node 1 --log-dir".split(" "),
      `${folder}/logs`,
      `${folder}/fails.ts`,
    ).finished();
    assertEquals([code, stdout], [3, ""]);
    const file = `${folder}/logs/attempt_0/rank_0.log`;
    assertEquals(
      stderr,
      `launch: rank 0 ended with code 3 (its output: ${file})\n`,
    );
    const lines = (await Deno.readTextFile(file)).split("\n").sort();
    assertEquals(lines, ["", "err", "out"]);
  }));

Deno.test("launch.ts starts a replica for each processor, or GPU", () =>
  withFolder(async (folder) => {
    const script = `${folder}/place.ts`;
    await Deno.writeTextFile(script, `console.log(Deno.env.get("WORLD_SIZE"))`);
    const processors = String(navigator.hardwareConcurrency);
    const { stdout } = await launch("--nproc-per-node", "cpu", script)
      .finished();
    assertEquals(
      new Set(stdout.trim().split("\n").map((line) => line.split("] ")[1])),
      new Set([processors]),
    );
    assertEquals(stdout.trim().split("\n").length, Number(processors));
  }));

/** The launchers of 3 hosts with 2 replicas each. */
function launchOn(hosts: BridgedHosts, file: string): LaunchedJob[] {
  return [0, 1, 2].map((host) => {
    const [program, ...args] = hosts.command(host);
    return startProgram(program!, [
      ...args,
      Deno.execPath(),
      ..."run -A launch.ts --nnodes 3 --nproc-per-node 2".split(" "),
      ...`--max-restarts 1 --node-rank ${host}`.split(" "),
      ...`--master-port 29557 --master-addr ${hosts.address(0)}`.split(" "),
      ...[SCRIPT, file, String(STEPS)],
    ], { ATOMLOSS_SECRET: "of this test alone", OMP_NUM_THREADS: "1" });
  });
}

/** Runs such a job, and does something to it in the middle. */
async function runAndDisturb(
  id: string,
  disturb: (
    hosts: BridgedHosts,
    jobs: readonly LaunchedJob[],
    pids: readonly (readonly number[])[],
  ) => void | Promise<void>,
): Promise<Finished[]> {
  const done: Finished[] = [];
  await withFolder(async (folder) => {
    await using hosts = await BridgedHosts.make(3, id);
    const jobs = launchOn(hosts, `${folder}/step`);
    const pids: number[][] = [[], [], []];
    await Promise.all(
      jobs.map((job, host) => until(job, /step 5$/, pids[host]!)),
    );
    await disturb(hosts, jobs, pids);
    done.push(...await Promise.all(jobs.map((job) => job.finished())));
    await assertGone(pids.flat());
  });
  return done;
}

const ignore = await BridgedHosts.cannot();

Deno.test({
  name: "a job on 3 hosts goes on from its checkpoint when a replica is killed",
  ignore,
  async fn(): Promise<void> {
    const done = await runAndDisturb("a", (_hosts, _jobs, pids) => {
      Deno.kill(pids[2]![1]!, "SIGKILL");
    });
    for (const { code, stdout, stderr } of done) {
      assertEquals(code, 0, stderr);
      assertMatch(stdout, /done from step ([5-9]|[1-5]\d) in attempt 1\n/);
    }
  },
});

for (
  const [what, id, disturb] of [
    ["the launcher of host 0 is killed", "b", killLauncher(0)],
    ["the launcher of another host is killed", "c", killLauncher(1)],
    [
      "a host is cut off",
      "d",
      (hosts: BridgedHosts): Promise<void> => hosts.cut(2),
    ],
  ] as const
) {
  Deno.test({
    name: `a job on 3 hosts ends on all of them when ${what}`,
    ignore,
    async fn(): Promise<void> {
      const done = await runAndDisturb(id, disturb);
      for (const { code } of done) assert(code !== 0);
    },
  });
}

function killLauncher(
  host: number,
): (hosts: BridgedHosts, jobs: readonly LaunchedJob[]) => void {
  return (_hosts, jobs) => jobs[host]!.kill("SIGKILL");
}

Deno.test({
  name: "a job on 3 hosts ends on all of them when one launcher is told to",
  ignore,
  async fn(): Promise<void> {
    const done = await runAndDisturb("e", (_hosts, jobs) => {
      jobs[1]!.kill("SIGINT");
    });
    for (const { code, stderr } of done) {
      assertEquals(code, 130, stderr);
      assert(!stderr.includes("starting again"));
    }
  },
});
