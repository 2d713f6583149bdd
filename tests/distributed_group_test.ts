import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  ArgumentError,
  Device,
  DeviceError,
  DisposedError,
  ProcessGroup,
} from "../mod.ts";
import { hasCuda } from "./devices.ts";
import {
  type LaunchedJob,
  launchReplicas,
  startReplicas,
} from "./launch_replicas.ts";
import { isAlive } from "./system.ts";

for (const device of ["cpu", "cuda"]) {
  for (const worldSize of [1, 2, 3, 4]) {
    Deno.test({
      name:
        `ProcessGroup combines every dtype, with the same bits on all of ${worldSize} replicas [${device}]`,
      ignore: device === "cuda" && !hasCuda,
      async fn(): Promise<void> {
        const { code, stdout, stderr } = await launchReplicas(
          worldSize,
          "tests/fixtures/collectives_replica.ts",
          [device],
        );
        assertEquals(code, 0, stdout + stderr);
        const digests = [...stdout.matchAll(/digest (\w+) (\w+)/g)];
        assertEquals(digests.length, worldSize);
        assertEquals(new Set(digests.map((d) => d[2])).size, 1);
        const backend = worldSize === 1
          ? "single"
          : device === "cpu"
          ? "gloo"
          : "nccl";
        assertEquals(digests[0]![1], backend);
      },
    });
  }
}

/** Process ids of the replicas of fixtures/endless_replica.ts, once all are at work. */
async function replicasAtWork(
  job: LaunchedJob,
  count: number,
): Promise<Map<number, number>> {
  const pids = new Map<number, number>();
  while (pids.size < count) {
    const line = await job.nextLine();
    if (line === undefined) throw new Error("the job ended early");
    const match = /\[rank (\d+)\] pid (\d+) is reducing/.exec(line);
    if (match !== null) pids.set(Number(match[1]), Number(match[2]));
  }
  return pids;
}

for (const device of ["cpu", "cuda"]) {
  for (
    const [signal, timeout] of [["SIGKILL", 60_000], [
      "SIGSTOP",
      3_000,
    ]] as const
  ) {
    Deno.test({
      name:
        `replicas end with CollectiveError when one of 3 gets ${signal} [${device}]`,
      ignore: device === "cuda" && !hasCuda,
      async fn(): Promise<void> {
        const job = startReplicas(3, "tests/fixtures/endless_replica.ts", [
          device,
          String(timeout),
        ]);
        const pids = await replicasAtWork(job, 3);
        const start = performance.now();
        Deno.kill(pids.get(1)!, signal);
        const { code, stderr } = await job.finished();
        const seconds = (performance.now() - start) / 1e3;
        assert(seconds < 15, `took ${seconds} s`);
        assert(code !== 0);
        assertStringIncludes(
          stderr,
          "CollectiveError: all_reduce",
        );
        assertStringIncludes(
          stderr,
          signal === "SIGKILL"
            ? "launch: rank 1 was ended by SIGKILL"
            : "timed out after 3000 ms",
        );
        for (const pid of pids.values()) {
          assertEquals(await isAlive(pid), false, `pid ${pid} is left`);
        }
      },
    });
  }
}

Deno.test("a job ends, with no process left, when its launcher is interrupted", async () => {
  const job = startReplicas(2, "tests/fixtures/endless_replica.ts");
  const pids = await replicasAtWork(job, 2);
  job.kill("SIGINT");
  const { code } = await job.finished();
  assertEquals(code, 130);
  for (const pid of pids.values()) {
    assertEquals(await isAlive(pid), false, `pid ${pid} is left`);
  }
});

Deno.test("ProcessGroup.init() is a group of one without a launcher", async () => {
  using device = await Device.open("cpu");
  using group = await ProcessGroup.init({ device });
  assertEquals([group.rank, group.worldSize, group.localRank, group.backend], [
    0,
    1,
    0,
    "single",
  ]);
  using tensor = device.tensor(new Float32Array([1, 2]));
  group.allReduce(tensor, "avg");
  group.broadcast(tensor);
  group.averageGradients([tensor]);
  await group.barrier();
  assertEquals(await tensor.toList(), [1, 2]);
});

Deno.test("a ProcessGroup rejects foreign and disposed tensors, and its own use after disposal", async () => {
  using device = await Device.open("cpu");
  using other = await Device.open("cpu");
  const group = await ProcessGroup.init({ device });
  using foreign = other.zeros([1]);
  assertThrows(() => group.allReduce(foreign), DeviceError);
  const gone = device.zeros([1]);
  gone.dispose();
  assertThrows(() => group.allReduce(gone), DisposedError);
  assertThrows(() => group.broadcast(gone), DisposedError);
  group.dispose();
  using tensor = device.zeros([1]);
  assertThrows(() => group.allReduce(tensor), DisposedError, "ProcessGroup");
  await assertRejects(() => group.barrier(), DisposedError);
  await assertRejects(
    () => ProcessGroup.init({ device, timeout: 0 }),
    ArgumentError,
    "timeout",
  );
});
