/** Every case of the reference, each replica a process of its own. */
import { assert, assertEquals } from "@std/assert";
import { launchReplicas } from "./launch_replicas.ts";
import { hasCuda } from "./devices.ts";
import { readGolden } from "./golden.ts";

const golden = await readGolden();
const SUITES = [
  {
    loss: "DDPLoss",
    cases: golden.ddp_loss,
    fixture: "tests/fixtures/golden_replica.ts",
  },
  {
    loss: "DDPMTLoss",
    cases: golden.masked_ddp_loss,
    fixture: "tests/fixtures/masked_golden_replica.ts",
  },
];

for (const device of ["cpu", "cuda"]) {
  for (const { loss, cases, fixture } of SUITES) {
    for (const worldSize of new Set(cases.map((c) => c.world_size))) {
      Deno.test({
        name:
          `${loss} equals the reference on ${worldSize} replicas [${device}]`,
        ignore: device === "cuda" && !hasCuda,
        async fn(t): Promise<void> {
          const { code, stdout, stderr } = await launchReplicas(
            worldSize,
            fixture,
            [device],
          );
          assertEquals(code, 0, stderr);
          const results = stdout.split("\n").flatMap((line) => {
            const json = line.indexOf("{");
            return json < 0 ? [] : [JSON.parse(line.slice(json))];
          });
          for (const { name, world_size } of cases) {
            if (world_size !== worldSize) continue;
            await t.step(name, () => {
              const mine = results.filter((r) => r.name === name);
              assertEquals(mine.length, worldSize, "a replica did not report");
              assertEquals(mine.flatMap((r) => r.failures), []);
            });
          }
          assert(results.length > 0);
        },
      });
    }
  }
}
