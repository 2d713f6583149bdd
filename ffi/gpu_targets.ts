/** The GPUs that the CUDA library is compiled for. */
import { BuildError, DeviceError } from "../errors.ts";
import { nvidiaDriver } from "./nvidia_driver.ts";
import { runProgram } from "./process.ts";

/** Without a GPU to look at: A100, H100, and PTX for what comes after. */
const DEFAULT_TARGETS = [
  "-gencode=arch=compute_80,code=sm_80",
  "-gencode=arch=compute_90,code=sm_90",
  "-gencode=arch=compute_90,code=compute_90",
];

/**
 * nvcc's options for the GPUs of this process.
 *
 * @throws {BuildError} if this nvcc has no code for any of them.
 */
export async function findTargets(nvcc: string): Promise<readonly string[]> {
  let capabilities: string[];
  try {
    const { gpus } = await nvidiaDriver();
    capabilities = [...new Set(gpus.map(({ capability }) => capability))];
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    return DEFAULT_TARGETS;
  }
  const listed = await runProgram(nvcc, ["--list-gpu-code"]);
  const codes = listed?.success ? listed.stdout.match(/(?<=^sm_)\d+$/gm) : null;
  return targetsOf(capabilities, (codes ?? []).map(Number));
}

/**
 * The options for GPUs of some compute capabilities.
 *
 * @param capabilities `"9.0"`, …
 * @param codes What nvcc has code for: 90, …; none if it does not say.
 * @throws {BuildError} if it has code for none of them.
 */
export function targetsOf(
  capabilities: readonly string[],
  codes: readonly number[],
): readonly string[] {
  const oldest = Math.min(...codes);
  const targets = capabilities.flatMap((capability) => {
    const number = Number(capability.replace(".", ""));
    if (codes.length === 0 || codes.includes(number)) {
      return [`-gencode=arch=compute_${number},code=sm_${number}`];
    }
    // One that is newer than this nvcc compiles PTX of an older one itself; one
    // that is older is told at Device.open, and does not keep others from it.
    if (number < oldest) return [];
    const next = Math.max(...codes.filter((code) => code < number));
    return [`-gencode=arch=compute_${next},code=compute_${next}`];
  });
  if (targets.length > 0) return [...new Set(targets)].sort();
  throw new BuildError(
    `this nvcc has no code for the GPUs of this machine: their compute capability is ${
      capabilities.join(", ")
    }, its oldest is ${
      (oldest / 10).toFixed(1)
    }: install an older CUDA toolkit (12.9 is the last for 5.0 to 7.2) and name its folder in CUDA_HOME`,
  );
}
