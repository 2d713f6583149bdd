/** What holds for tasks with any options at once: one process, micro-batches and replicas agree. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { defineLoss } from "../mod.ts";
import { hasCuda, testOnDevices } from "./devices.ts";
import { launchReplicas } from "./launch_replicas.ts";
import { DEFINITIONS } from "./plain_losses.ts";
import {
  assertStep,
  lossOf,
  normalizerOf,
  randomStep,
  resultOf,
} from "./random_plain_tasks.ts";

for (const [name, definition] of Object.entries(DEFINITIONS)) {
  await defineLoss(name, definition);
}

const RUNS = { numRuns: 400, seed: 20261125 };

testOnDevices(
  "random tasks with all options are their formulas, whole and in micro-batches",
  async (device) => {
    const cuts = fc.array(fc.nat({ max: 7 }), { maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(randomStep, cuts, async (step, cuts) => {
        const n = step.natoms.length;
        const loss = lossOf(step);
        assertStep(step, await resultOf(device, step, loss, [0, n]));
        const borders = [0, ...cuts.map((c) => Math.min(c, n)), n]
          .sort((a, b) => a - b);
        using normalizer = normalizerOf(step, loss, 0, n);
        assertStep(
          step,
          await resultOf(device, step, loss, borders, { normalizer }),
        );
      }),
      RUNS,
    );
  },
);

for (const device of ["cpu", "cuda"]) {
  for (const worldSize of [2, 3]) {
    Deno.test({
      name:
        `random tasks with all options over ${worldSize} replicas equal one process [${device}]`,
      ignore: device === "cuda" && !hasCuda,
      async fn(): Promise<void> {
        const { code, stdout, stderr } = await launchReplicas(
          worldSize,
          "tests/fixtures/random_losses_replica.ts",
          [device],
        );
        assertEquals(code, 0, stderr);
        assertEquals(
          stdout.match(/200 steps hold/g)?.length,
          worldSize,
          stdout,
        );
      },
    });
  }
}
