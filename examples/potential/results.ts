/**
 * What a training run leaves behind: a table and files.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";
import type { Errors } from "./errors.ts";

/** A result cannot be written where it was asked for. */
export class ResultError extends AtomlossError {}

/** Prints the errors on each data set, or part of one, as a table. */
export function printErrors(
  all: readonly (readonly [set: string, errors: Errors])[],
): void {
  const hasStress = all.some(([, { labels }]) => labels.stress > 0);
  const table = [
    ["", "energy MAE", "force MAE", "force RMSE", "zero MAE", "force cosine"],
    ["", "meV/atom", "eV/Å", "eV/Å", "eV/Å", ""],
    ...all.map(([set, error]) => [
      set,
      text(1000 * error.energyMAE, 2),
      text(error.forceMAE, 4),
      text(error.forceRMSE, 4),
      text(error.baselineForceMAE, 4),
      text(error.forceCosine, 4),
    ]),
  ];
  if (hasStress) {
    table[0]!.push("stress MAE");
    table[1]!.push("meV/Å³");
    all.forEach(([, error], k) =>
      table[k + 2]!.push(text(1000 * error.stressMAE, 3))
    );
  }
  const width = Math.max(6, ...all.map(([set]) => set.length));
  for (const [set, ...cells] of table) {
    console.log(set!.padEnd(width), ...cells.map((cell) => cell.padStart(12)));
  }
}

/** A number of so many decimals; a dash where there is none. */
function text(value: number, decimals: number): string {
  return Number.isNaN(value) ? "–" : value.toFixed(decimals);
}

/**
 * Writes a file.
 *
 * @throws {ResultError} where it cannot be written.
 */
export async function writeResult(
  path: string,
  text: string,
  options: Deno.WriteFileOptions = {},
): Promise<void> {
  try {
    await Deno.writeTextFile(path, text, options);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ResultError(`${path}: cannot be written: ${reason}`);
  }
}
