/** What a failed collective takes with it, and what not: see fixtures/lost_results.ts. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { Device } from "../mod.ts";
import { standIn } from "./devices.ts";
import { ROOT, startProgram } from "./launch_replicas.ts";
import { freePort } from "./system.ts";

/** Runs a scenario; all replicas but the lost ones must pass it. */
async function run(
  scenario: string,
  spec: string,
  worldSize: number,
  lost: readonly number[] = [],
): Promise<void> {
  // Not in the time of the replicas: to build the library takes long.
  (await Device.open(spec)).dispose();
  const [port, second] = [String(freePort()), String(freePort())];
  // Without a launcher, which would end the survivors.
  const outcomes = await Promise.all(Array.from(
    { length: worldSize },
    async (_, rank) => {
      const job = startProgram(Deno.execPath(), [
        "run",
        "-A",
        "--no-check",
        `${ROOT}tests/fixtures/lost_results.ts`,
        scenario,
        spec,
        second,
      ], {
        RANK: String(rank),
        WORLD_SIZE: String(worldSize),
        MASTER_ADDR: "127.0.0.1",
        MASTER_PORT: port,
        OMP_NUM_THREADS: "1",
        // Nothing is known of the failure while the next calls are made.
        ...standIn?.environment({ GPUS: worldSize, NCCL_NOTICES_DEATH: 0 }),
      });
      const hangs = setTimeout(() => job.kill("SIGKILL"), 40_000);
      const outcome = await job.finished();
      clearTimeout(hangs);
      return outcome;
    },
  ));
  for (const [rank, { code, stdout, stderr }] of outcomes.entries()) {
    if (lost.includes(rank)) continue;
    const text = `rank ${rank}: ${stdout}${stderr}`;
    assertEquals(code, 0, text);
    assertStringIncludes(stdout, "passed", text);
  }
}

// On the stand-in, which has a GPU for each replica.
for (const [spec, name] of [["cpu", "cpu"], ["cuda", "stand-in"]] as const) {
  const ignore = spec === "cuda" && standIn === undefined;
  Deno.test({
    name:
      `what was computed from a failed collective is lost, and nothing else [${name}]`,
    ignore,
    fn: () => run("killed", spec, 3, [1]),
  });
  Deno.test({
    name:
      `what replicas disagree on in debug mode is lost at most, and nothing else [${name}]`,
    ignore,
    fn: () => run("disagree", spec, 2),
  });
}
