/**
 * Files that the command line names, maybe by a pattern.
 *
 * @module
 */

import { globSync } from "node:fs";
import { OptionError } from "./arguments.ts";

/**
 * The files of some names and patterns, each once, those of a pattern in
 * alphabetical order. A name that is there is no pattern.
 *
 * @throws {OptionError} for a pattern that no file fits.
 */
export async function findFiles(names: readonly string[]): Promise<string[]> {
  const found = new Set<string>();
  for (const name of names) {
    const isPattern = /[*?[{]/.test(name) &&
      !(await Deno.stat(name).then(() => true, () => false));
    const files = isPattern ? globSync(name).sort() : [name];
    if (files.length === 0) throw new OptionError(`no file is named ${name}`);
    for (const file of files) found.add(file);
  }
  return [...found];
}
