import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { launch } from "../launch.ts";
import { LaunchError } from "../mod.ts";
import { type LaunchedJob, ROOT, startProgram } from "./launch_replicas.ts";
import { isAlive } from "./system.ts";

interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function run(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Finished> {
  return start(args, env).finished();
}

function start(
  args: readonly string[],
  env: Record<string, string> = {},
): LaunchedJob {
  return startProgram(
    Deno.execPath(),
    ["run", "-A", "launch.ts", ...args],
    env,
  );
}

/** Process ids that replicas print, "pid 123", one a line. */
async function readPids(job: LaunchedJob, count: number): Promise<number[]> {
  const pids: number[] = [];
  while (pids.length < count) {
    const line = await job.nextLine();
    if (line === undefined) throw new Error("the job ended early");
    const match = /pid (\d+)/.exec(line);
    if (match !== null) pids.push(Number(match[1]));
  }
  return pids;
}

/** Waits until none of the processes is there. */
async function assertGone(pids: readonly number[], ms: number): Promise<void> {
  const deadline = performance.now() + ms;
  for (const pid of pids) {
    while (await isAlive(pid)) {
      assert(performance.now() < deadline, `pid ${pid} is left`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

/** Prints its own id and that of a process it starts, which holds its output open. */
const WITH_CHILD =
  `const child = new Deno.Command("sleep", { args: ["60"] }).spawn();
   console.log("pid", Deno.pid);
   console.log("pid", child.pid);`;

/** Runs a script of the given text. */
async function withScript(
  text: string,
  test: (path: string) => Promise<void>,
): Promise<void> {
  const path = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(path, text);
    await test(path);
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("launch.ts tells each replica its place and passes on arguments", () =>
  withScript(
    `const names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS"];
     console.log(names.map((name) => Deno.env.get(name)).join(" "), JSON.stringify(Deno.args));
     console.error("secret of", Deno.env.get("ATOMLOSS_SECRET")?.length);`,
    async (script) => {
      const { code, stdout, stderr } = await run(
        ["--nproc-per-node", "2", script, "--nproc-per-node", "7", "x y"],
        { OMP_NUM_THREADS: "3" },
      );
      assertEquals(code, 0, stderr);
      assertEquals(stdout.trim().split("\n").sort(), [
        '[rank 0] 0 2 0 2 127.0.0.1 3 ["--nproc-per-node","7","x y"]',
        '[rank 1] 1 2 1 2 127.0.0.1 3 ["--nproc-per-node","7","x y"]',
      ]);
      assertEquals(stderr.match(/\[rank \d\] secret of 64/g)?.length, 2);

      const second = await run(
        [
          "--nproc_per_node=2",
          "--nnodes=3",
          "--node_rank=1",
          "--master-addr=node0",
          "--master-port=1234",
          script,
        ],
        { ATOMLOSS_SECRET: "s", OMP_NUM_THREADS: "1" },
      );
      assertStringIncludes(second.stdout, "[rank 2] 2 6 0 2 node0 1 []");
      assertStringIncludes(second.stdout, "[rank 3] 3 6 1 2 node0 1 []");
    },
  ));

Deno.test("launch.ts gives replicas the permissions before the script, and else all", () =>
  withScript(
    `const state = async (name) => (await Deno.permissions.query({ name })).state;
     console.log(await state("net"), await state("read"), Deno.env.get("RANK"), ...Deno.args);`,
    async (script) => {
      for (
        const [options, printed] of [
          ["--allow-env=RANK --nproc-per-node 1 --allow-net", "granted prompt"],
          [
            "--nproc_per_node=1 --deny-net --allow-env --allow-read",
            "denied granted",
          ],
          ["--nproc_per_node 1", "granted granted"],
        ] as const
      ) {
        const { code, stdout, stderr } = await run(
          [...options.split(" "), script, "--allow-sys"],
        );
        assertEquals(code, 0, stderr);
        assertEquals(stdout, `[rank 0] ${printed} 0 --allow-sys\n`);
      }
    },
  ));

Deno.test("launch.ts starts nothing that it may not end", () =>
  withScript(`console.log("started");`, async (script) => {
    const { code, stdout, stderr } = await startProgram(Deno.execPath(), [
      ..."run --no-prompt --allow-net --allow-env".split(" "),
      `--allow-run=sh,${Deno.execPath()}`,
      ..."launch.ts --nproc-per-node 1".split(" "),
      script,
    ]).finished();
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, "requires --allow-run, without names");
  }));

Deno.test("launch.ts ends the others when one replica fails, with its code", () =>
  withScript(
    `if (Deno.env.get("RANK") === "1") Deno.exit(42);
     await new Promise((resolve) => setTimeout(resolve, 60_000));`,
    async (script) => {
      const start = performance.now();
      const { code, stderr } = await run(["--nproc-per-node", "3", script]);
      assertEquals(code, 42);
      assertStringIncludes(
        stderr,
        "launch: rank 1 ended with code 42; ending the others",
      );
      assert(performance.now() - start < 15_000);
    },
  ));

Deno.test("launch.ts kills a replica that ignores SIGTERM", () =>
  withScript(
    `Deno.addSignalListener("SIGTERM", () => {});
     console.log("listening");
     if (Deno.env.get("RANK") === "1") {
       await new Promise((resolve) => setTimeout(resolve, 500));
       Deno.exit(9);
     }
     await new Promise((resolve) => setTimeout(resolve, 60_000));`,
    async (script) => {
      const start = performance.now();
      const { code } = await run(["--nproc-per-node", "2", script]);
      assertEquals(code, 9);
      assert(performance.now() - start < 15_000);
    },
  ));

Deno.test("launch.ts keeps lines whole", () =>
  withScript(
    `for (let i = 0; i < 200; i++) console.log("x".repeat(500));`,
    async (script) => {
      const { stdout } = await run(["--nproc-per-node", "3", script]);
      const lines = stdout.trim().split("\n");
      assertEquals(lines.length, 600);
      for (const line of lines) assert(/^\[rank \d\] x{500}$/.test(line), line);
    },
  ));

Deno.test("launch.ts rejects bad options with its usage and code 2", async () => {
  const cases: [string[], string][] = [
    [[], "--nproc-per-node is missing"],
    [["--nproc-per-node", "2"], "the script is missing"],
    [["--nproc-per-node", "0", "x.ts"], "--nproc-per-node is '0'"],
    [["--nproc-per-node", "two", "x.ts"], "'two'"],
    [
      ["--frobnicate", "--nproc-per-node", "1", "x.ts"],
      "--frobnicate is not an option",
    ],
    [
      ["--nproc-per-node", "1", "--nnodes", "2", "--node-rank", "2", "x.ts"],
      "--node-rank is 2",
    ],
    [["--nproc-per-node", "1", "--nnodes", "2", "x.ts"], "--master-addr"],
    [
      ["--nproc-per-node", "1", "--nnodes", "2", "--master-addr", "a", "x.ts"],
      "ATOMLOSS_SECRET",
    ],
  ];
  for (const [args, message] of cases) {
    const { code, stderr } = await run(args, { ATOMLOSS_SECRET: "" });
    assertEquals(code, 2, args.join(" "));
    assertStringIncludes(stderr, message);
    assertStringIncludes(stderr, "usage:");
  }
  const help = await run(["--help"]);
  assertEquals(help.code, 0);
  assertStringIncludes(help.stdout, "usage:");
});

Deno.test("replicas say so when their port is taken", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { code, stderr } = await run([
    "--nproc-per-node",
    "2",
    "--master-port",
    String(listener.addr.port),
    `${ROOT}tests/fixtures/collectives_replica.ts`,
  ]);
  assert(code !== 0);
  assertStringIncludes(
    stderr,
    `port ${listener.addr.port}: taken by another program`,
  );
});

Deno.test("launch.ts ends what its replicas have started", () =>
  withScript(
    `${WITH_CHILD}
     if (Deno.env.get("RANK") === "1") Deno.exit(5);
     await child.status;`,
    async (script) => {
      const began = performance.now();
      const job = start(["--nproc-per-node", "2", script]);
      const pids = await readPids(job, 4);
      assertEquals((await job.finished()).code, 5);
      assert(performance.now() - began < 15_000);
      await assertGone(pids, 0);
    },
  ));

for (const signal of ["SIGTERM", "SIGHUP"] as const) {
  Deno.test(`launch.ts passes on ${signal}`, () =>
    withScript(
      `Deno.addSignalListener("${signal}", () => { console.log("got it"); Deno.exit(3); });
       console.log("pid", Deno.pid);
       await new Promise((resolve) => setTimeout(resolve, 60_000));`,
      async (script) => {
        const job = start(["--nproc-per-node", "2", script]);
        await readPids(job, 2);
        job.kill(signal);
        const { code, stdout } = await job.finished();
        assertEquals(code, 3);
        assertEquals(stdout.match(/got it/g)?.length, 2);
      },
    ));
}

Deno.test("replicas end, with what they have started, when launch.ts is killed", () =>
  withScript(`${WITH_CHILD}\nawait child.status;`, async (script) => {
    const job = start(["--nproc-per-node", "2", script]);
    const pids = await readPids(job, 4);
    job.kill("SIGKILL");
    assertEquals((await job.finished()).code, 137);
    await assertGone(pids, 8_000);
  }));

Deno.test("launch.ts ends its replicas when nobody reads the output any more", () =>
  withScript(
    `console.error("pid", Deno.pid);
     for (let i = 0;; i++) {
       console.log("line", i);
       await new Promise((resolve) => setTimeout(resolve, 10));
     }`,
    async (script) => {
      const command =
        `"$0" run -A launch.ts --nproc-per-node 2 "$1" 2>"$2" | head -n 1; echo "code $PIPESTATUS"`;
      const log = await Deno.makeTempFile();
      try {
        const job = startProgram("bash", [
          "-c",
          command,
          Deno.execPath(),
          script,
          log,
        ]);
        const { stdout } = await job.finished();
        assertStringIncludes(stdout, "code 141");
        const text = await Deno.readTextFile(log);
        assertStringIncludes(text, "nobody reads the output any more");
        const pids = [...text.matchAll(/pid (\d+)/g)].map((m) => Number(m[1]));
        assertEquals(pids.length, 2);
        await assertGone(pids, 0);
      } finally {
        await Deno.remove(log);
      }
    },
  ));

Deno.test("launch() runs a script, and throws LaunchError for options that cannot be", async () => {
  await withScript("Deno.exit(4);", async (script) => {
    assertEquals(await launch({ nprocPerNode: 2, script }), 4);
  });
  const script = "x.ts";
  const cases = [
    [{ nprocPerNode: 0 }, "--nproc-per-node is 0"],
    [{ nprocPerNode: 1.5 }, "--nproc-per-node is 1.5"],
    [{ nprocPerNode: 1, nodeRank: 1 }, "--node-rank is 1"],
    [{ nprocPerNode: 1, nnodes: 0 }, "--nnodes is 0"],
    [{ nprocPerNode: 1, masterPort: 70_000 }, "--master-port is 70000"],
  ] as const;
  for (const [options, message] of cases) {
    await assertRejects(
      () => launch({ ...options, script }),
      LaunchError,
      message,
    );
  }
});

Deno.test("launch.ts names the replica that was killed, not one that ended because of it", () =>
  withScript(
    `const flag = import.meta.filename + ".flag";
     if (Deno.env.get("RANK") === "0") {
       Deno.writeTextFileSync(flag, "");
       Deno.exit(7);
     }
     while (!await Deno.stat(flag).catch(() => undefined)) {
       await new Promise((resolve) => setTimeout(resolve, 2));
     }
     Deno.removeSync(flag);
     Deno.kill(Deno.pid, "SIGKILL");`,
    async (script) => {
      const { code, stderr } = await run(["--nproc-per-node", "2", script]);
      assertEquals(code, 137);
      assertStringIncludes(stderr, "launch: rank 1 was ended by SIGKILL");
    },
  ));

Deno.test("launch.ts under nohup outlives the terminal", () =>
  withScript(
    `console.log("pid", Deno.pid);
     await new Promise((resolve) => setTimeout(resolve, 1_000));
     console.log("done");`,
    async (script) => {
      const job = startProgram("nohup", [
        Deno.execPath(),
        ...["run", "-A", "launch.ts", "--nproc-per-node", "1", script],
      ]);
      await readPids(job, 1);
      job.kill("SIGHUP");
      const { code, stdout } = await job.finished();
      assertEquals(code, 0);
      assertStringIncludes(stdout, "[rank 0] done");
    },
  ));
