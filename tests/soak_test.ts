/** What a job of days would use up: memory, handles, threads, native allocations. */
import { assert, assertEquals } from "@std/assert";
import { Adam, Device, matmul, MultiTaskLoss } from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import { launchReplicas } from "./launch_replicas.ts";

/** What this process holds of the system. */
function held(): { handles: number; threads: number; megabytes: number } {
  const status = Deno.readTextFileSync("/proc/self/status");
  return {
    handles: [...Deno.readDirSync("/proc/self/fd")].length,
    threads: Number(/Threads:\s+(\d+)/.exec(status)![1]),
    megabytes: Deno.memoryUsage().rss / 2 ** 20,
  };
}

const STEPS = 1_000_000;

testOnDevices(
  `${STEPS} steps of a training leave memory, handles and threads where they were`,
  async (device) => {
    using x = device.tensor(new Float32Array([1, 2, 3, 4, 5, 6]), [3, 2]);
    using energyTarget = device.tensor(new Float32Array([1, 2, 3]), [3, 1]);
    using natoms = device.tensor(new Int32Array([1, 2, 1]));
    using mask = device.tensor(new Uint8Array([1, 0, 1]), [3], "bool");
    using weight = device.zeros([2, 1]);
    using adam = new Adam([weight]);
    const loss = new MultiTaskLoss({
      plain: { loss: "per_atom_mae" },
      masked: { loss: "huber", coefficient: 2 },
    });
    const run = (steps: number): void => {
      for (let i = 0; i < steps; i++) {
        using y = matmul(x, weight);
        const task = { input: y, target: energyTarget, natoms };
        using result = loss.valueAndGrad({
          plain: task,
          masked: i % 2 ? { ...task, mask } : undefined,
        });
        using gradient = matmul(x, result.grads.plain!, { transposeA: true });
        adam.step([gradient]);
      }
    };
    run(20_000);
    await device.synchronize();
    const { tensors, used, cached } = device.memory;
    const before = held();
    run(STEPS);
    await device.synchronize();
    const after = held();
    assertEquals(device.memory.tensors, tensors);
    assertEquals(device.memory.used, used);
    assertEquals(device.memory.cached, cached);
    assertEquals(after.handles, before.handles);
    // Deno's own threads may have ended for want of work.
    assert(after.threads <= before.threads);
    // One leaked object of 16 bytes a step would be 15 MB.
    const grown = after.megabytes - before.megabytes;
    assert(grown < 12, `resident memory grew by ${grown.toFixed(1)} MB`);
  },
);

Deno.test("devices that are opened and closed leave nothing behind", async () => {
  const open = async (times: number): Promise<void> => {
    for (let i = 0; i < times; i++) {
      using device = await Device.open("cpu");
      using tensor = device.zeros([25_000]);
      await tensor.data();
    }
  };
  await open(200);
  const before = held();
  await open(2_000);
  const after = held();
  assertEquals(after.handles, before.handles);
  assertEquals(after.threads, before.threads);
  assert(
    after.megabytes - before.megabytes < 8,
    JSON.stringify([before, after]),
  );
});

Deno.test("process groups that are made and disposed leave nothing behind", async () => {
  const { code, stdout, stderr } = await launchReplicas(
    2,
    "tests/fixtures/soak_replica.ts",
  );
  assertEquals(code, 0, stderr);
  const lines = stdout.match(/\{.*\}/g)!.map((line) => JSON.parse(line));
  assertEquals(lines.length, 2);
  for (const { before, after } of lines) {
    assertEquals(after.handles, before.handles);
    assert(after.threads <= before.threads);
  }
});
