/**
 * Whether the tests see faults: plants those of faults.ts in a copy of this
 * package, one at a time, builds the CUDA library on the stand-in and runs the
 * tests of which one has to fail. Takes about a minute a fault.
 *
 *     deno run -A tests/cuda_platform/planted_faults.ts [words of a name…]
 */
import { type Fault, FAULTS } from "./faults.ts";
import { buildToolkit, environmentOf } from "./toolkit.ts";

const ROOT = new URL("../../", import.meta.url).pathname;

/** A test that hangs has seen the fault. */
const LIMIT_SECONDS = 240;

/** What a program left. */
interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly output: string;
}

async function deno(
  folder: string,
  args: readonly string[],
  env: Record<string, string>,
): Promise<Outcome> {
  const { code, stdout, stderr } = await new Deno.Command("timeout", {
    args: ["-k", "5", `${LIMIT_SECONDS}`, Deno.execPath(), ...args],
    cwd: folder,
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
  }).output();
  const [out, err] = [stdout, stderr].map((b) => new TextDecoder().decode(b));
  return { code, stdout: out!, output: out! + err! };
}

/** Copies what the library is built from and by. */
async function copySources(to: string): Promise<void> {
  const names = ["deno.json", "deno.lock", "errors.ts", "ffi", "kernels"];
  const { success } = await new Deno.Command("cp", {
    args: ["-r", ...names.map((name) => ROOT + name), to],
  }).output();
  if (!success) throw new Error(`cannot copy ${ROOT} to ${to}`);
}

/** Changes the text of a file that must be there exactly once. */
async function plant(folder: string, fault: Fault): Promise<void> {
  const path = `${folder}/kernels/${fault.file}`;
  const parts = (await Deno.readTextFile(path)).split(fault.text);
  if (parts.length !== 2) {
    throw new Error(
      `fault '${fault.name}': its text is ${
        parts.length - 1
      } times in kernels/${fault.file}, expected once:\n${fault.text}`,
    );
  }
  await Deno.writeTextFile(path, parts.join(fault.becomes));
}

/** Builds the CUDA library of a package; returns its path. */
async function build(
  folder: string,
  env: Record<string, string>,
): Promise<string> {
  const args = ["run", "-A", "ffi/build.ts", "cuda"];
  const { code, stdout, output } = await deno(folder, args, env);
  if (code === 0) return stdout.trim();
  throw new Error(`the library cannot be built:\n${output}`);
}

/** Runs the tests of a fault with a library. */
function test(
  { test: [file, filter] }: Fault,
  library: string,
): Promise<Outcome> {
  const what = [`--filter=${filter}`, `tests/${file}`];
  return deno(ROOT, ["test", "-A", "--no-check", ...what], {
    ATOMLOSS_TEST_CUDA: "1",
    ATOMLOSS_LIBRARY_CUDA: library,
  });
}

/** How a run shows that something is wrong; undefined: all is well. */
function complaint({ code, output }: Outcome): string | undefined {
  if (code === 0) return undefined;
  const told = /stand-in: (?!\d+ report|compiling).*|^error: .*/m.exec(output);
  if (told !== null) return told[0].slice(0, 160);
  return code === 124 ? "hangs" : `ends with status ${code}`;
}

/** Plants a fault; returns how it was seen, or undefined. */
async function plantAndTest(
  fault: Fault,
  toolkit: Record<string, string>,
): Promise<string | undefined> {
  const folder = await Deno.makeTempDir();
  try {
    await copySources(folder);
    await plant(folder, fault);
    const env = { ...toolkit, XDG_CACHE_HOME: `${folder}/cache` };
    return complaint(await test(fault, await build(folder, env)));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** What is wrong with the tests that see a fault, without any; by the test. */
async function checkTests(
  faults: readonly Fault[],
  library: string,
): Promise<ReadonlyMap<string, string>> {
  const wrong = new Map<string, string>();
  const tests = new Map(faults.map((fault) => [fault.test.join(), fault]));
  for (const [name, fault] of tests) {
    const outcome = await test(fault, library);
    const what = /\| [1-9]\d* passed/.test(outcome.output)
      ? complaint(outcome)
      : `runs nothing that passes: ${complaint(outcome)}`;
    if (what !== undefined) wrong.set(name, what);
  }
  return wrong;
}

if (import.meta.main) {
  const toolkit = environmentOf(await buildToolkit());
  const faults = FAULTS.filter(({ name }) =>
    Deno.args.every((word) => name.includes(word))
  );
  const wrong = await checkTests(faults, await build(ROOT, toolkit));
  let seen = 0;
  for (const fault of faults) {
    const test = fault.test.join(": ");
    const without = wrong.get(fault.test.join());
    if (without !== undefined) {
      console.log(`NO VERDICT  ${fault.name}`);
      console.log(`            ${test} fails without it: ${without}`);
      continue;
    }
    const how = await plantAndTest(fault, toolkit);
    if (how !== undefined) seen++;
    console.log(
      `${how === undefined ? "NOT SEEN  " : "seen      "}  ${fault.name}`,
    );
    console.log(`            ${how ?? test}`);
  }
  console.log(`${seen} of ${faults.length} were seen`);
  if (seen < faults.length) Deno.exit(1);
}
