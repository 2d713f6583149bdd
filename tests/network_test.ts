/**
 * Two hosts on one machine: network namespaces, joined by a virtual cable; and
 * one whose network is slow. For root with `ip` and `tc` (iproute2); elsewhere
 * skipped by name.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
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

const SLOW_HOST = `atomloss-c${ID}`;

async function system(line: string): Promise<void> {
  const [program, ...args] = line.split(" ");
  const { success, stderr } = await new Deno.Command(program!, { args })
    .output();
  if (!success) throw new Error(`${line}: ${new TextDecoder().decode(stderr)}`);
}

const ip = (line: string): Promise<void> => system(`ip ${line}`);

async function removeHosts(): Promise<void> {
  for (const name of [...HOSTS.map((host) => host.name), SLOW_HOST]) {
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

/** A namespace that reaches itself at 100 Mbit/s. */
async function makeSlowHost(): Promise<AsyncDisposable> {
  await removeHosts();
  await ip(`netns add ${SLOW_HOST}`);
  await ip(`-n ${SLOW_HOST} link set lo up`);
  await system(
    `tc -n ${SLOW_HOST} qdisc add dev lo root tbf rate 100mbit burst 100kb latency 1000ms`,
  );
  return { [Symbol.asyncDispose]: removeHosts };
}

/** Whether this user may not. */
async function cannot(make: () => Promise<AsyncDisposable>): Promise<boolean> {
  try {
    await using _hosts = await make();
    return false;
  } catch {
    return true;
  }
}

const ignore = await cannot(makeHosts);

/**
 * launch.ts with 2 replicas on each host.
 *
 * @param masterAddr What the hosts call host 0, if not by its address.
 */
function startJob(
  script: string,
  args: readonly string[],
  masterAddr: readonly string[] = HOSTS.map(() => HOSTS[0].address),
  env: Record<string, string> = {},
): LaunchedJob[] {
  return HOSTS.map(({ name }, rank) =>
    startProgram("ip", [
      ..."netns exec".split(" "),
      name,
      Deno.execPath(),
      ..."run -A launch.ts --nnodes 2 --nproc-per-node 2".split(" "),
      ..."--node-rank".split(" "),
      String(rank),
      ..."--master-port 29555 --master-addr".split(" "),
      masterAddr[rank]!,
      script,
      ...args,
    ], {
      ATOMLOSS_SECRET: "of this test alone",
      OMP_NUM_THREADS: "1",
      ...env,
    })
  );
}

async function finished(jobs: readonly LaunchedJob[]): Promise<Finished[]> {
  return await Promise.all(jobs.map((job) => job.finished()));
}

const SUM = "tests/fixtures/sum_replica.ts";
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

/** Adds up over the two hosts. */
async function addUp(
  masterAddr: readonly string[],
  env: Record<string, string> = {},
): Promise<void> {
  const jobs = startJob(SUM, ["30000"], masterAddr, env);
  const done = await finished(jobs);
  const said = done.flatMap(({ code, stdout, stderr }) => {
    assertEquals(code, 0, stderr);
    return stdout.trim().split("\n");
  });
  assertEquals(said.sort(), [0, 1, 2, 3].map((rank) => `[rank ${rank}] 10`));
}

Deno.test({
  name: "2 hosts meet at an address of IPv6 that is of their link alone",
  ignore,
  async fn(): Promise<void> {
    (await Device.open("cpu")).dispose();
    await using _hosts = await makeHosts();
    // It has another name, and number, on each.
    for (const [i, { name, link }] of HOSTS.entries()) {
      await ip(`-n ${name} addr add fe80::a${i}/64 dev ${link} nodad`);
    }
    await addUp(HOSTS.map(({ link }) => `fe80::a0%${link}`));
  },
});

Deno.test({
  name:
    "2 hosts meet at a name that each knows by addresses of which one leads there",
  ignore,
  async fn(): Promise<void> {
    (await Device.open("cpu")).dispose();
    await using _hosts = await makeHosts();
    await using cleanup = new AsyncDisposableStack();
    const names = [
      // As Debian's installer writes it, and a second network.
      `127.0.1.1 host0\n${HOSTS[0].address} host0\n`,
      `${HOSTS[1].address} host0\n${HOSTS[0].address} host0\n`,
    ];
    for (const [i, { name }] of HOSTS.entries()) {
      const folder = `/etc/netns/${name}`;
      await Deno.mkdir(folder, { recursive: true });
      cleanup.defer(() => Deno.remove(folder, { recursive: true }));
      await Deno.writeTextFile(`${folder}/hosts`, names[i]!);
    }
    await addUp(HOSTS.map(() => "host0"));
  },
});

Deno.test({
  name:
    "ATOMLOSS_INTERFACE takes the replicas' own connections to another network",
  ignore,
  async fn(): Promise<void> {
    (await Device.open("cpu")).dispose();
    await using _hosts = await makeHosts();
    const [a, b] = HOSTS;
    await ip(`link add ${a.link}x type veth peer name ${b.link}x`);
    for (const [i, { name, link }] of HOSTS.entries()) {
      await ip(`link set ${link}x netns ${name} name data0`);
      await ip(`-n ${name} addr add 10.201.8.${i + 1}/24 dev data0`);
      await ip(`-n ${name} link set data0 up`);
    }
    const sent = async (): Promise<number> => {
      const { stdout } = await startProgram(
        "ip",
        `netns exec ${a.name} cat /sys/class/net/data0/statistics/tx_bytes`
          .split(" "),
      ).finished();
      return Number(stdout);
    };
    await addUp(HOSTS.map(() => a.address));
    const without = await sent();
    await addUp(HOSTS.map(() => a.address), { ATOMLOSS_INTERFACE: "data0" });
    assert(await sent() > without + 100_000);
    assert(without < 10_000);
  },
});

/** The ports of a host's connections, both ends, and those that it listens on. */
async function portsIn(host: string): Promise<number[]> {
  const { stdout } = await startProgram(
    "ip",
    `netns exec ${host} cat /proc/net/tcp /proc/net/tcp6`.split(" "),
  ).finished();
  return [...stdout.matchAll(/ [0-9A-F]+:([0-9A-F]{4})(?= )/g)]
    .map(([, port]) => parseInt(port!, 16))
    .filter((port) => port !== 0); // the other end of a socket that listens
}

Deno.test({
  name: "the system's range of ports is that of the replicas' own connections",
  ignore,
  async fn(): Promise<void> {
    (await Device.open("cpu")).dispose();
    await using _hosts = await makeHosts();
    for (const { name } of HOSTS) {
      const { code, stderr } = await startProgram("ip", [
        ..."netns exec".split(" "),
        name,
        "sh",
        "-c",
        "echo 20000 20100 >/proc/sys/net/ipv4/ip_local_port_range",
      ]).finished();
      assertEquals(code, 0, stderr);
    }
    const jobs = startJob("tests/fixtures/endless_job.ts", ["3000"]);
    await Promise.all(jobs.map((job) => job.nextLine()));
    const own = new Set<number>();
    for (const { name } of HOSTS) {
      for (const port of await portsIn(name)) {
        if (port !== 29555) own.add(port);
      }
    }
    for (const job of jobs) job.kill("SIGTERM");
    await finished(jobs);
    // Each of 4 replicas with 3 others and with the store.
    assert(own.size >= 10, `${[...own]}`);
    const outside = [...own].filter((port) => port < 20000 || port > 20100);
    assertEquals(outside, []);
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

Deno.test({
  name:
    "on a slow network the last collective arrives though its sender has gone",
  ignore: await cannot(makeSlowHost),
  async fn(): Promise<void> {
    (await Device.open("cpu")).dispose();
    await using _host = await makeSlowHost();
    const jobs = ["0", "1"].map((rank) =>
      startProgram("ip", [
        ..."netns exec".split(" "),
        SLOW_HOST,
        Deno.execPath(),
        ..."run -A tests/fixtures/distributed_faults.ts leaveAtOnce 10000"
          .split(" "),
      ], {
        RANK: rank,
        WORLD_SIZE: "2",
        MASTER_ADDR: "127.0.0.1",
        MASTER_PORT: "29556",
        OMP_NUM_THREADS: "1",
      })
    );
    for (const { code, stdout, stderr } of await finished(jobs)) {
      assertEquals(code, 0, stdout + stderr);
      assertStringIncludes(stdout, "passed");
    }
  },
});
