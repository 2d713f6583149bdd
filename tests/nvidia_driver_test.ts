import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { BuildError } from "../mod.ts";
import { targetsOf } from "../ffi/gpu_targets.ts";
import { withFakeDriver } from "./fake_driver.ts";
import { startProgram } from "./launch_replicas.ts";

/** What askDriver() says in an environment. */
async function ask(
  env: Record<string, string>,
  limit = 60_000,
): Promise<string> {
  const script = "tests/fixtures/nvidia_driver.ts";
  const job = startProgram(
    Deno.execPath(),
    ["run", "-A", script, `${limit}`],
    env,
  );
  const { code, stdout, stderr } = await job.finished();
  assertEquals(code, 0, stderr);
  return stdout.trim();
}

Deno.test("askDriver() gives the GPUs, or why there are none", () =>
  withFakeDriver(async (env) => {
    assertEquals(
      JSON.parse(await ask({ ...env, FAKE_GPUS: "7.0 12.1" })),
      {
        version: "13.2",
        gpus: [
          { name: "GPU 0", capability: "7.0" },
          { name: "GPU 1", capability: "12.1" },
        ],
      },
    );
    for (
      const [variables, why] of [
        [{ FAKE_GPUS: "" }, "the NVIDIA driver has no GPU"],
        [
          { FAKE_FAILS: "999" },
          "the NVIDIA driver finds no GPU to use: unknown error",
        ],
        [
          { FAKE_FAILS: "1234" },
          "the NVIDIA driver finds no GPU to use: error 1234",
        ],
      ] as const
    ) {
      assertEquals(await ask({ ...env, ...variables }), `DeviceError: ${why}`);
    }
  }));

Deno.test("askDriver() gives up on a driver that does not answer", () =>
  withFakeDriver(async (env) => {
    assertEquals(
      await ask({ ...env, FAKE_HANGS: "1" }, 300),
      "DeviceError: the NVIDIA driver has not answered for 0.3 s",
    );
  }));

Deno.test("targetsOf() takes what nvcc has code for, PTX for newer GPUs, and leaves older ones", () => {
  const codes = [75, 80, 86, 90];
  const sm = (n: number): string => `-gencode=arch=compute_${n},code=sm_${n}`;
  assertEquals(targetsOf(["9.0", "8.0"], codes), [sm(80), sm(90)]);
  assertEquals(targetsOf(["7.0", "8.6"], codes), [sm(86)]);
  assertEquals(targetsOf(["12.0", "8.9"], codes), [
    "-gencode=arch=compute_86,code=compute_86",
    "-gencode=arch=compute_90,code=compute_90",
  ]);
  // One that does not say what it has.
  assertEquals(targetsOf(["7.0"], []), [sm(70)]);
  assertThrows(
    () => targetsOf(["6.1", "7.0"], codes),
    BuildError,
    "their compute capability is 6.1, 7.0, its oldest is 7.5: install an older CUDA toolkit (12.9 is the last",
  );
});

Deno.test('Device.open("auto") asks the driver once, and says that the toolkit has no code for its GPUs', () =>
  withFakeDriver(async (env, folder) => {
    const home = `${folder}/toolkit`;
    for (
      const file of [
        "include/nccl.h",
        "include/cublas_v2.h",
        "include/cuda_runtime.h",
        "lib/libnccl.so.2",
        "lib/libcublas.so.13",
        "lib/libcudart.so.13",
      ]
    ) {
      await Deno.mkdir(`${home}/${file.split("/")[0]}`, { recursive: true });
      await Deno.writeTextFile(`${home}/${file}`, "");
    }
    await Deno.mkdir(`${home}/bin`);
    await Deno.writeTextFile(
      `${home}/bin/nvcc`,
      "#!/bin/sh\necho sm_75\necho sm_80\n",
      { mode: 0o755 },
    );
    const log = `${folder}/log`;
    const script = "tests/fixtures/open_device.ts";
    const job = startProgram(
      Deno.execPath(),
      ["run", "-A", script, "auto"],
      {
        ...env,
        ATOMLOSS_LIBRARY_CUDA: "",
        CUDA_HOME: home,
        NCCL_HOME: "",
        CUBLAS_HOME: "",
        FAKE_GPUS: "6.1",
        FAKE_LOG: log,
      },
    );
    const { code, stdout, stderr } = await job.finished();
    assertEquals(code, 0, stderr);
    assertEquals(stdout, "cpu\n");
    assertStringIncludes(
      stderr,
      "using the CPU: this nvcc has no code for the GPUs of this machine",
    );
    assertEquals(await Deno.readTextFile(log), "cuInit\n");
  }));
