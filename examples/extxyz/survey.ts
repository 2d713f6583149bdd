/**
 * A first look at a file, at its comment lines alone: which labels it has has
 * to be known before the first structure is read.
 *
 * @module
 */

import { type Columns, parseColumns } from "./columns.ts";
import { type Comment, parseComment, valueInAnyCase } from "./comment.ts";
import { ExtxyzError } from "./error.ts";
import {
  keyLists,
  type KeyOptions,
  type LabelKeys,
  type LabelName,
} from "./label_keys.ts";
import { Lines } from "./lines.ts";
import { quote } from "./quote.ts";

/** What a first look finds. */
export interface Survey {
  /** The chosen keys. */
  readonly keys: LabelKeys;
  /** Keys that are in no list, but look as if they were of an energy. */
  readonly likeEnergy: readonly string[];
}

const LIKE_ENERGY = /energ|^e_|_e$|^e$|^etot|^toten/i;
const NO_LABEL = /weight|sigma|uncert|error|std|var/i;
/** More are no help. */
const MAX_LIKE_ENERGY = 5;

/**
 * Looks through a file.
 *
 * @throws {ExtxyzError} where it cannot be read, or has no structure with a key
 * that the options name.
 */
export async function survey(
  path: string,
  options: KeyOptions,
): Promise<Survey> {
  const lists = keyLists(options);
  const found = {
    energy: new Set<string>(),
    forces: new Set<string>(),
    stress: new Set<string>(),
    virial: new Set<string>(),
  };
  const likeEnergy = new Set<string>();
  let isWhole = true;
  // Of the last structure, and most others: the text, and what it says.
  let text: string | undefined;
  let columns: Columns | undefined;

  using lines = await Lines.open(path);
  try {
    for (let count; (count = await nextCount(lines)) !== undefined;) {
      const comment = await nextComment(lines);
      const properties = valueInAnyCase(comment, "Properties");
      if (columns === undefined || properties !== text) {
        columns = parseColumns(properties, (problem) => {
          throw lines.error(problem);
        });
        text = properties;
      }
      for (const name of Object.keys(found) as LabelName[]) {
        const where = name === "forces" ? columns : comment.pairs;
        for (const key of lists[name]) {
          if (where.has(key)) found[name].add(key);
        }
      }
      for (const key of comment.pairs.keys()) {
        if (
          LIKE_ENERGY.test(key) && !NO_LABEL.test(key) &&
          likeEnergy.size < MAX_LIKE_ENERGY
        ) likeEnergy.add(key);
      }
      for (let atom = 0; atom < count; atom++) {
        if (!(lines.take() || await lines.load())) break;
      }
    }
  } catch (error) {
    // Who reads the file comes to this error, or to one that is before it.
    if (!(error instanceof ExtxyzError)) throw error;
    isWhole = false;
  }

  const choose = (name: LabelName, option?: string): string | null => {
    const key = lists[name].find((one) => found[name].has(one));
    if (key === undefined && option !== undefined && isWhole) {
      const where = name === "forces" ? "column" : "key";
      throw new ExtxyzError(`${path}: no structure has the ${where} ${option}`);
    }
    return key ?? null;
  };
  return {
    keys: {
      energy: choose("energy", options.energyKey),
      forces: choose("forces", options.forcesKey),
      stress: choose("stress", options.stressKey),
      virial: choose("virial"),
    },
    likeEnergy: [...likeEnergy],
  };
}

/**
 * Goes to the next structure's number of atoms, over blank lines; undefined
 * after the last structure.
 *
 * @throws {ExtxyzError} where something else is there.
 */
export async function nextCount(lines: Lines): Promise<number | undefined> {
  do {
    if (!(lines.take() || await lines.load())) return undefined;
  } while (lines.isBlank());
  const text = lines.text().replaceAll(/^[ \t]+|[ \t]+$/g, "");
  if (!/^\d+$/.test(text)) {
    throw lines.error(
      `expected a number of atoms, found ${quote(text)}` +
        (lines.number > 1 ? " (or the structure before has a wrong one)" : ""),
    );
  }
  const count = Number(text);
  if (count === 0) throw lines.error("a structure of 0 atoms");
  return count;
}

/**
 * Goes to the comment line and reads it.
 *
 * @throws {ExtxyzError} where the file ends before it.
 */
export async function nextComment(lines: Lines): Promise<Comment> {
  if (lines.take() || await lines.load()) return parseComment(lines.text());
  throw lines.error("the file ends here, expected a comment line");
}
