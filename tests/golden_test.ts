/** Every case of the reference's DDPLoss, each replica a process of its own. */
import { assert, assertEquals } from "@std/assert";
import { launchReplicas } from "./launch_replicas.ts";
import { hasGpu } from "./devices.ts";
import { readGolden } from "./golden.ts";

const cases = await readGolden();
const worldSizes = [...new Set(cases.map((c) => c.world_size))].sort((a, b) =>
  a - b
);

for (const device of ["cpu", "cuda"]) {
  for (const worldSize of worldSizes) {
    Deno.test({
      name: `DDPLoss equals the reference on ${worldSize} replicas [${device}]`,
      ignore: device === "cuda" && !hasGpu,
      async fn(t): Promise<void> {
        const { code, stdout, stderr } = await launchReplicas(
          worldSize,
          "tests/fixtures/golden_replica.ts",
          [device],
        );
        assertEquals(code, 0, stderr);
        const results = stdout.split("\n").flatMap((line) => {
          const json = line.indexOf("{");
          return json < 0 ? [] : [JSON.parse(line.slice(json))];
        });
        for (const golden of cases.filter((c) => c.world_size === worldSize)) {
          await t.step(golden.name, () => {
            const mine = results.filter((r) => r.name === golden.name);
            assertEquals(mine.length, worldSize, "a replica did not report");
            assertEquals(mine.flatMap((r) => r.failures), []);
          });
        }
        assert(results.length > 0);
      },
    });
  }
}
