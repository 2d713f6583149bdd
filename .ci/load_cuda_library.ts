/** Builds the CUDA library, opens it, and asks for the versions of what it is linked with. */
import { Library } from "../ffi/library.ts";
import { Device } from "../mod.ts";

const library = await Library.get("cuda");
const versions = library.versions();
console.log(library.path, versions);
for (const name of ["cudart", "cublas", "nccl"]) {
  if (!versions[name]) throw new Error(`no version of ${name}`);
}
console.log(`${await Device.count("cuda")} GPUs`);
