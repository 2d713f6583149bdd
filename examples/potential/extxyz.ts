/**
 * Reads extended-XYZ files, as ASE writes them: structure after structure, each
 * a line with the number of atoms, a line of `key=value` pairs, and one line
 * per atom with the columns that `Properties` names.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";
import type { Structure } from "./structure.ts";

/** An extended-XYZ file is not what it should be; the message has file and line. */
export class ExtxyzError extends AtomlossError {}

const KEY_VALUE =
  /\s*([^\s="']+)(?:=(?:"([^"]*)"|'([^']*)'|\{([^}]*)\}|([^\s"']+)))?(?=\s|$)/y;
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;
const COUNT = /^\d+$/;

/**
 * Reads all structures of a file.
 *
 * @throws {ExtxyzError} where the file cannot be read or breaks the format.
 */
export async function readExtxyz(path: string): Promise<Structure[]> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ExtxyzError(`${path}: cannot be read: ${reason}`);
  }
  return parseExtxyz(text, path);
}

/**
 * Parses the text of an extended-XYZ file.
 *
 * @param text The whole file.
 * @param path Its name, for messages.
 * @throws {ExtxyzError} where the text breaks the format.
 */
export function parseExtxyz(text: string, path: string): Structure[] {
  const lines = text.trimEnd().split(/\r?\n/);
  if (lines.length === 1 && lines[0]!.trim() === "") {
    throw new ExtxyzError(`${path}: holds no structure`);
  }
  const structures: Structure[] = [];
  let line = 0;
  while (line < lines.length) {
    const structure = parseStructure(lines, line, path);
    structures.push(structure);
    line += 2 + structure.species.length;
  }
  return structures;
}

function parseStructure(
  lines: readonly string[],
  first: number,
  path: string,
): Structure {
  const fail = (line: number, problem: string): never => {
    throw new ExtxyzError(`${path}:${line + 1}: ${problem}`);
  };
  const number = (line: number, word: string | undefined, what: string) => {
    const value = NUMBER.test(word ?? "") ? Number(word) : NaN;
    if (!Number.isFinite(value)) {
      fail(line, `${what} is ${quote(word)}, expected a finite number`);
    }
    return value;
  };

  const head = lines[first]!.trim();
  if (!COUNT.test(head)) {
    fail(
      first,
      `expected a number of atoms, found ${quote(head)}` +
        (first > 0 ? " (or the structure before has a wrong one)" : ""),
    );
  }
  const atoms = Number(head);
  const rest = lines.length - first - 2;
  if (atoms < 1) fail(first, "a structure of 0 atoms");
  if (rest < 0) fail(first, "the file ends here, expected a comment line");
  if (atoms > rest) {
    fail(first, `expected ${head} atoms, but only ${rest} lines follow`);
  }

  const info = parseInfo(lines[first + 1]!);
  const has = (key: string): string =>
    info.get(key) ?? fail(first + 1, `no ${key} in the comment line`);

  const words = has("Lattice").trim().split(/\s+/);
  if (words.length !== 9) {
    fail(first + 1, `Lattice has ${words.length} numbers, expected 9`);
  }
  const lattice = Float64Array.from(
    words,
    (word) => number(first + 1, word, "a number of Lattice"),
  );
  const energy = number(first + 1, has("energy"), "energy");
  const pbc = (info.get("pbc") ?? "T T T").trim().split(/\s+/);
  if (
    pbc.length !== 3 || !pbc.every((flag) => /^([TF]|true|false)$/i.test(flag))
  ) {
    fail(first + 1, `pbc is ${quote(info.get("pbc"))}, expected like "T T T"`);
  }
  const [a, b, c] = pbc.map((flag) => /^t/i.test(flag));

  const columns = parseProperties(has("Properties"));
  const column = (name: string, type: string, count: number): number => {
    const found = columns?.get(name) ??
      fail(first + 1, `no column "${name}" in Properties=${has("Properties")}`);
    if (found.type !== type || found.count !== count) {
      fail(
        first + 1,
        `column "${name}" is ${found.type}:${found.count}, expected ${type}:${count}`,
      );
    }
    return found.start;
  };
  if (!columns) {
    fail(
      first + 1,
      `Properties is ${quote(info.get("Properties"))}, expected like ` +
        `species:S:1:pos:R:3:forces:R:3`,
    );
  }
  const speciesAt = column("species", "S", 1);
  const positionAt = column("pos", "R", 3);
  const forceAt = column("forces", "R", 3);
  const width = [...columns!.values()].reduce((sum, c) => sum + c.count, 0);

  const species: string[] = [];
  const positions = new Float64Array(3 * atoms);
  const forces = new Float64Array(3 * atoms);
  for (let i = 0; i < atoms; i++) {
    const line = first + 2 + i;
    const words = lines[line]!.trim().split(/\s+/);
    if (words.length !== width) {
      fail(
        line,
        `atom ${
          i + 1
        } of ${atoms} has ${words.length} columns, expected ${width}`,
      );
    }
    species.push(words[speciesAt]!);
    for (let k = 0; k < 3; k++) {
      positions[3 * i + k] = number(line, words[positionAt + k], "a position");
      forces[3 * i + k] = number(line, words[forceAt + k], "a force");
    }
  }
  return {
    source: `${path}:${first + 1}`,
    species,
    lattice,
    periodic: [a!, b!, c!],
    positions,
    energy,
    forces,
  };
}

/** The `key=value` pairs of a comment line; a value may be quoted; a bare key is "T". */
function parseInfo(comment: string): Map<string, string> {
  const info = new Map<string, string>();
  for (let at = 0; at < comment.length;) {
    KEY_VALUE.lastIndex = at;
    const match = KEY_VALUE.exec(comment);
    if (match) {
      const [whole, key, ...values] = match;
      info.set(key!, values.find((value) => value !== undefined) ?? "T");
      at += whole.length;
    } else {
      // Free text that is no pair: go on after it.
      const blank = comment.slice(at).search(/\S\s/);
      at = blank < 0 ? comment.length : at + blank + 1;
    }
  }
  return info;
}

interface Column {
  readonly type: string;
  readonly count: number;
  readonly start: number;
}

/** Columns by name from `name:type:count:…`, undefined where it is malformed. */
function parseProperties(text: string): Map<string, Column> | undefined {
  const words = text.split(":");
  const columns = new Map<string, Column>();
  let start = 0;
  for (let k = 0; k + 2 < words.length; k += 3) {
    const [name, type, count] = words.slice(k, k + 3) as [
      string,
      string,
      string,
    ];
    if (!/^[SRIL]$/.test(type) || !/^[1-9]\d{0,3}$/.test(count)) return;
    columns.set(name, { type, count: Number(count), start });
    start += Number(count);
  }
  return words.length % 3 === 0 ? columns : undefined;
}

function quote(text: string | undefined): string {
  if (text === undefined) return "missing";
  return JSON.stringify(text.length > 60 ? text.slice(0, 60) + "…" : text);
}
