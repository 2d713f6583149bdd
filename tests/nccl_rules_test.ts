import { assertEquals, assertMatch } from "@std/assert";
import { standIn } from "./devices.ts";
import { ROOT, startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

Deno.test({
  name: "the stand-in keeps NCCL's rules [stand-in]",
  ignore: standIn === undefined,
  fn: () =>
    withFolder(async (folder) => {
      const { home } = standIn!;
      const program = `${folder}/nccl_rules`;
      const compiled = await startProgram("g++", [
        "-std=c++17",
        "-O1",
        `-I${home}/include`,
        `${ROOT}tests/fixtures/nccl_rules.cpp`,
        `-L${home}/lib64`,
        `-Wl,-rpath,${home}/lib64`,
        "-lnccl",
        "-lcudart",
        "-o",
        program,
      ]).finished();
      assertEquals(compiled.code, 0, compiled.stderr);
      const { code, stdout, stderr } = await startProgram(
        program,
        [],
        standIn!.environment({ GPUS: 2 }),
      ).finished();
      assertEquals(code, 0, stdout + stderr);
      assertMatch(stdout, /^\d{3,} checks, 0 failed$/m);
    }),
});
