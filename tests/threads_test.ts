import { assertEquals } from "@std/assert";
import { startProgram } from "./launch_replicas.ts";

Deno.test("losses and Metrics have the same bits on any number of threads", async () => {
  const outputs = await Promise.all(
    ["1", "2", "3", "8"].map(async (threads) => {
      const job = startProgram(
        Deno.execPath(),
        ["run", "-A", "tests/fixtures/digest_replica.ts"],
        { OMP_NUM_THREADS: threads },
      );
      const { code, stdout, stderr } = await job.finished();
      assertEquals(code, 0, stderr);
      return stdout;
    }),
  );
  for (const output of outputs) {
    // A line per loss and one for Metrics, with one digest for all its repetitions.
    for (const line of output.trim().split("\n")) {
      assertEquals(line.split(" ").length, 3, line);
    }
    assertEquals(output, outputs[0]);
  }
});
