/** Runs tests on every device: the same test with "cuda", skipped by name where there is no GPU. */
import { whyNoGpu } from "../ffi/nvidia_driver.ts";
import { Device } from "../mod.ts";

/** Whether this machine has an NVIDIA GPU with a driver. */
export const hasGpu: boolean = await whyNoGpu() === undefined;

/** Registers a test once per device. */
export function testOnDevices(
  name: string,
  test: (device: Device, t: Deno.TestContext) => void | Promise<void>,
): void {
  for (const spec of ["cpu", "cuda"]) {
    Deno.test({
      name: `${name} [${spec}]`,
      ignore: spec === "cuda" && !hasGpu,
      async fn(t): Promise<void> {
        using device = await Device.open(spec);
        await test(device, t);
      },
    });
  }
}
