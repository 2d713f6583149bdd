/**
 * Puts together what the replicas have computed in part.
 *
 * @module
 */

import type { ProcessGroup } from "../../mod.ts";

/**
 * An array of which each replica has filled in its own part, and left zeros in
 * the rest: the sum over the replicas has all parts. Adding zero changes no
 * bit, so the result does not depend on how many replicas there are.
 */
export async function gather(
  part: Float64Array<ArrayBuffer>,
  group: ProcessGroup,
): Promise<Float64Array> {
  using tensor = group.device.tensor(part);
  group.allReduce(tensor, "sum");
  return await tensor.data() as Float64Array;
}
