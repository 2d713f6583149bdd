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

/** A program named nvcc in a folder. */
async function writeNvcc(folder: string, script: string): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(`${folder}/nvcc`, `#!/bin/sh\n${script}\n`, {
    mode: 0o755,
  });
}

/** A toolkit that answers like nvcc and has nothing else. */
async function withBareToolkit(
  test: (home: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (home) => {
    await writeNvcc(`${home}/bin`, "echo nvcc");
    await test(home);
  });
}

/** Empty files, with their folders. */
async function touch(...paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(path, "");
  }
}

const hasToolkit = await Deno.stat("/usr/local/cuda/bin/nvcc").then(
  () => true,
  () => false,
);

Deno.test({
  name: "cudaRecipe() says that nvcc is missing",
  ignore: hasToolkit, // it is found without any variable
  async fn(): Promise<void> {
    const said = await build({ CUDA_HOME: "" });
    assertStringIncludes(
      said,
      "BuildError: the CUDA compiler nvcc is not there: install the CUDA toolkit",
    );
    assertStringIncludes(said, "CUDA_HOME");
  },
});

Deno.test("cudaRecipe() does not take another toolkit than the one that is named", async () => {
  for (const variable of ["CUDA_HOME", "CUDA_PATH"]) {
    const said = await build({
      CUDA_HOME: "",
      [variable]: "/no/such/toolkit",
    });
    assertStringIncludes(
      said,
      `BuildError: ${variable} names /no/such/toolkit, and there is no /no/such/toolkit/bin/nvcc that runs`,
    );
  }
});

Deno.test("cudaRecipe() takes the nvcc on PATH before that of /usr/local/cuda, with the libraries of its own toolkit", () =>
  withFolder(async (folder) => {
    // As conda has it: the program is a script elsewhere, the libraries are in
    // targets/ and lib/. What it compiles tells which folders it was given.
    const home = `${folder}/real`;
    const log = `${folder}/log`;
    await touch(
      `${home}/targets/x86_64-linux/include/cuda_runtime.h`,
      `${home}/targets/x86_64-linux/lib/libcudart.so.12`,
      `${home}/include/cublas_v2.h`,
      `${home}/lib/libcublas.so.11`,
      `${home}/lib/libcublas.so.12`,
      `${home}/include/nccl.h`,
      `${home}/lib/libnccl.so.2`,
    );
    await writeNvcc(
      `${folder}/bin`,
      `case "$*" in
        --version) echo release 12.4 ;;
        --dryrun*) echo '#$ TOP=${home}' >&2 ;;
        *-shared*) echo "$@" > ${log}; cat folders.rsp >> ${log}; exit 1 ;;
        *-c*) while [ $# -gt 1 ]; do shift; done; touch "$1" ;;
      esac`,
    );
    await build({
      CUDA_HOME: "",
      CUDA_PATH: "",
      NCCL_HOME: "",
      CUBLAS_HOME: "",
      PATH: `${folder}/bin:${Deno.env.get("PATH")}`,
      XDG_CACHE_HOME: `${folder}/cache`,
    });
    const linked = await Deno.readTextFile(log);
    assertStringIncludes(linked, "-l:libnccl.so.2 -l:libcublas.so.12\n");
    for (const lib of ["lib", "targets/x86_64-linux/lib"]) {
      assertStringIncludes(linked, `"-L${home}/${lib}"\n`);
      assertStringIncludes(linked, `-Xlinker "-rpath=${home}/${lib}"\n`);
    }
    assertStringIncludes(linked, `"-I${home}/include"\n`);
  }));

Deno.test("cudaRecipe() says that NCCL is missing", () =>
  withBareToolkit(async (home) => {
    const said = await build({ CUDA_HOME: home, NCCL_HOME: home });
    assertStringIncludes(said, "BuildError: NCCL is not there (nccl.h");
    assertStringIncludes(said, "libnccl-dev");
  }));

Deno.test("cudaRecipe() says that cuBLAS is missing", () =>
  withBareToolkit(async (home) => {
    const nccl = `${home}/nccl`;
    await touch(`${nccl}/include/nccl.h`, `${nccl}/lib/libnccl.so.2`);
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
