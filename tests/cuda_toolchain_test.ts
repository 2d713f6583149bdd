/** The errors on the way to a GPU, each where the thing is missing. None needs a GPU. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Device, DeviceError } from "../mod.ts";
import { hasGpu } from "./devices.ts";
import { startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

/** Builds the CUDA library in a changed environment; gives what it says. */
async function build(env: Record<string, string>): Promise<string> {
  const job = startProgram(
    Deno.execPath(),
    ["run", "-A", "ffi/build.ts", "cuda"],
    { ATOMLOSS_LIBRARY_CUDA: "", ...env },
  );
  const { code, stderr } = await job.finished();
  assertEquals(code, 1, stderr);
  return stderr;
}

/** A toolkit that answers like nvcc and has nothing else. */
async function withBareToolkit(
  test: (home: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (home) => {
    await Deno.mkdir(`${home}/bin`);
    await Deno.writeTextFile(`${home}/bin/nvcc`, "#!/bin/sh\necho nvcc\n", {
      mode: 0o755,
    });
    await test(home);
  });
}

const hasToolkit = await Deno.stat("/usr/local/cuda/bin/nvcc").then(
  () => true,
  () => false,
);

Deno.test({
  name: "cudaRecipe() says that nvcc is missing",
  ignore: hasToolkit, // it is found without any variable
  async fn(): Promise<void> {
    const said = await build({ CUDA_HOME: "/no/such/toolkit" });
    assertStringIncludes(
      said,
      "BuildError: the CUDA compiler nvcc is not there: install the CUDA toolkit",
    );
    assertStringIncludes(said, "CUDA_HOME");
  },
});

Deno.test("cudaRecipe() says that NCCL is missing", () =>
  withBareToolkit(async (home) => {
    const said = await build({ CUDA_HOME: home, NCCL_HOME: home });
    assertStringIncludes(said, "BuildError: NCCL is not there (nccl.h");
    assertStringIncludes(said, "libnccl-dev");
  }));

Deno.test("cudaRecipe() says that cuBLAS is missing", () =>
  withBareToolkit(async (home) => {
    const nccl = `${home}/nccl`;
    await Deno.mkdir(`${nccl}/include`, { recursive: true });
    await Deno.mkdir(`${nccl}/lib`);
    await Deno.writeTextFile(`${nccl}/include/nccl.h`, "");
    await Deno.writeTextFile(`${nccl}/lib/libnccl.so.2`, "");
    const said = await build({
      CUDA_HOME: home,
      NCCL_HOME: nccl,
      CUBLAS_HOME: home,
    });
    assertStringIncludes(said, "BuildError: cuBLAS is not there (cublas_v2.h");
    assertStringIncludes(said, "libcublas-dev");
  }));

Deno.test({
  name: 'Device.open("auto") takes the CPU and says why when there is no GPU',
  ignore: hasGpu,
  async fn(): Promise<void> {
    const job = startProgram(Deno.execPath(), [
      "run",
      "-A",
      "tests/fixtures/open_device.ts",
      "auto",
    ]);
    const { code, stdout, stderr } = await job.finished();
    assertEquals(code, 0);
    assertEquals(stdout, "cpu\n");
    // (Before it, the first time on a machine, that the library is compiled.)
    assertStringIncludes(
      stderr,
      "atomloss: using the CPU: there is no NVIDIA driver\n",
    );
  },
});

Deno.test({
  name:
    "Device.open() says which GPUs there are when the ordinal does not exist",
  ignore: !hasGpu,
  async fn(): Promise<void> {
    const count = await Device.count("cuda");
    await assertRejects(
      () => Device.open("cuda:99"),
      DeviceError,
      `this machine has ${count} GPU`,
    );
  },
});
