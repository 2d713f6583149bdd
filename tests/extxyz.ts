/** What tests of the reader of extended XYZ need: files of a few lines. */
import { assertMatch, assertRejects } from "@std/assert";
import { ExtxyzError } from "../examples/extxyz/error.ts";
import type { KeyOptions, LabelKeys } from "../examples/extxyz/label_keys.ts";
import { ExtxyzFile } from "../examples/extxyz/read.ts";
import type { Structure } from "../examples/potential/structure.ts";

export interface Read {
  readonly structures: Structure[];
  readonly keys: LabelKeys;
  readonly warnings: readonly string[];
}

/** Reads a file that has these bytes. */
export async function read(
  content: string | Uint8Array,
  options: KeyOptions = {},
): Promise<Read> {
  const path = await Deno.makeTempFile({ suffix: ".xyz" });
  try {
    await Deno.writeFile(
      path,
      typeof content === "string" ? new TextEncoder().encode(content) : content,
    );
    const file = await ExtxyzFile.open(path, options);
    const structures = await Array.fromAsync(file.structures());
    return { structures, keys: file.keys, warnings: file.warnings };
  } finally {
    await Deno.remove(path);
  }
}

/** A file of one atom with this comment line. */
export function withComment(comment: string, ...atoms: string[]): string {
  const lines = atoms.length === 0 ? ["Si 0 0 0 1 2 3"] : atoms;
  return [lines.length, comment, ...lines, ""].join("\n");
}

/** The one structure of a file with this comment line, with a column of forces. */
export async function structureOf(
  comment: string,
  ...atoms: string[]
): Promise<Structure> {
  const { structures } = await read(withComment(comment, ...atoms));
  return structures[0]!;
}

/** Asserts that a file is refused, with its name and one of these lines. */
export async function assertRefused(
  content: string | Uint8Array,
  lines: number | readonly number[],
  problem: string,
  options: KeyOptions = {},
): Promise<void> {
  const { message } = await assertRejects(
    () => read(content, options),
    ExtxyzError,
    problem,
  );
  const allowed = [lines].flat().join("|");
  assertMatch(message, new RegExp(`\\.xyz:(${allowed}): `));
}
