/**
 * What a training run leaves behind: a table and files.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";
import type { Errors } from "./evaluate.ts";

/** A result cannot be written where it was asked for. */
export class ResultError extends AtomlossError {}

/** Prints the errors on each data set as a table. */
export function printErrors(errors: Readonly<Record<string, Errors>>): void {
  const rows = Object.entries(errors).map(([set, error]) => [
    set,
    (1000 * error.energyMAE).toFixed(2),
    error.forceMAE.toFixed(4),
    error.forceRMSE.toFixed(4),
    error.baselineForceMAE.toFixed(4),
    error.forceCosine.toFixed(4),
  ]);
  const table = [
    ["", "energy MAE", "force MAE", "force RMSE", "zero MAE", "force cosine"],
    ["", "meV/atom", "eV/Å", "eV/Å", "eV/Å", ""],
    ...rows,
  ];
  for (const [set, ...cells] of table) {
    console.log(set!.padEnd(6), ...cells.map((cell) => cell.padStart(12)));
  }
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
