/** What a job of days would use up: memory, handles, threads, native allocations. */
import { assert, assertEquals } from "@std/assert";
import { hasCuda, standIn } from "./devices.ts";
import type { Held } from "./held.ts";
import { launchReplicas, ROOT, startProgram } from "./launch_replicas.ts";

interface Measured {
  readonly name: string;
  readonly before: Held & { readonly memory: Record<string, number> };
  readonly after: Held & { readonly memory: Record<string, number> };
  readonly megabytes: number;
}

/** Steps of the training: what is lost in each shows in memory. */
const STEPS = 1_000_000;
/** On the stand-in, where what is lost of handles, threads and blocks shows. */
const STEPS_ON_STAND_IN = 2_000;

function parse(stdout: string): Measured[] {
  return stdout.match(/\{.*\}/g)!.map((line) => JSON.parse(line));
}

for (const device of ["cpu", "cuda"]) {
  Deno.test({
    name:
      `many steps, and devices opened and closed, leave nothing behind [${device}]`,
    ignore: device === "cuda" && !hasCuda,
    async fn(): Promise<void> {
      const { code, stdout, stderr } = await startProgram(Deno.execPath(), [
        "run",
        "-A",
        `${ROOT}tests/fixtures/soak_steps.ts`,
        device,
        String(device === "cuda" && standIn ? STEPS_ON_STAND_IN : STEPS),
      ]).finished();
      assertEquals(code, 0, stderr);
      const measured = parse(stdout);
      assertEquals(measured.map(({ name }) => name), ["steps", "devices"]);
      for (const { name, before, after, megabytes } of measured) {
        assertEquals(after.handles, before.handles, name);
        assertEquals(after.threads, before.threads, name);
        for (const kind of ["tensors", "used"]) {
          assertEquals(after.memory[kind], before.memory[kind], name);
        }
        // A block more or less: what one stream has freed another can have a
        // little later. Kept of each device it would be 2 MB at least.
        const kept = after.memory.cached! - before.memory.cached!;
        assert(kept < 1e6, `${name}: ${kept} bytes more are kept`);
        // In 200 000 steps 32 bytes lost in each would be 6 MB, in 400 devices
        // a tensor of each 40 MB.
        assert(megabytes < 5, `${name}: ${megabytes.toFixed(1)} MB leaked`);
      }
    },
  });
}

Deno.test("process groups that are made and disposed leave nothing behind", async () => {
  const { code, stdout, stderr } = await launchReplicas(
    2,
    "tests/fixtures/soak_replica.ts",
  );
  assertEquals(code, 0, stderr);
  const measured = parse(stdout);
  assertEquals(measured.length, 2);
  for (const { before, after } of measured) {
    assertEquals(after.handles, before.handles, stdout);
    assertEquals(after.threads, before.threads, stdout);
  }
});
