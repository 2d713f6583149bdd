/** GPUs that cannot be used, and which GPU a replica takes. */
import { assertEquals, assertRejects } from "@std/assert";
import { Device, DeviceError } from "../mod.ts";
import { standInTest } from "./devices.ts";

standInTest(
  "Device.open() tells of a GPU too old for the library, beside one that is not",
  async (_, standIn) => {
    using _old = standIn.with({ CAPABILITY_1: 70 });
    await assertRejects(
      () => Device.open("cuda:1"),
      DeviceError,
      "cuda:1 has compute capability 7.0, and this library has code for 8.0, 9.0",
    );
    using young = await Device.open("cuda:0");
    assertEquals(await young.zeros([1]).item(), 0);
  },
);

standInTest(
  "Device.count() says that a driver is too old, and is 0 where there is none",
  async (_, standIn) => {
    {
      using _old = standIn.with({ DRIVER_VERSION: 12_080 });
      for (
        const call of [
          () => Device.count("cuda"),
          () => Device.open("cuda"),
        ]
      ) {
        await assertRejects(
          call,
          DeviceError,
          "too old: it runs CUDA up to 12.8, and this library was built with CUDA 13.0",
        );
      }
    }
    using _none = standIn.with({ DRIVER_VERSION: 0 });
    assertEquals(await Device.count("cuda"), 0);
    await assertRejects(
      () => Device.open("cuda"),
      DeviceError,
      "there is no NVIDIA driver",
    );
  },
);

standInTest(
  'Device.open("cuda") takes the GPU of the local rank, counted around those that are seen',
  async (_, standIn) => {
    const before = Deno.env.get("LOCAL_RANK");
    try {
      for (const GPUS of [1, 2, 3]) {
        using _seen = standIn.with({ GPUS });
        for (const rank of [0, 1, 2, 3]) {
          Deno.env.set("LOCAL_RANK", `${rank}`);
          using device = await Device.open("cuda");
          assertEquals(device.name, `cuda:${rank % GPUS}`);
        }
      }
    } finally {
      if (before === undefined) Deno.env.delete("LOCAL_RANK");
      else Deno.env.set("LOCAL_RANK", before);
    }
  },
);
