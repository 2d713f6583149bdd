import { assert, assertEquals } from "@std/assert";
import { DDPLoss } from "../mod.ts";
import { standIn, testOnDevices } from "./devices.ts";
import { leaked } from "./held.ts";

/** A GPU's calls are cheap to make: more of them. Not so on the stand-in. */
const CALLS = { cpu: 100_000, cuda: standIn ? 3000 : 1_000_000 };

testOnDevices(
  "100 000 valueAndGrad() calls (on a GPU 1 000 000) leave memory where it was after 1 000",
  async (device) => {
    const ddp = new DDPLoss("l2norm");
    using pred = device.tensor(new Float32Array(3900).fill(1), [1300, 3]);
    using target = device.zeros([1300, 3]);
    const run = async (calls: number): Promise<void> => {
      for (let i = 0; i < calls; i++) {
        using _result = ddp.valueAndGrad(pred, target);
      }
      await device.synchronize();
    };
    await run(1000);
    const { tensors, used, cached, free } = device.memory;
    // In 3000 calls the gradients would be 46 MB.
    const megabytes = await leaked(run, CALLS[device.type]);
    assert(megabytes < 5, `${megabytes.toFixed(1)} MB leaked`);
    assertEquals(device.memory.tensors, tensors);
    assertEquals(device.memory.used, used);
    assertEquals(device.memory.cached, cached);
    if (device.type === "cuda") assertEquals(device.memory.free, free);
  },
);
