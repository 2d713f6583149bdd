import { assertEquals, assertStringIncludes } from "@std/assert";
import type { Diagnosis } from "../doctor.ts";
import { type Finished, startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

/** Runs the doctor in a changed environment. */
function run(
  env: Record<string, string>,
  ...args: readonly string[]
): Promise<Finished> {
  return startProgram(
    Deno.execPath(),
    ["run", "--no-prompt", ...args],
    env,
  ).finished();
}

/** What it finds: every name with its state, and its text. */
async function diagnose(
  env: Record<string, string>,
  permissions = "-A",
): Promise<{ states: Record<string, string>; texts: Record<string, string> }> {
  const args = [permissions, "doctor.ts", "--json"];
  const { code, stdout, stderr } = await run(env, ...args);
  const diagnosis: Diagnosis = JSON.parse(stdout || stderr);
  assertEquals(code, diagnosis.ok ? 0 : 1);
  const list = (key: "state" | "text"): Record<string, string> =>
    Object.fromEntries(
      diagnosis.findings.map((finding) => [finding.name, finding[key]]),
    );
  return { states: list("state"), texts: list("text") };
}

Deno.test("doctor finds that training works here", async () => {
  const { states } = await diagnose({});
  for (const name of ["launcher", "compiler", "cache", "cpu", "cpu replicas"]) {
    assertEquals([name, states[name]], [name, "ok"]);
  }
  const { code, stdout } = await run({}, "-A", "doctor.ts");
  assertEquals(code, 0, stdout);
  assertStringIncludes(stdout, "\ntraining works here\n");
});

Deno.test("doctor names the compiler that is missing", async () => {
  const { states, texts } = await diagnose({
    CXX: "/no/such/g++",
    ATOMLOSS_LIBRARY_CPU: "",
  });
  // A note: a library that is prebuilt needs none.
  assertEquals([states.compiler, states["cpu library"]], ["note", "failed"]);
  assertStringIncludes(texts["cpu library"]!, "apt-get install g++");
  const { stdout } = await run({ CXX: "/no/such/g++" }, "-A", "doctor.ts");
  assertStringIncludes(stdout, "training would fail here: cpu library\n");
});

Deno.test("doctor names the permissions that are missing", async () => {
  const { states, texts } = await diagnose({}, "--no-config");
  assertStringIncludes(texts.permissions!, "--allow-ffi --allow-run");
  assertStringIncludes(texts.launcher!, "Requires env access");
  assertEquals(states["cpu library"], "failed");
});

Deno.test("doctor names a cache that cannot be used", async () => {
  const env = { ATOMLOSS_LIBRARY_CPU: "" };
  const none = await diagnose({ ...env, XDG_CACHE_HOME: "/proc/sys" });
  assertEquals(none.states.cache, "note");
  assertStringIncludes(
    none.texts["cpu library"]!,
    "name another folder in XDG_CACHE_HOME",
  );
  // A library in it that is none: a disk that was full.
  await withFolder(async (folder) => {
    const spoil = `${folder}/g++`;
    await Deno.writeTextFile(
      spoil,
      `#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done\n`,
      { mode: 0o755 },
    );
    const spoilt = await diagnose({
      ...env,
      CXX: spoil,
      XDG_CACHE_HOME: folder,
    });
    assertStringIncludes(
      spoilt.texts["cpu library"]!,
      "cannot load the native library",
    );
    assertStringIncludes(
      spoilt.texts["cpu library"]!,
      "delete it to have it built again",
    );
  });
});

Deno.test("doctor tells the place in the job, and what contradicts itself in it", async () => {
  const half = await diagnose({ WORLD_SIZE: "4", RANK: "" });
  assertEquals(half.states.launcher, "failed");
  const job = {
    RANK: "1",
    WORLD_SIZE: "4",
    MASTER_ADDR: "10.0.0.1",
    MASTER_PORT: "29501",
    ATOMLOSS_SECRET: "",
  };
  const open = await diagnose(job);
  assertEquals(open.states.launcher, "failed");
  assertStringIncludes(open.texts.launcher!, "set ATOMLOSS_SECRET");
  const { states, texts } = await diagnose({
    ...job,
    ATOMLOSS_SECRET: "do not print",
  });
  assertEquals([states.launcher, states["cpu replicas"]], ["ok", "ok"]);
  assertStringIncludes(
    texts.launcher!,
    "rank 1 of 4, rank 0 at 10.0.0.1 port 29501: RANK=1 WORLD_SIZE=4",
  );
  assertEquals(JSON.stringify(texts).includes("do not print"), false);
});
