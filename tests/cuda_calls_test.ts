/** What a step costs the host on several replicas, in calls of CUDA and NCCL. */
import { assert, assertEquals } from "@std/assert";
import { standIn } from "./devices.ts";
import { launchReplicas } from "./launch_replicas.ts";

/** At most; a wait for counts that have arrived already is not enqueued. */
const MOST: Record<string, Record<string, number>> = {
  ddp: {
    // Behind the counts' sum, and behind what reads it.
    cudaEventRecord: 2,
    cudaStreamWaitEvent: 1,
    // Counts to the device, their totals, the loss.
    cudaLaunchKernel: 3,
    ncclAllReduce: 1,
  },
  masked: {
    // Also behind the counts that the device computes.
    cudaEventRecord: 3,
    cudaStreamWaitEvent: 2,
    cudaLaunchKernel: 3,
    cudaMemsetAsync: 1,
    cudaMemcpyAsync: 1,
    ncclAllReduce: 1,
  },
};

Deno.test({
  name:
    "a step of a loss on 2 replicas makes no more calls than it needs [stand-in]",
  ignore: standIn === undefined,
  async fn(): Promise<void> {
    const { code, stdout, stderr } = await launchReplicas(
      2,
      "tests/fixtures/calls_replica.ts",
    );
    assertEquals(code, 0, stdout + stderr);
    const lines = [...stdout.matchAll(/{"name".*/g)];
    assertEquals(lines.length, Object.keys(MOST).length, stdout);
    for (const [line] of lines) {
      const { name, calls } = JSON.parse(line);
      const most = MOST[name]!;
      for (
        const call of new Set([...Object.keys(calls), ...Object.keys(most)])
      ) {
        assert((calls[call] ?? 0) <= (most[call] ?? 0), line);
      }
      assertEquals(calls.cudaLaunchKernel, most.cudaLaunchKernel, line);
    }
  },
});
