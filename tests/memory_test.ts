import { assert, assertEquals } from "@std/assert";
import { DDPLoss } from "../mod.ts";
import { testOnDevices } from "./devices.ts";

/** Resident memory of this process, in bytes. */
function resident(): number {
  return Deno.memoryUsage().rss;
}

const MEGABYTE = 2 ** 20;

/** A GPU's calls are cheap to make: more of them. */
const CALLS = { cpu: 100_000, cuda: 1_000_000 };

testOnDevices(
  "100 000 valueAndGrad() calls (on a GPU 1 000 000) leave memory where it was after 1 000",
  async (device) => {
    const ddp = new DDPLoss("l2norm");
    using pred = device.tensor(new Float32Array(3900).fill(1), [1300, 3]);
    using target = device.zeros([1300, 3]);
    const run = (calls: number): void => {
      for (let i = 0; i < calls; i++) {
        using _result = ddp.valueAndGrad(pred, target);
      }
    };
    run(1000);
    await device.synchronize();
    const { tensors, used, cached, free } = device.memory;
    const before = resident();
    run(CALLS[device.type]);
    await device.synchronize();
    assertEquals(device.memory.tensors, tensors);
    assertEquals(device.memory.used, used);
    assertEquals(device.memory.cached, cached);
    if (device.type === "cuda") assertEquals(device.memory.free, free);
    // The engine's own young heap comes and goes by some megabytes; leaking the
    // gradients would be 1.5 GB, leaking one wrapper object a call 10 MB.
    const grown = (resident() - before) / MEGABYTE;
    assert(grown < 8, `resident memory grew by ${grown.toFixed(1)} MB`);
  },
);
