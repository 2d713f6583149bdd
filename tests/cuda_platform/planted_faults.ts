/**
 * Whether the tests see faults: plants those of faults.ts in a copy of this
 * package, one at a time, and runs the test that has to fail. A fault of a
 * kernel is compiled, for the stand-in, into the sources that have it.
 *
 *     deno run -A tests/cuda_platform/planted_faults.ts [part of a name…]
 *
 * On one core, a minute the first time and then some ten seconds a fault.
 */
import { type Fault, FAULTS } from "./faults.ts";
import { Workshop } from "./workshop.ts";

/** A test that hangs has seen the fault. */
const LIMIT_SECONDS = 240;

/** What the program of a test left. */
interface Outcome {
  readonly code: number;
  readonly output: string;
}

/** Runs the test of a fault in a package with a library. */
async function runTest(
  { test: [file, filter] }: Fault,
  folder: string,
  library: string,
): Promise<Outcome> {
  // Not what ends in "[cpu]"; Deno's expressions cannot look ahead.
  const pattern = `/${RegExp.escape(filter)}(.*([^u]\\]|[^\\]]))?$/`;
  const args = ["test", "-A", "--no-check", `--filter=${pattern}`];
  const { code, stdout, stderr } = await new Deno.Command("timeout", {
    args: [
      ...["-k", "5", `${LIMIT_SECONDS}`],
      ...[Deno.execPath(), ...args, `tests/${file}`],
    ],
    cwd: folder,
    env: {
      NO_COLOR: "1",
      ATOMLOSS_TEST_CUDA: "1",
      ATOMLOSS_LIBRARY_CUDA: library,
    },
    stdin: "null",
  }).output();
  const [out, err] = [stdout, stderr].map((b) => new TextDecoder().decode(b));
  return { code, output: out! + err! };
}

/** How a run shows that something is wrong; undefined: all is well. */
function complaint({ code, output }: Outcome): string | undefined {
  if (code === 0) return undefined;
  const told = /stand-in: (?!\d+ report|compiling).*/.exec(output) ??
    /^error: .*/m.exec(output);
  if (told !== null) return told[0].slice(0, 160);
  return code === 124 ? "hangs" : `ends with status ${code}`;
}

/** What is wrong with the test of a fault, without it. */
async function checkTest(
  fault: Fault,
  workshop: Workshop,
): Promise<string | undefined> {
  const outcome = await runTest(
    fault,
    workshop.folder,
    await workshop.library(),
  );
  if (/\| [1-9]\d* passed/.test(outcome.output)) return complaint(outcome);
  return `runs nothing that passes: ${complaint(outcome)}`;
}

if (import.meta.main) {
  const parts = Deno.args.length > 0 ? Deno.args : [""];
  const faults = FAULTS.filter(({ name }) =>
    parts.some((part) => name.includes(part))
  );
  using workshop = await Workshop.open();
  for (const fault of faults) await workshop.find(fault); // before the long part
  const checked = new Map<string, string | undefined>();
  let seen = 0;
  for (const fault of faults) {
    const test = fault.test.join(": ");
    if (!checked.has(test)) checked.set(test, await checkTest(fault, workshop));
    const without = checked.get(test);
    if (without !== undefined) {
      console.log(`NO VERDICT  ${fault.name}`);
      console.log(`            ${test} fails without it: ${without}`);
      continue;
    }
    const how = await workshop.withPlanted(
      fault,
      async (library) =>
        complaint(await runTest(fault, workshop.folder, library)),
    );
    if (how !== undefined) seen++;
    console.log(
      `${how === undefined ? "NOT SEEN" : "seen    "}    ${fault.name}`,
    );
    console.log(`            ${how ?? test}`);
  }
  console.log(`${seen} of ${faults.length} were seen`);
  if (seen < faults.length) Deno.exit(1);
}
