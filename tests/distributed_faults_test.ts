/** What happens to a group when a replica dies, hangs, never comes or disagrees. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { Device } from "../mod.ts";
import { ROOT, startProgram } from "./launch_replicas.ts";
import { freePort } from "./system.ts";

/** What one replica left. */
interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs a scenario of fixtures/distributed_faults.ts without a launcher, which
 * would end the survivors. Those in `lost` are killed when the others have ended.
 */
async function run(
  scenario: string,
  { worldSize = 2, timeout = 10_000, lost = [] as number[], env = {} } = {},
): Promise<Outcome[]> {
  // Not in the time of the replicas: to build the library takes long.
  (await Device.open("cpu")).dispose();
  const port = String(freePort());
  const jobs = Array.from(
    { length: worldSize },
    (_, rank) =>
      startProgram(Deno.execPath(), [
        "run",
        "-A",
        `${ROOT}tests/fixtures/distributed_faults.ts`,
        scenario,
        String(timeout),
      ], {
        RANK: String(rank),
        WORLD_SIZE: String(worldSize),
        MASTER_ADDR: "127.0.0.1",
        MASTER_PORT: port,
        OMP_NUM_THREADS: "1",
        ...env,
      }),
  );
  const outcomes = jobs.map((job) => job.finished());
  const hangs = setTimeout(() => {
    for (const job of jobs) job.kill("SIGKILL");
  }, timeout + 20_000);
  await Promise.all(outcomes.filter((_, rank) => !lost.includes(rank)));
  for (const rank of lost) jobs[rank]!.kill("SIGKILL");
  clearTimeout(hangs);
  return await Promise.all(outcomes);
}

/** Checks that a replica has ended with an error, within its timeout and 5 s. */
function assertEnded(outcome: Outcome, timeout: number): string {
  const text = outcome.stdout + outcome.stderr;
  assertEquals(outcome.code, 7, text);
  const match = /Error after ([\d.]+) s:/.exec(outcome.stdout);
  assert(match !== null, text);
  assert(Number(match![1]) * 1e3 < timeout + 5_000, text);
  return outcome.stdout;
}

Deno.test("ProcessGroup.init() ends when a replica is killed before it has connected", async () => {
  const timeout = 2_000;
  const outcomes = await run("killBeforeConnect", { worldSize: 3, timeout });
  assertMatch(
    assertEnded(outcomes[0]!, timeout),
    /rank 1|rank 0 of 3 timed out/,
  );
  assertEnded(outcomes[2]!, timeout);
});

Deno.test("ProcessGroup.init() ends when a replica hangs before it has connected", async () => {
  const timeout = 2_000;
  const lost = [1];
  const outcomes = await run("stopBeforeConnect", {
    worldSize: 3,
    timeout,
    lost,
  });
  assertStringIncludes(assertEnded(outcomes[0]!, timeout), "rank 1");
  assertEnded(outcomes[2]!, timeout);
});

Deno.test("ProcessGroup.init() ends when rank 0 hangs in the rendezvous", async () => {
  const timeout = 2_000;
  const lost = [0, 2];
  const outcomes = await run("stopStore", { worldSize: 3, timeout, lost });
  assertMatch(
    assertEnded(outcomes[1]!, timeout),
    /RendezvousError.*rank 0 has gone, or hangs/,
  );
});

Deno.test("ProcessGroup.init() names, on every replica, those that never came", async () => {
  const timeout = 1_500;
  const outcomes = await run("neverCome", {
    worldSize: 3,
    timeout,
    lost: [1],
  });
  for (const rank of [0, 2]) {
    assertMatch(
      assertEnded(outcomes[rank]!, timeout),
      /RendezvousError.*rank 1 did not come/,
    );
  }
});

for (const scenario of ["sizes", "shares", "operations", "replays"]) {
  Deno.test(`ProcessGroup.allReduce() throws when replicas disagree on ${scenario}`, async () => {
    const timeout = 1_000;
    const outcomes = await run(scenario, { timeout });
    for (const outcome of outcomes) {
      assertStringIncludes(
        assertEnded(outcome, timeout),
        "CollectiveError",
      );
    }
    assertMatch(
      outcomes.map((o) => o.stdout).join(),
      /timed out after 1000 ms: rank [01] (is in call \d+, all_reduce|is in no call)|no connection any more to rank/,
    );
  });

  Deno.test(`in debug mode replicas that disagree on ${scenario} are told so at once`, async () => {
    const outcomes = await run(scenario, {
      timeout: 20_000,
      env: { ATOMLOSS_DEBUG_COLLECTIVES: "1" },
    });
    for (const [rank, outcome] of outcomes.entries()) {
      assertMatch(
        assertEnded(outcome, 0),
        new RegExp(
          `replicas disagree: call \\d+ of rank ${rank} of 2 is all_reduce .*; rank ${
            1 - rank
          }: all_reduce`,
        ),
      );
    }
  });
}

Deno.test("in debug mode replicas that agree get the same as without", async () => {
  const outcomes = await run("again", {
    worldSize: 3,
    env: { ATOMLOSS_DEBUG_COLLECTIVES: "1" },
  });
  for (const { code, stdout, stderr } of outcomes) {
    assertEquals(code, 0, stdout + stderr);
    assertStringIncludes(stdout, "passed");
  }
});

for (const scenario of ["stopBefore", "stopInside", "stopReplay"]) {
  Deno.test(`a collective names the rank that hangs (${scenario})`, async () => {
    const timeout = 1_500;
    const outcomes = await run(scenario, { worldSize: 3, timeout, lost: [1] });
    for (const rank of [0, 2]) {
      assertMatch(
        assertEnded(outcomes[rank]!, timeout),
        /CollectiveError.*all_reduce (?:sum|avg) of 1 tensor.*(1500 ms).*rank 1 does not answer/,
      );
    }
  });
}

for (const scenario of ["killBefore", "killInside", "killReplay"]) {
  Deno.test(`a collective names the rank that died (${scenario})`, async () => {
    const timeout = 10_000;
    const outcomes = await run(scenario, { worldSize: 3, timeout });
    for (const rank of [0, 2]) {
      assertMatch(
        assertEnded(outcomes[rank]!, 0),
        /CollectiveError.*all_reduce (?:sum|avg) of 1 tensor.*timeout 10000 ms: no connection any more to rank \d[\d, ]*; .*rank 1 has ended/,
      );
    }
  });
}

for (const scenario of ["killReceiver", "killSender"]) {
  Deno.test(`a replica that dies in the middle of a message is told at once (${scenario})`, async () => {
    const outcomes = await run(scenario, { timeout: 15_000 });
    assertMatch(
      assertEnded(outcomes[0]!, 0),
      /CollectiveError.*broadcast of 64000000 bytes.*timeout 15000 ms: no connection any more to rank 1; /,
    );
  });
}

Deno.test("a collective names a rank that is late in another call", async () => {
  const outcomes = await run("otherCall", { worldSize: 3, timeout: 1_500 });
  assertMatch(
    assertEnded(outcomes[0]!, 1_500),
    /(timed out after 1500 ms|no connection any more to rank 1(, 2)?)[:;] rank 1 is in call \d+, barrier/,
  );
});

Deno.test("collectives and groups that would overlap are refused, and the job goes on", async () => {
  for (const { code, stdout, stderr } of await run("overlap")) {
    assertEquals(code, 0, stdout + stderr);
    assertStringIncludes(stdout, "passed");
  }
});

Deno.test("a recorded step takes part in the order of its group's collectives, and ends with it", async () => {
  for (const outcome of await run("withoutGroup")) {
    assertMatch(assertEnded(outcome, 10_000), /DisposedError.*ProcessGroup/);
  }
});

Deno.test("a ProcessGroup ends its connections also when its device was disposed before", async () => {
  const [first, second] = await run("deviceFirst", { timeout: 20_000 });
  assertEquals(first!.code, 0, first!.stdout + first!.stderr);
  assertMatch(second!.stdout, /CollectiveError after [0-6]\.\d+ s/);
});

Deno.test("a ProcessGroup is safe to dispose while a barrier waits", async () => {
  for (const { code, stdout, stderr } of await run("disposeInBarrier")) {
    assertEquals(code, 0, stdout + stderr);
    assertStringIncludes(stdout, "passed");
  }
});

Deno.test("a ProcessGroup fails at once after a failed collective", async () => {
  const [survivor] = await run("broken", { timeout: 20_000 });
  assertEquals(survivor!.code, 0, survivor!.stderr);
  assertMatch(
    survivor!.stdout,
    /first all_reduce sum of 1 tensor, 10 float32, on rank 0 of 2 failed.*rank 1 /,
  );
  assertMatch(
    survivor!.stdout,
    /second barrier on rank 0 of 2: the group is broken since all_reduce/,
  );
  const took = Number(/took ([\d.]+) ms/.exec(survivor!.stdout)![1]);
  assert(took < 1_000, survivor!.stdout);
});

Deno.test("ProcessGroup.init() works again and again on the same port", async () => {
  const outcomes = await run("again", { worldSize: 3 });
  for (const { code, stdout, stderr } of outcomes) {
    assertEquals(code, 0, stdout + stderr);
    assertStringIncludes(stdout, "passed");
  }
});
