import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { DisposedError } from "../mod.ts";
import { standIn, testOnDevices } from "./devices.ts";

testOnDevices(
  "batches of changing size keep about as much memory as was in use at once",
  async (device) => {
    const batch = fc.array(fc.integer({ min: 1, max: 4_000_000 }), {
      minLength: 1,
      maxLength: 3,
    });
    // CUDA's pool keeps as much again, in units of its own.
    const [factor, unit] = device.type === "cuda" ? [2, 64 << 20] : [1, 0];
    await fc.assert(
      fc.asyncProperty(
        fc.array(batch, { minLength: 30, maxLength: 60 }),
        async (batches) => {
          await device.releaseMemory();
          const { used } = device.memory;
          let most = used;
          for (const sizes of batches) {
            const tensors = sizes.map((size) => device.empty([size]));
            most = Math.max(most, device.memory.used);
            for (const tensor of tensors) tensor.dispose();
            const { cached } = device.memory;
            assert(
              cached <= factor * most + unit,
              `${cached} bytes kept, ${most} were in use`,
            );
          }
          assertEquals(device.memory.used, used);
        },
      ),
      { numRuns: standIn && device.type === "cuda" ? 1 : 5 },
    );
  },
);

testOnDevices(
  "Device.releaseMemory() leaves nothing kept and what is in use as it was",
  async (device) => {
    using tensor = device.tensor(new Float32Array([1, 2, 3]));
    device.zeros([100_000]).dispose();
    const before = device.memory;
    assert(before.cached >= 400_000);
    await device.releaseMemory();
    const after = device.memory;
    assertEquals(after.tensors, before.tensors);
    assertEquals(after.used, before.used);
    if (device.type === "cpu") assertEquals(after.cached, 0);
    else assert(after.cached < before.cached);
    assertEquals(await tensor.toList(), [1, 2, 3]);
  },
);

testOnDevices(
  "Device.releaseMemory() of a device that was disposed throws",
  async (device) => {
    device.dispose();
    await assertRejects(() => device.releaseMemory(), DisposedError);
  },
);
