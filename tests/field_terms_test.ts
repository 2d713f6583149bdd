import { assertEquals, assertStringIncludes } from "@std/assert";
import { hasCuda } from "./devices.ts";
import { launchReplicas } from "./launch_replicas.ts";

const RUNS = [
  ["cpu", 1, "float64"],
  ["cpu", 1, "float32"],
  ["cpu", 2, "float64"],
  ["cpu", 3, "float64"],
  ["cuda", 1, "float64"],
  ["cuda", 3, "float32"],
] as const;

for (const [device, worldSize, dtype] of RUNS) {
  Deno.test({
    name:
      `84 loss terms of 14 packages over ${worldSize} replicas, ${dtype} [${device}]`,
    ignore: device === "cuda" && !hasCuda,
    async fn(): Promise<void> {
      const { code, stdout, stderr } = await launchReplicas(
        worldSize,
        "tests/fixtures/field_terms_replica.ts",
        [device, dtype],
      );
      assertEquals(code, 0, stdout + stderr);
      assertStringIncludes(
        stdout,
        `FIELD ${dtype} on ${worldSize}, 84 of 84 terms compared: `,
      );
      assertStringIncludes(stdout, " held, 0 not");
    },
  });
}
