/** What the stand-in for CUDA sees, and what it leaves alone: one fault of each kind. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { MSELoss, OutOfMemoryError } from "../mod.ts";
import { standIn, standInTest } from "./devices.ts";
import { type Finished, ROOT, startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

/** Builds fixtures/cuda_faults.cu as a user of nvcc would. */
async function compileFaults(folder: string): Promise<string> {
  const nvcc = `${standIn!.home}/bin/nvcc`;
  const program = `${folder}/cuda_faults`, object = `${program}.o`;
  const source = `${ROOT}tests/fixtures/cuda_faults.cu`;
  const rpath = ["-Xlinker", "-rpath", "-Xlinker", `${standIn!.home}/lib64`];
  for (
    const args of [
      ["-std=c++17", "-arch=sm_90", "-c", source, "-o", object],
      [object, "-o", program, ...rpath],
    ]
  ) {
    const { code, stderr } = await startProgram(nvcc, args).finished();
    assertEquals(code, 0, stderr);
  }
  return program;
}

/** A fault of cuda_faults.cu, and what is said of it. */
const FAULTS: Readonly<Record<string, string>> = {
  event_wait:
    "race: read by the kernel add_one, not ordered with the write by the kernel fill",
  barrier: "by the kernel pass_on as shared memory",
  fence:
    "race: read by the kernel sum_of_blocks, not ordered with the write by the kernel sum_of_blocks",
  first_write: "read of what nobody has written by the kernel add_one",
  bounds: "out of bounds: read by the kernel add_one",
  lifetime: "use after free: read by the kernel add_one",
  download: "race: ",
  device_memory_on_host: "the host follows an address of a GPU",
  handle: "a stream is destroyed that has been already, or never was",
};

Deno.test({
  name:
    "the stand-in reports a fault of each kind, and nothing else [stand-in]",
  ignore: standIn === undefined,
  fn: (t) =>
    withFolder(async (folder) => {
      const program = await compileFaults(folder);
      const run = (
        name: string,
        how: "faulty" | "right",
        settings: Record<string, number | string> = {},
      ): Promise<Finished> =>
        startProgram(program, [name, how], standIn!.environment(settings))
          .finished();
      for (const [name, words] of Object.entries(FAULTS)) {
        await t.step(name, async () => {
          for (const SEED of [1, 2, 3]) {
            const faulty = await run(name, "faulty", { SEED });
            assertEquals(faulty.code, 86, faulty.stderr);
            assertStringIncludes(faulty.stderr, words);
            const right = await run(name, "right", { SEED });
            assertEquals(right.code, 0, right.stdout + right.stderr);
            assertEquals(right.stderr, "");
          }
        });
      }
      for (
        const [settings, error] of [
          [{ FAIL: "cudaMalloc:1:2" }, "cudaErrorMemoryAllocation"],
          [{ FAIL: "cudaMemset:1:719" }, "cudaErrorLaunchFailure"],
          [{ FAIL: "kernel:1:700" }, "cudaErrorIllegalAddress"],
          [{ MEMORY: 100 }, "cudaErrorMemoryAllocation"],
          [{ CAPABILITY: 75 }, "cudaErrorNoKernelImageForDevice"],
          [{ GPUS: 0 }, "cudaErrorNoDevice"],
          [{ DRIVER_VERSION: 12000 }, "cudaErrorInsufficientDriver"],
        ] as [Record<string, number | string>, string][]
      ) {
        await t.step(JSON.stringify(settings), async () => {
          const { code, stdout, stderr } = await run(
            "first_write",
            "right",
            settings,
          );
          assertStringIncludes(stdout, error, stderr);
          assertEquals(code, 1);
        });
      }
      await t.step("a failure of another rank or call is none", async () => {
        const FAIL = "cudaMalloc:1:2@1,cudaMalloc:2:2";
        const { code, stdout } = await run("first_write", "right", { FAIL });
        assertEquals(code, 0, stdout);
      });
    }),
});

standInTest(
  "a call fails as often as a test asks for, and calls are counted",
  async (device, standIn) => {
    using pred = device.tensor(new Float32Array([1, 2, 4]), [3]);
    using target = device.tensor(new Float32Array([1, 1, 1]), [3]);
    const loss = new MSELoss();
    const values = async (): Promise<number[]> => {
      using value = loss.forward(pred, target);
      return [...await value.data()].map(Number);
    };
    assertEquals(await values(), [0, 1, 9]);
    const calls = await standIn.count(values);
    assertEquals(calls["cudaLaunchKernel"], 1);
    assertEquals(await standIn.count(() => {}), {});
    {
      using _ = standIn.failing("cudaLaunchKernel:2:2");
      await values();
      await assertRejects(values, OutOfMemoryError);
      assertEquals(await values(), [0, 1, 9]);
    }
    {
      using _ = standIn.failing("cudaLaunchKernel:1:2");
    }
    assertEquals(await values(), [0, 1, 9]);
  },
);

Deno.test({
  name:
    "a test that hangs fails, with what its streams and threads do [stand-in]",
  ignore: standIn === undefined,
  fn: async () => {
    const { code, stdout } = await startProgram(Deno.execPath(), [
      "run",
      "-A",
      "--no-check",
      `${ROOT}tests/cuda_platform/suite.ts`,
      "--limit",
      "20",
      "tests/fixtures/hanging_stream.ts",
    ]).finished();
    assertEquals(code, 1, stdout);
    for (
      const words of [
        "waits for ever [stand-in] ...",
        "a stream of cuda:0 runs cudaLaunchHostFunc, then a wait",
        "cudaDeviceSynchronize at ",
        "stand-in: FAILED | 0 passed | 1 failed | 0 ignored (seed 1)",
      ]
    ) assertStringIncludes(stdout, words);
  },
});
