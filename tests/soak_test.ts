/** What a job of days would use up: memory, handles, threads, native allocations. */
import { assert, assertEquals } from "@std/assert";
import { hasCuda } from "./devices.ts";
import type { Held } from "./held.ts";
import { launchReplicas, ROOT, startProgram } from "./launch_replicas.ts";

interface Measured {
  readonly name: string;
  readonly before: Held & { readonly memory: Record<string, number> };
  readonly after: Held & { readonly memory: Record<string, number> };
  readonly megabytes: number;
}

function parse(stdout: string): Measured[] {
  return stdout.match(/\{.*\}/g)!.map((line) => JSON.parse(line));
}

for (const device of ["cpu", "cuda"]) {
  Deno.test({
    name:
      `a million steps, and devices opened and closed, leave nothing behind [${device}]`,
    ignore: device === "cuda" && !hasCuda,
    async fn(): Promise<void> {
      const { code, stdout, stderr } = await startProgram(Deno.execPath(), [
        "run",
        "-A",
        `${ROOT}tests/fixtures/soak_steps.ts`,
        device,
      ]).finished();
      assertEquals(code, 0, stderr);
      const measured = parse(stdout);
      assertEquals(measured.map(({ name }) => name), ["steps", "devices"]);
      for (const { name, before, after, megabytes } of measured) {
        assertEquals(after.handles, before.handles, name);
        assertEquals(after.threads, before.threads, name);
        for (const kind of ["tensors", "used", "cached"]) {
          assertEquals(after.memory[kind], before.memory[kind], name);
        }
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
