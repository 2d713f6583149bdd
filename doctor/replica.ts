/** One of the two replicas that the doctor starts: fails if they do not add up. */
import { ProcessGroup } from "../distributed/process_group.ts";
import { CollectiveError } from "../errors.ts";
import { Device } from "../tensor/device.ts";

/** Time in which they find each other, in ms. */
const TIMEOUT = 60_000;

using device = await Device.open(Deno.args[0]);
using group = await ProcessGroup.init({ device, timeout: TIMEOUT });
using sum = device.tensor(new Float32Array([group.rank + 1]));
group.allReduce(sum, "sum");
const value = await sum.item();
if (value !== 3) {
  throw new CollectiveError(`1 + 2 is ${value} over the replicas`);
}
