/** ATOMLOSS_LIBRARY_CPU: a library that somebody has built is used as it is, or refused. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { buildLibrary } from "../ffi/build.ts";
import { type Finished, ROOT, startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

/** Runs a fixture in a folder, with a file there for a library. */
function runWith(
  file: string,
  directory: string,
  fixture = "open_device.ts",
): Promise<Finished> {
  const script = `${ROOT}tests/fixtures/${fixture}`;
  const env = { ATOMLOSS_LIBRARY_CPU: file };
  return startProgram(
    Deno.execPath(),
    ["run", "-A", script, "cpu"],
    env,
    directory,
  ).finished();
}

/** Writes library.so, compiled from some C. */
async function compile(text: string, directory: string): Promise<void> {
  await Deno.writeTextFile(`${directory}/library.c`, text);
  const { success } = await new Deno.Command("g++", {
    args: "-shared -fPIC -x c library.c -o library.so".split(" "),
    cwd: directory,
  }).output();
  assert(success);
}

/** Asserts that it ended with a BuildError that says all this. */
function assertRefused(
  { code, stderr }: Finished,
  ...said: readonly string[]
): void {
  assertEquals(code, 1);
  for (const text of ["BuildError", ...said]) {
    assertStringIncludes(stderr, text);
  }
}

const ADVICE = "rebuild it, or unset ATOMLOSS_LIBRARY_CPU to have it built";

Deno.test("ATOMLOSS_LIBRARY_CPU is refused when it is not there", () =>
  withFolder(async (directory) =>
    assertRefused(
      await runWith(`${directory}/none.so`, directory),
      `ATOMLOSS_LIBRARY_CPU names ${directory}/none.so, which is not there`,
    )
  ));

Deno.test("ATOMLOSS_LIBRARY_CPU is refused when it is no library", () =>
  withFolder(async (directory) => {
    await Deno.writeTextFile(`${directory}/library.so`, "not a library");
    assertRefused(
      await runWith("./library.so", directory),
      "cannot load the native library",
      ADVICE,
    );
  }));

Deno.test("ATOMLOSS_LIBRARY_CPU is refused when it is some other library", () =>
  withFolder(async (directory) => {
    await compile("int some_function(void) { return 0; }", directory);
    assertRefused(
      await runWith("./library.so", directory),
      "cannot load the native library",
      "al_abi_version",
      ADVICE,
    );
  }));

Deno.test("ATOMLOSS_LIBRARY_CPU is refused when it has another ABI version", () =>
  withFolder(async (directory) => {
    await compile("int al_abi_version(void) { return 0; }", directory);
    assertRefused(
      await runWith("./library.so", directory),
      "has ABI version 0, this package needs",
      ADVICE,
    );
  }));

Deno.test("ATOMLOSS_LIBRARY_CPU is refused when it lacks functions", () =>
  withFolder(async (directory) => {
    const header = new URL("../kernels/atomloss.h", import.meta.url);
    const [, version] = /AL_ABI_VERSION (\d+)/
      .exec(await Deno.readTextFile(header))!;
    await compile(`int al_abi_version(void) { return ${version}; }`, directory);
    assertRefused(
      await runWith("./library.so", directory),
      "cannot load the native library",
      "undefined symbol: al_",
      ADVICE,
    );
  }));

Deno.test("defineLoss() adds to a prebuilt library, also by a relative name", () =>
  withFolder(async (directory) => {
    await Deno.copyFile(await buildLibrary("cpu"), `${directory}/library.so`);
    const done = await runWith("library.so", directory, "define_loss.ts");
    assertEquals(done.code, 0, done.stderr);
    assertEquals(done.stdout, "4.5\n");
    assert(!done.stderr.includes("compiling the cpu library"), done.stderr);
  }));

Deno.test("defineLoss() refuses a prebuilt library of other sources", () =>
  withFolder(async (directory) => {
    // The hash of its sources is the one thing that tells it from this
    // package's: what it would do to structs of another layout is undefined.
    const bytes = await Deno.readFile(await buildLibrary("cpu"));
    const text = new TextDecoder("latin1").decode(bytes);
    const hashes = [...text.matchAll(/(?<=atomloss sources )[0-9a-f]{64}/g)];
    assertEquals(hashes.length, 1);
    bytes[hashes[0]!.index]! ^= 1;
    await Deno.writeFile(`${directory}/library.so`, bytes);

    const opened = await runWith("./library.so", directory);
    assertEquals(opened.code, 0, opened.stderr);
    assertRefused(
      await runWith("./library.so", directory, "define_loss.ts"),
      "a loss cannot be added to",
      "built from other sources than those of this package",
      ADVICE,
    );
  }));
