/**
 * Every test named [cuda] or [stand-in], on the stand-in, with its race
 * detection. Each file in a process of its own, which has the stand-in to itself,
 * as many at a time as there are processors. Does nothing where there is a GPU:
 * `deno task test` runs the tests named [cuda] on that.
 *
 *     deno run -A tests/cuda_platform/suite.ts [--seeds 1-20] [--limit 300] [FILE…]
 *
 * A test that takes longer than the limit, in seconds, hangs: what its processes
 * wait for is printed, and they are ended.
 */
import { parseArgs } from "@std/cli/parse-args";
import { buildLibrary } from "../../ffi/build.ts";
import { whyNoGpu } from "../../ffi/nvidia_driver.ts";
import { buildToolkit, environmentOf } from "./toolkit.ts";

const ROOT = new URL("../../", import.meta.url).pathname;

/** What processes are given to write what they wait for. */
const REPORT_SECONDS = 5;

/** The end of a run of tests. */
interface Outcome {
  readonly passed: number;
  readonly failed: number;
  readonly ignored: number;
}

/** What a file of tests on more than the CPU takes from devices.ts. */
const ON_DEVICES =
  /import \{[^}]*\b(testOnDevices|standInTest|hasCuda|standIn)\b[^}]*\} from "\.\/devices\.ts"/;

/** All files that test on more than the CPU. */
async function filesOfDevices(): Promise<string[]> {
  const files: string[] = [];
  for await (const { name } of Deno.readDir(`${ROOT}tests`)) {
    const file = `tests/${name}`;
    if (
      name.endsWith("_test.ts") &&
      ON_DEVICES.test(await Deno.readTextFile(ROOT + file))
    ) files.push(file);
  }
  return files.sort();
}

/** Processes that are under way: each the first of a group of its own. */
const running = new Set<number>();

function signal(group: number, name: Deno.Signal): void {
  try {
    Deno.kill(-group, name);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error; // it has ended
  }
}

/** What the processes of a group wait for (cudart/states.cpp). */
async function endWithReport(group: number, folder: string): Promise<string> {
  signal(group, "SIGUSR2");
  await new Promise((resolve) => setTimeout(resolve, REPORT_SECONDS * 1000));
  signal(group, "SIGKILL");
  const files = await Array.fromAsync(Deno.readDir(folder));
  const reports = files.map(({ name }) =>
    Deno.readTextFile(`${folder}/${name}`)
  );
  return (await Promise.all(reports)).join("\n");
}

/** How and with what files are run. */
interface Settings {
  readonly env: Record<string, string>;
  /** The longest that a test may take, in seconds. */
  readonly limit: number;
}

/** What Deno says while a test takes its time. */
const IMPATIENCE = /has been running for over/;

/** Runs tests to their end, or until one takes too long: each says when it ends. */
async function run(
  args: readonly string[],
  { env, limit }: Settings,
): Promise<{ code: number; output: string }> {
  const folder = await Deno.makeTempDir();
  const process = new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: ROOT,
    env: { ...env, NO_COLOR: "1", CUDA_PLATFORM_STATES: folder },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    detached: true,
  }).spawn();
  running.add(process.pid);
  let output = "", ending: Promise<string> | undefined;
  const hangs = (): void => {
    ending = endWithReport(process.pid, folder);
  };
  let timer = setTimeout(hangs, limit * 1000);
  const read = async (stream: ReadableStream<Uint8Array>): Promise<void> => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      output += text;
      if (ending !== undefined || IMPATIENCE.test(text)) continue;
      clearTimeout(timer);
      timer = setTimeout(hangs, limit * 1000);
    }
  };
  await Promise.all([read(process.stdout), read(process.stderr)]);
  const { code } = await process.status;
  clearTimeout(timer);
  running.delete(process.pid);
  if (ending !== undefined) {
    output += `\nhangs: longer than ${limit} s\n${await ending}`;
  }
  await Deno.remove(folder, { recursive: true });
  return { code, output };
}

async function testFile(
  file: string,
  settings: Settings,
): Promise<Outcome> {
  const start = performance.now();
  const { code, output } = await run([
    "test",
    "-A",
    "--no-check",
    "--filter",
    String.raw`/\[(cuda|stand-in)\]/`,
    file,
  ], settings);
  const summary = output.match(/^(?:ok|FAILED) \| .*/gm)?.at(-1) ?? "";
  const count = (what: keyof Outcome): number =>
    Number(new RegExp(`(\\d+) ${what}`).exec(summary)?.[1] ?? 0);
  const failed = count("failed");
  const outcome = {
    passed: count("passed"),
    // A process that ends before it can count, or badly in spite of its tests.
    failed: code !== 0 && failed === 0 ? 1 : failed,
    ignored: count("ignored"),
  };
  if (outcome.failed > 0) console.log(output.replaceAll(/^/gm, "  "));
  const seconds = ((performance.now() - start) / 1000).toFixed(0);
  console.log(`stand-in: ${file}: ${describe(outcome)} (${seconds} s)`);
  return outcome;
}

function describe({ passed, failed, ignored }: Outcome): string {
  return `${
    failed > 0 ? "FAILED" : "ok"
  } | ${passed} passed | ${failed} failed | ${ignored} ignored`;
}

/** Runs files, some at a time. */
async function testFiles(
  files: readonly string[],
  settings: Settings,
): Promise<Outcome> {
  const outcomes: Outcome[] = [];
  const queue = files.values();
  await Promise.all(
    Array.from({ length: navigator.hardwareConcurrency }, async () => {
      // The iterator is the same for all of them.
      for (const file of queue) outcomes.push(await testFile(file, settings));
    }),
  );
  const sum = (of: keyof Outcome): number =>
    outcomes.reduce((total, outcome) => total + outcome[of], 0);
  return {
    passed: sum("passed"),
    failed: sum("failed"),
    ignored: sum("ignored"),
  };
}

/** Builds what the files would otherwise wait for; returns their environment. */
async function prepare(): Promise<Record<string, string>> {
  const toolkit = environmentOf(await buildToolkit());
  for (const [name, value] of Object.entries(toolkit)) {
    Deno.env.set(name, value);
  }
  await buildLibrary("cuda");
  return { ...toolkit, ATOMLOSS_TEST_CUDA: "1" };
}

function wrongOption(message: string): never {
  console.error(message);
  Deno.exit(2);
}

/** "3" or "1-20": the first and the last. */
function parseSeeds(text: string): [number, number] {
  const match = /^(\d+)(?:-(\d+))?$/.exec(text) ??
    wrongOption(`--seeds is '${text}', expected 3 or 1-20`);
  return [Number(match[1]), Number(match[2] ?? match[1])];
}

if (import.meta.main) {
  const options = parseArgs(Deno.args, {
    string: ["seeds", "limit", "_"],
    default: { seeds: "1", limit: "300" },
    unknown: (name: string, key?: string): boolean => {
      if (key === undefined) return true;
      wrongOption(`${name}: expected --seeds, --limit or files`);
    },
  });
  const [first, last] = parseSeeds(options.seeds);
  const limit = Number(options.limit);
  if (!(limit > 0)) wrongOption(`--limit is '${options.limit}'`);
  if (await whyNoGpu() === undefined) {
    console.log(
      "there is a GPU: what is named [cuda] runs on it, in the tests",
    );
    Deno.exit();
  }
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    Deno.addSignalListener(name, () => {
      for (const group of running) signal(group, "SIGKILL");
      Deno.exit(1);
    });
  }
  const named = options._ as string[];
  const files = named.length > 0 ? named : await filesOfDevices();
  const env = await prepare();
  let failed = false;
  for (let seed = first; seed <= last; seed++) {
    const outcome = await testFiles(
      files,
      { limit, env: { ...env, CUDA_PLATFORM_SEED: `${seed}` } },
    );
    console.log(`stand-in: ${describe(outcome)} (seed ${seed})`);
    if (outcome.failed > 0 || outcome.passed === 0) failed = true;
  }
  Deno.exit(failed ? 1 : 0);
}
