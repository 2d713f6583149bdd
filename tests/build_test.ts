import { assertEquals, assertStringIncludes } from "@std/assert";
import { withFolder } from "./system.ts";

const ROOT = new URL("../", import.meta.url).pathname;

interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a script of the package with a cache of its own. */
async function run(
  args: readonly string[],
  env: Record<string, string>,
): Promise<Finished> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return {
    code,
    stdout: decoder.decode(stdout),
    stderr: decoder.decode(stderr),
  };
}

/** A folder, and a compiler in it that is g++ with other arguments. */
async function withCompiler(
  script: string,
  test: (directory: string, env: Record<string, string>) => Promise<void>,
): Promise<void> {
  await withFolder(async (directory) => {
    const compiler = `${directory}/compiler`;
    await Deno.writeTextFile(compiler, `#!/bin/sh\n${script}\n`, {
      mode: 0o755,
    });
    await test(directory, {
      CXX: compiler,
      XDG_CACHE_HOME: directory,
      ATOMLOSS_LIBRARY_CPU: "",
    });
  });
}

Deno.test("buildLibrary() names the package of a missing compiler", async () => {
  const { code, stderr } = await run(["ffi/build.ts", "cpu"], {
    CXX: "/no/such/compiler",
    ATOMLOSS_LIBRARY_CPU: "",
  });
  assertEquals(code, 1);
  assertStringIncludes(
    stderr,
    "BuildError: the C++ compiler '/no/such/compiler' is not there",
  );
  assertStringIncludes(stderr, "apt-get install g++");
});

for (
  const [header, name] of [["gloo/gone.h", "libgloo-dev"], [
    "gone/cblas.h",
    "libopenblas-dev",
  ]]
) {
  Deno.test(`buildLibrary() names ${name} when it is missing`, async () => {
    await withCompiler(
      `exec g++ -include ${header} "$@"`,
      async (directory, env) => {
        const { code, stderr } = await run(["ffi/build.ts", "cpu"], env);
        assertEquals(code, 1);
        assertStringIncludes(
          stderr,
          `install ${name} (Debian: apt-get install ${name})`,
        );
        // Nothing half-built is left.
        const left = [...Deno.readDirSync(`${directory}/atomloss`)].map((
          entry,
        ) => entry.name);
        assertEquals(left, ["build-cpu.lock"]);
      },
    );
  });
}

Deno.test("buildLibrary() says where the library could go instead of a folder that cannot be made", async () => {
  for (const folder of ["/etc/passwd", "/proc/sys"]) {
    const { code, stderr } = await run(["ffi/build.ts", "cpu"], {
      XDG_CACHE_HOME: folder,
      ATOMLOSS_LIBRARY_CPU: "",
    });
    assertEquals(code, 1);
    assertStringIncludes(stderr, "BuildError: there is no place to build");
    assertStringIncludes(stderr, "name another folder in XDG_CACHE_HOME");
  }
});

Deno.test("buildLibrary() compiles once when replicas start together, and not again", async () => {
  const script =
    `case "$*" in *-shared*-o*library.so*) echo compiled >> "$0.log";; esac\n` +
    `exec g++ "$@" -O0 -DATOMLOSS_TEST`;
  await withCompiler(script, async (_directory, env) => {
    const builds = await Promise.all(
      Array.from({ length: 4 }, () => run(["ffi/build.ts", "cpu"], env)),
    );
    for (const { code, stderr } of builds) assertEquals(code, 0, stderr);
    assertEquals(new Set(builds.map((b) => b.stdout)).size, 1);
    const again = await run(["ffi/build.ts", "cpu"], env);
    assertEquals(again.stdout, builds[0]!.stdout);
    assertEquals(again.stderr, "");
    assertEquals(await Deno.readTextFile(`${env.CXX}.log`), "compiled\n");

    // What has been built can be named, and then nothing is compiled.
    const prebuilt = await run(["tests/fixtures/open_device.ts", "cpu"], {
      ATOMLOSS_LIBRARY_CPU: again.stdout.trim(),
      CXX: "/no/such/compiler",
    });
    assertEquals(prebuilt.code, 0, prebuilt.stderr);
  });
});

Deno.test("buildLibrary() goes on where a process was killed that built", async () => {
  const script =
    `if [ -e "$XDG_CACHE_HOME/hang" ]; then case "$*" in *" -c "*) sleep 60;; esac; fi\n` +
    `exec g++ "$@" -O0 -DATOMLOSS_TEST`;
  await withCompiler(script, async (directory, env) => {
    const cache = `${directory}/atomloss`;
    await Deno.writeTextFile(`${directory}/hang`, "");
    const killed = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "ffi/build.ts", "cpu"],
      cwd: ROOT,
      env,
      stdout: "null",
      stderr: "null",
    }).spawn();
    const building = async (): Promise<number> =>
      (await Array.fromAsync(Deno.readDir(cache)).catch(() => []))
        .filter(({ name }) => name.startsWith("build-cpu-")).length;
    while (await building() === 0) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    killed.kill("SIGKILL");
    await killed.status;
    assertEquals(await building(), 1);

    // A check of a loss that somebody does now, and one that was killed long ago.
    await Deno.mkdir(`${cache}/check-now`);
    await Deno.mkdir(`${cache}/check-old`);
    const yesterday = Date.now() / 1e3 - 86_400;
    await Deno.utime(`${cache}/check-old`, yesterday, yesterday);

    await Deno.remove(`${directory}/hang`);
    const { code, stderr } = await run(["ffi/build.ts", "cpu"], env);
    assertEquals(code, 0, stderr);
    assertEquals(await building(), 0);
    const checks = Array.from(Deno.readDirSync(cache), ({ name }) => name)
      .filter((name) => name.startsWith("check-"));
    assertEquals(checks, ["check-now"]);
  });
});
