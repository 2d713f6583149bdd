/**
 * Two hosts on one machine: network namespaces, joined by a virtual cable. For
 * root with `ip` (iproute2); elsewhere skipped by name.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { Device } from "../mod.ts";
import {
  type Finished,
  type LaunchedJob,
  startProgram,
} from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

/** Names of this process alone: another may run the same test. */
const ID = Deno.pid;
const HOSTS = [
  { name: `atomloss-a${ID}`, address: "10.201.7.1", link: `ala${ID}` },
  { name: `atomloss-b${ID}`, address: "10.201.7.2", link: `alb${ID}` },
] as const;

async function ip(line: string): Promise<void> {
  const { success, stderr } = await new Deno.Command("ip", {
    args: line.split(" "),
  }).output();
  if (!success) {
    throw new Error(`ip ${line}: ${new TextDecoder().decode(stderr)}`);
  }
}

async function removeHosts(): Promise<void> {
  for (const { name } of HOSTS) {
    await ip(`netns del ${name}`).catch(() => {});
  }
}

/** Two namespaces that reach each other and nothing else. */
async function makeHosts(): Promise<AsyncDisposable> {
  await removeHosts();
  const [a, b] = HOSTS;
  for (const { name } of HOSTS) await ip(`netns add ${name}`);
  await ip(`link add ${a.link} type veth peer name ${b.link}`);
  for (const { name, address, link } of HOSTS) {
    await ip(`link set ${link} netns ${name}`);
    await ip(`-n ${name} addr add ${address}/24 dev ${link}`);
    await ip(`-n ${name} link set ${link} up`);
    await ip(`-n ${name} link set lo up`);
  }
  return { [Symbol.asyncDispose]: removeHosts };
}

/** Whether this user may make network namespaces. */
async function mayMakeHosts(): Promise<boolean> {
  try {
    await using _hosts = await makeHosts();
    return true;
  } catch {
    return false;
  }
}

const ignore = !await mayMakeHosts();

/** launch.ts with 2 replicas on each host. */
function startJob(script: string, args: readonly string[]): LaunchedJob[] {
  return HOSTS.map(({ name }, rank) =>
    startProgram("ip", [
      ..."netns exec".split(" "),
      name,
      Deno.execPath(),
      ..."run -A launch.ts --nnodes 2 --nproc-per-node 2".split(" "),
      ..."--node-rank".split(" "),
      String(rank),
      ..."--master-port 29555 --master-addr".split(" "),
      HOSTS[0].address,
      script,
      ...args,
    ], { ATOMLOSS_SECRET: "of this test alone", OMP_NUM_THREADS: "1" })
  );
}

async function finished(jobs: readonly LaunchedJob[]): Promise<Finished[]> {
  return await Promise.all(jobs.map((job) => job.finished()));
}

const TRAIN = "examples/train_potential.ts";
const OPTIONS = "--device cpu --dtype float64 --steps 40 --batch 7".split(" ");

Deno.test({
  name: "2 hosts of 2 replicas train to the parameters of one host of 4",
  ignore,
  async fn(): Promise<void> {
    (await Device.open("cpu")).dispose(); // built before anything is timed
    await withFolder(async (directory) => {
      const [two, one] = ["two", "one"].map((n) => `${directory}/${n}.json`);
      {
        await using _hosts = await makeHosts();
        const done = await finished(
          startJob(TRAIN, [...OPTIONS, "--report", two!]),
        );
        for (const { code, stderr } of done) assertEquals(code, 0, stderr);
      }
      const alone = await startProgram(Deno.execPath(), [
        ..."run -A launch.ts --nproc-per-node 4".split(" "),
        TRAIN,
        ...OPTIONS,
        "--report",
        one!,
      ], { OMP_NUM_THREADS: "1" }).finished();
      assertEquals(alone.code, 0, alone.stderr);
      const [a, b] = await Promise.all(
        [two!, one!].map(async (path) =>
          JSON.parse(await Deno.readTextFile(path))
        ),
      );
      assertEquals(a.worldSize, 4);
      assertEquals(a.parameters, b.parameters);
    });
  },
});

Deno.test({
  name: "a host that is cut off in the middle ends the job on both",
  ignore,
  async fn(): Promise<void> {
    await using _hosts = await makeHosts();
    const timeout = 3_000;
    const jobs = startJob("tests/fixtures/endless_job.ts", [String(timeout)]);
    // Both hosts' replicas are at work.
    await Promise.all(jobs.map((job) => job.nextLine()));
    await ip(`-n ${HOSTS[1].name} link set ${HOSTS[1].link} down`);
    const cut = performance.now();
    const done = await finished(jobs);
    const seconds = (performance.now() - cut) / 1e3;
    assert(seconds < timeout / 1e3 + 5, `it took ${seconds} s`);
    const [first, second] = done.map(({ code, stdout, stderr }) => {
      assert(code !== 0, stdout + stderr);
      return stdout + stderr;
    });
    assertMatch(
      first!,
      /CollectiveError: .*3000 ms.*rank [23] (does not answer|cannot be reached)/,
    );
    assertMatch(
      second!,
      /CollectiveError: .*3000 ms.*rank [01] (does not answer|cannot be reached)/,
    );
  },
});
