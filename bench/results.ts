/** bench/RESULTS.md: one section per device, replaced by each run on it. */
import type { Device } from "../mod.ts";

const RESULTS = new URL("./RESULTS.md", import.meta.url);

/** First output line of a program, or undefined where it cannot be had. */
async function firstLine(
  program: string,
  args: string[],
): Promise<string | undefined> {
  try {
    const { stdout, success } = await new Deno.Command(program, {
      args,
      stderr: "null",
    }).output();
    return success
      ? new TextDecoder().decode(stdout).split("\n")[0]
      : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Date, hardware and versions of a run. */
export async function machine(
  device: Device,
  torch: string | undefined,
): Promise<string> {
  const model = /model name\s*: (.*)/.exec(
    await Deno.readTextFile("/proc/cpuinfo"),
  )?.[1];
  const gpu = device.type === "cuda"
    ? await firstLine("nvidia-smi", [
      "--query-gpu=name",
      "--format=csv,noheader",
    ])
    : undefined;
  const versions = Object.entries(device.versions).map(([name, version]) =>
    `${name} ${version}`
  );
  return [
    new Date().toISOString().slice(0, 10),
    ...(gpu === undefined ? [] : [gpu]),
    `${model}, ${navigator.hardwareConcurrency} cores`,
    `Deno ${Deno.version.deno}`,
    ...versions,
    `PyTorch ${torch ?? "not there"}`,
  ].join("; ") + ".";
}

/** Replaces, or appends, the section of this heading. */
export async function writeSection(
  heading: string,
  text: string,
): Promise<void> {
  const old = await Deno.readTextFile(RESULTS);
  const sections = old.split(/^(?=## )/m).filter((section) =>
    !section.startsWith(`## ${heading}\n`)
  );
  const [head, ...rest] = sections;
  const section = `## ${heading}\n\n${text}\n`;
  await Deno.writeTextFile(
    RESULTS,
    [head!.trimEnd(), section.trimEnd(), ...rest.map((s) => s.trimEnd())].join(
      "\n\n",
    ) + "\n",
  );
}
