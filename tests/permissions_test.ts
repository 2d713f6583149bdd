/** The commands of docs/permissions.md: they work as they stand there, and with no less. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { type Finished, ROOT, startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

const [quickstart, training, replicas] = commands(
  await Deno.readTextFile(`${ROOT}docs/permissions.md`),
);

/** The commands of a text, each in one line. */
function commands(text: string): string[] {
  return [...text.matchAll(/^```sh\n([^]*?)^```/gm)]
    .map(([, block]) => block!.replaceAll(/ \\\n */g, " "));
}

/** The same command with one permission less, for every permission that it has. */
function weakened(command: string): { without: string; command: string }[] {
  const words = command.split(" ");
  return words.flatMap((word, i) => {
    const [flag, list] = word.split("=") as [string, string?];
    // What this is for is there already: it has a test of its own.
    if (!flag.startsWith("--allow-") || flag === "--allow-write") return [];
    const items = list?.split(",") ?? [""];
    return items.map((item) => {
      const rest = items.filter((other) => other !== item).join(",");
      const weaker = rest === "" ? [] : [`${flag}=${rest}`];
      return {
        without: `${flag}=${item}`,
        command: words.toSpliced(i, 1, ...weaker).join(" "),
      };
    });
  });
}

/** Runs commands of this Deno with a home that has nothing in it yet. */
async function withHome(
  test: (bash: (command: string) => Promise<Finished>) => Promise<void>,
): Promise<void> {
  await withFolder(async (home) => {
    await Deno.mkdir(`${home}/bin`);
    await Deno.symlink(Deno.execPath(), `${home}/bin/deno`);
    const compiler = await new Deno.Command("which", { args: ["g++"] })
      .output();
    const path = new TextDecoder().decode(compiler.stdout).trim();
    // The same, in less time.
    await Deno.writeTextFile(
      `${home}/bin/g++`,
      `#!/bin/sh\nexec ${path} "$@" -O0\n`,
      { mode: 0o755 },
    );
    const { stdout } = await startProgram(Deno.execPath(), ["info", "--json"])
      .finished();
    const env = {
      ATOMLOSS_LIBRARY_CPU: "",
      CXX: "",
      DENO_DIR: JSON.parse(stdout).denoDir,
      HOME: home,
      LD_LIBRARY_PATH: "",
      PATH: `${home}/bin:${Deno.env.get("PATH")}`,
      XDG_CACHE_HOME: "",
    };
    await test((command) =>
      startProgram("bash", ["-c", command], env).finished()
    );
  });
}

Deno.test("the commands of docs/permissions.md work, and none with less", async (t) => {
  await withHome(async (bash) => {
    await t.step("--allow-write is for building", async () => {
      const readOnly = quickstart!.replace(/--allow-write=\S+/, "");
      const { code, stderr } = await bash(readOnly);
      assertEquals(code, 1);
      assertMatch(stderr, /NotCapable: Requires write access/);

      const built = await bash(quickstart!);
      assertEquals(built.code, 0, built.stderr);
      // "auto" can tell.
      assertMatch(built.stderr, /using the CPU: there is no NVIDIA driver/);
      assertEquals((await bash(readOnly)).code, 0);
    });
    for (
      const [name, command] of Object.entries({
        quickstart: quickstart!,
        training: training!,
        replicas: replicas!,
      })
    ) {
      await t.step(name, async (t) => {
        const { code, stderr } = await bash(command);
        assertEquals(code, 0, stderr);
        for (const { without, command: weaker } of weakened(command)) {
          await t.step(`not without ${without}`, async () => {
            const { code, stderr } = await bash(weaker);
            assert(code !== 0);
            assertMatch(
              stderr,
              /Requires \w+ access to|Requires ffi access|requires --allow-run/,
            );
          });
        }
      });
    }
  });
});
