/** Whether the devices of this machine compute: losses of theirs against known numbers. */
import { CollectiveError, DeviceError } from "../errors.ts";
import { type Backend, Library } from "../ffi/library.ts";
import { DDPLoss } from "../loss/ddp_loss.ts";
import "../loss/losses.ts";
import { Device } from "../tensor/device.ts";

/** The sum of every loss for errors of 3 and 4, with 2 atoms each or as one row, and its gradient. */
const KNOWN = [
  { loss: "mae", shape: [2], value: 7, grad: [1, 1] },
  { loss: "mse", shape: [2], value: 25, grad: [6, 8] },
  { loss: "per_atom_mae", shape: [2], value: 3.5, grad: [0.5, 0.5] },
  { loss: "l2norm", shape: [1, 2], value: 5, grad: [0.6, 0.8] },
] as const;

/** Opens a device, and computes every loss on it. Throws if a number is wrong. */
export async function checkDevice(spec: string): Promise<string> {
  using device = await Device.open(spec);
  for (const { loss, shape, value, grad } of KNOWN) {
    using input = device.tensor(new Float32Array([4, 6]), shape);
    using target = device.tensor(new Float32Array([1, 2]), shape);
    using natoms = device.tensor(new Int32Array([2, 2]));
    using computed = new DDPLoss(loss, "sum")
      .valueAndGrad(input, target, natoms);
    const numbers = [
      await computed.value.item(),
      ...await computed.grad.toList(),
    ];
    const expected = [value, ...grad];
    if (expected.some((x, i) => !(Math.abs(numbers[i]! - x) < 1e-6))) {
      throw new DeviceError(
        `${loss} and its gradient are ${
          numbers.join(", ")
        } on ${device.name}, ` +
          `expected ${expected.join(", ")}`,
      );
    }
  }
  return `${KNOWN.length} losses and their gradients are right`;
}

/** Where the native library is, and what it is linked with. */
export async function describeLibrary(backend: Backend): Promise<string> {
  const library = await Library.get(backend);
  const versions = Object.entries(library.versions())
    .map(([name, version]) => `${name} ${version}`);
  return [library.path, ...versions, ...mapped()].join(", ");
}

/** The files of the libraries that it is linked with, if this process may know. */
function mapped(): string[] {
  try {
    const maps = Deno.readTextFileSync("/proc/self/maps");
    const files = maps.match(
      /\/\S*\/lib(openblas|gloo|cudart|cublas|nccl|cuda)[-.\w]*$/gm,
    );
    return [...new Set(files)];
  } catch (error) {
    // Only with all permissions; or not Linux.
    if (
      error instanceof Deno.errors.NotCapable ||
      error instanceof Deno.errors.NotFound
    ) return [];
    throw error;
  }
}

/** Starts two replicas, which add their ranks up on a device. Throws if that fails. */
export async function checkReplicas(device: string): Promise<string> {
  const file = (name: string): string => new URL(name, import.meta.url).href;
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--allow-all",
      file("../launch.ts"),
      "--nproc-per-node",
      "2",
      file("replica.ts"),
      device,
    ],
    // One GPU will do.
    env: { ATOMLOSS_SHARE_GPU: "1" },
    stdin: "null",
    stdout: "null",
  }).output();
  if (success) return "two replicas on this host have added up their ranks";
  throw new CollectiveError(
    `two replicas on this host fail:\n${
      new TextDecoder().decode(stderr).trim()
    }`,
  );
}
