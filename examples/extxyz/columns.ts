/**
 * The columns of the atoms' lines, by the names that `Properties` gives them.
 *
 * @module
 */

import { quote } from "./quote.ts";

/** One or more columns that belong together. */
export interface Column {
  readonly name: string;
  /** `R` real, `I` integer, `S` string, `L` logical. */
  readonly type: string;
  readonly count: number;
  /** Which word of a line the first of them is, from 0. */
  readonly start: number;
}

/** The columns of a structure by name. */
export type Columns = ReadonlyMap<string, Column>;

const DEFAULT = "species:S:1:pos:R:3";

/**
 * Reads `Properties`.
 *
 * @param text Its value, where there is one.
 * @param fail Throws the error of the comment line.
 */
export function parseColumns(
  text = DEFAULT,
  fail: (problem: string) => never,
): Columns {
  const words = text.replaceAll(/^[ \t]+|[ \t]+$/g, "").split(":");
  const columns = new Map<string, Column>();
  let start = 0;
  for (let k = 0; k < words.length; k += 3) {
    const [name = "", type = "", count = ""] = words.slice(k, k + 3);
    if (
      name === "" || !/^[RISL]$/i.test(type) || !/^0*[1-9]\d*$/.test(count)
    ) {
      fail(
        `Properties is ${quote(text)}, expected name:type:count:… with types ` +
          `R, I, S, L, like ${DEFAULT}`,
      );
    }
    if (columns.has(name)) {
      fail(`Properties has the column ${quote(name)} twice`);
    }
    columns.set(name, {
      name,
      type: type.toUpperCase(),
      count: Number(count),
      start,
    });
    start += Number(count);
  }
  return columns;
}

/** How many words a line needs. */
export function widthOf(columns: Columns): number {
  let width = 0;
  for (const { count } of columns.values()) width += count;
  return width;
}

/**
 * The column with one of these names, the earlier rather than the later.
 *
 * @param types Of which it may be.
 * @param fail Throws the error of the comment line where it is of another.
 */
export function findColumn(
  columns: Columns,
  names: readonly string[],
  types: string,
  count: number,
  fail: (problem: string) => never,
): Column | undefined {
  const name = names.find((one) => columns.has(one));
  if (name === undefined) return undefined;
  const column = columns.get(name)!;
  if (!types.includes(column.type) || column.count !== count) {
    fail(
      `column ${name} is ${column.type}:${column.count}, expected ` +
        [...types].map((type) => `${type}:${count}`).join(" or "),
    );
  }
  return column;
}
