import { assertEquals, assertMatch } from "@std/assert";
import { ROOT, startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

/** Compiles a program of tests/cuda_emulation and runs it. */
async function runEmulated(name: string): Promise<void> {
  await withFolder(async (directory) => {
    const program = `${directory}/${name}`;
    const folder = `${ROOT}tests/cuda_emulation`;
    const compiled = await startProgram("g++", [
      "-std=c++17",
      "-O1",
      `-I${folder}`,
      `-I${ROOT}kernels`,
      `${folder}/${name}.cpp`,
      "-o",
      program,
    ]).finished();
    assertEquals(compiled.code, 0, compiled.stderr);
    const { code, stdout } = await startProgram(program, []).finished();
    assertEquals(code, 0, stdout);
    assertMatch(stdout, /^\d{3,} checks, 0 failed$/m);
  });
}

Deno.test("the CUDA kernels of the fused pass compute every loss, run on the host", () =>
  runEmulated("reduce_kernels_test"));

Deno.test("the CUDA kernels of Metrics sum every batch, run on the host", () =>
  runEmulated("metrics_kernels_test"));
