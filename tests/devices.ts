/**
 * Runs tests on every device: the same test with "cpu" and "cuda". "cuda" is a
 * GPU where there is one; elsewhere, with ATOMLOSS_TEST_CUDA=1, the stand-in
 * (cuda_platform/), on which a test also fails if that reports a race or a wrong
 * access. Otherwise these tests are skipped, by name.
 */
import { assertEquals } from "@std/assert";
import { buildLibrary } from "../ffi/build.ts";
import { whyNoGpu } from "../ffi/nvidia_driver.ts";
import { Device } from "../mod.ts";
import { StandIn } from "./cuda_platform/control.ts";
import { buildToolkit, environmentOf } from "./cuda_platform/toolkit.ts";

/** Whether this machine has an NVIDIA GPU with a driver. */
export const hasGpu: boolean = await whyNoGpu() === undefined;

/** The stand-in, where it takes the place of a GPU. */
export const standIn: StandIn | undefined = await openStandIn();

/** Whether "cuda" can be tested. */
export const hasCuda: boolean = hasGpu || standIn !== undefined;

async function openStandIn(): Promise<StandIn | undefined> {
  if (hasGpu || Deno.env.get("ATOMLOSS_TEST_CUDA") !== "1") return undefined;
  const home = await buildToolkit();
  // For this process, and for those that tests start.
  for (const [name, value] of Object.entries(environmentOf(home))) {
    Deno.env.set(name, value);
  }
  // Here, so that what does not compile fails once.
  await buildLibrary("cuda");
  return new StandIn(home);
}

/** Fails if the stand-in reports something meanwhile. */
async function withoutReports(test: () => unknown): Promise<void> {
  const before = standIn?.reports;
  await test();
  assertEquals(standIn?.reports, before, "reports of the stand-in, see stderr");
}

/** Registers a test once per device. */
export function testOnDevices(
  name: string,
  test: (device: Device, t: Deno.TestContext) => void | Promise<void>,
): void {
  for (const spec of ["cpu", "cuda"]) {
    Deno.test({
      name: `${name} [${spec}]`,
      ignore: spec === "cuda" && !hasCuda,
      fn: (t) =>
        withoutReports(async () => {
          using device = await Device.open(spec);
          await test(device, t);
        }),
    });
  }
}

/** Registers a test that needs the stand-in: failures, counts of calls. */
export function standInTest(
  name: string,
  test: (device: Device, standIn: StandIn) => void | Promise<void>,
): void {
  Deno.test({
    name: `${name} [stand-in]`,
    ignore: standIn === undefined,
    fn: () =>
      withoutReports(async () => {
        using device = await Device.open("cuda:0");
        await test(device, standIn!);
      }),
  });
}
