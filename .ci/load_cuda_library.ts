/**
 * Builds the CUDA library and a library for a loss that a user defines, opens
 * both, and asks for the versions of what they are linked with. A loss that only
 * the host could compute is refused.
 */
import { assertRejects } from "@std/assert";
import { Library } from "../ffi/library.ts";
import { defineLoss, Device, LossDefinitionError } from "../mod.ts";

const library = await Library.get("cuda");
const versions = library.versions();
console.log(library.path, versions);
for (const name of ["cudart", "cublas", "nccl"]) {
  if (!versions[name]) throw new Error(`no version of ${name}`);
}
await defineLoss("charbonnier", {
  // std::max is of the host, but constexpr: nvcc may compile it for the GPU.
  value: "sqrt(std::max(d * d, T(0)) + eps * eps)",
  grad: "d / sqrt(d * d + eps * eps)",
  parameters: { eps: 0.1 },
});
const name = new TextEncoder().encode("charbonnier\0");
const number = new Int32Array(1);
library.check(
  library.symbols.al_loss_find(name, number, new Int32Array(1)),
);
console.log(`the defined loss has number ${number[0]}`);
await assertRejects(
  () => defineLoss("of_the_host", { value: "std::beta(p, t)", grad: "d" }),
  LossDefinitionError,
  "of_the_host.value(1): error: calling a __host__ function",
);
console.log(`${await Device.count("cuda")} GPUs`);
