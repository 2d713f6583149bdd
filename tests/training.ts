/** Runs examples/train_potential.ts, and reads what it leaves. */
import { assertEquals } from "@std/assert";
import { SYMBOLS } from "../examples/extxyz/elements.ts";
import type { Structure } from "../examples/potential/structure.ts";
import { ROOT } from "./launch_replicas.ts";

export const TRAINING_SCRIPT = "examples/train_potential.ts";

export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a script of the package with deno. */
export async function deno(...args: string[]): Promise<Outcome> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1", ATOMLOSS_SHARE_GPU: "1" },
  }).output();
  const [out, err] = [stdout, stderr].map((bytes) =>
    new TextDecoder().decode(bytes)
  );
  return { code, out: out!, err: err! };
}

/** Runs a script over so many replicas, and reads the JSON that it writes. */
export async function launch<T>(
  replicas: number,
  script: string,
  args: (path: string) => string[],
): Promise<T> {
  const path = await Deno.makeTempFile({ suffix: ".json" });
  try {
    const { code, err } = await deno(
      "launch.ts",
      "--nproc-per-node",
      String(replicas),
      script,
      ...args(path),
    );
    assertEquals(code, 0, err);
    return JSON.parse(await Deno.readTextFile(path));
  } finally {
    await Deno.remove(path);
  }
}

/** Largest difference, relative to the largest parameter. */
export function difference(a: readonly number[], b: readonly number[]): number {
  assertEquals(a.length, b.length);
  const scale = Math.max(...b.map(Math.abs));
  return Math.max(...a.map((x, k) => Math.abs(x - b[k]!))) / scale;
}

/** What `--report` writes. */
export interface TrainingReport {
  readonly worldSize: number;
  readonly backend: string;
  readonly dtype: string;
  readonly steps: number;
  readonly trainStructures: number;
  readonly trainAtoms: number;
  readonly testStructures: number;
  readonly testAtoms: number;
  readonly energyMAE: number;
  readonly forceMAE: number;
  readonly forceRMSE: number;
  readonly forceCosine: number;
  readonly baselineForceMAE: number;
  readonly stressMAE: number;
  readonly stressRMSE: number;
  readonly finalLoss: number;
  readonly secondsPerStep: number;
  readonly parameters: number[];
}

/** A structure as extended XYZ: without the labels that it does not have. */
export function toExtxyz(structure: Structure, comment = ""): string {
  const { numbers, lattice, periodic, positions, forces } = structure;
  const energy = Number.isNaN(structure.energy)
    ? ""
    : ` energy=${structure.energy}`;
  const stress = structure.stress.some(Number.isNaN)
    ? ""
    : ` stress="${structure.stress.join(" ")}"`;
  const type = structure.configType === undefined
    ? ""
    : ` config_type=${structure.configType}`;
  const head = `Lattice="${lattice.join(" ")}" ` +
    `pbc="${periodic.map((p) => p ? "T" : "F").join(" ")}" ` +
    `Properties=species:S:1:pos:R:3:forces:R:3`;
  const rows = Array.from(numbers, (z, i) =>
    [
      SYMBOLS[z],
      ...positions.subarray(3 * i, 3 * i + 3),
      ...forces.subarray(3 * i, 3 * i + 3),
    ].join(" "));
  return [
    numbers.length,
    `${head}${energy}${stress}${type} ${comment}`,
    ...rows,
    "",
  ].join("\n");
}
