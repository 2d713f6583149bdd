/**
 * Builds the CUDA library and a library for a loss that a user defines, opens
 * both, and asks for the versions of what they are linked with.
 */
import { Library } from "../ffi/library.ts";
import { defineLoss, Device } from "../mod.ts";

const library = await Library.get("cuda");
const versions = library.versions();
console.log(library.path, versions);
for (const name of ["cudart", "cublas", "nccl"]) {
  if (!versions[name]) throw new Error(`no version of ${name}`);
}
await defineLoss("charbonnier", {
  value: "sqrt(d * d + eps * eps)",
  grad: "d / sqrt(d * d + eps * eps)",
  parameters: { eps: 0.1 },
});
const name = new TextEncoder().encode("charbonnier\0");
const number = new Int32Array(1);
library.check(
  library.symbols.al_loss_find(name, number, new Int32Array(1)),
);
console.log(`the defined loss has number ${number[0]}`);
console.log(`${await Device.count("cuda")} GPUs`);
