/**
 * Splits a command line into options and what stands beside them.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";

/** The command line names an unknown option, or a value that is not allowed. */
export class OptionError extends AtomlossError {}

/** What follows an option: nothing, one value, or all up to the next option. */
export type Follows = "nothing" | "value" | "values";

/** A command line, split. */
export interface Arguments {
  /** What followed each option that was given: of one given twice, the last value, or all values. */
  readonly options: ReadonlyMap<string, readonly string[]>;
  /** What belongs to no option. */
  readonly others: readonly string[];
}

/**
 * Splits a command line; `--name=value` is `--name value`.
 *
 * @param known The options by their names, without `--`.
 * @throws {OptionError} for an unknown option, or one without its value.
 */
export function parseArguments(
  args: readonly string[],
  known: Readonly<Record<string, Follows>>,
): Arguments {
  const options = new Map<string, string[]>();
  const others: string[] = [];
  for (let at = 0; at < args.length;) {
    const argument = args[at++]!;
    if (argument === "-h") {
      options.set("help", []);
      continue;
    }
    if (!argument.startsWith("-") || argument === "-") {
      others.push(argument);
      continue;
    }
    const [, name, , inline] = /^--([^=]*)(=([^]*))?$/.exec(argument) ?? [];
    const follows = name !== undefined && Object.hasOwn(known, name)
      ? known[name]!
      : undefined;
    if (follows === undefined) throw unknown(argument, Object.keys(known));
    const values = inline === undefined ? [] : [inline];
    if (inline === undefined && follows !== "nothing") {
      const most = follows === "value" ? 1 : Infinity;
      while (
        values.length < most && at < args.length && !args[at]!.startsWith("--")
      ) values.push(args[at++]!);
    }
    if (follows === "nothing" ? values.length > 0 : !values.every(Boolean)) {
      throw new OptionError(
        follows === "nothing"
          ? `--${name} takes no value`
          : `--${name} needs a value`,
      );
    }
    if (follows !== "nothing" && values.length === 0) {
      throw new OptionError(`--${name} needs a value`);
    }
    const before = follows === "values" ? options.get(name!) ?? [] : [];
    options.set(name!, [...before, ...values]);
  }
  return { options, others };
}

/** Which numbers an option takes. */
export interface NumberRange {
  /** Default: 0. */
  readonly from?: number;
  readonly to?: number;
  readonly integer?: boolean;
}

/**
 * The number that an option was given.
 *
 * @param fallback Without it.
 * @throws {OptionError} if it is none, or out of its range.
 */
export function readNumber(
  options: Arguments["options"],
  name: string,
  fallback: number,
  { from = 0, to = Infinity, integer = false }: NumberRange,
): number {
  const word = options.get(name)?.[0];
  const value = word === undefined ? fallback : Number(word);
  if (
    value >= from && value <= to && Number.isFinite(value) &&
    (!integer || Number.isSafeInteger(value))
  ) return value;
  throw new OptionError(
    `--${name} is "${word}", expected ${integer ? "an integer" : "a number"} ` +
      `from ${from}${to === Infinity ? "" : ` to ${to}`}`,
  );
}

/** The error of an argument that is none, with the option that it may mean. */
export function unknown(
  argument: string,
  names: readonly string[],
): OptionError {
  const name = argument.replace(/^-+/, "").replace(/=[^]*/, "");
  let closest: string | undefined;
  // A third of its letters may be wrong.
  let least = Math.max(1, Math.floor(name.length / 3)) + 1;
  for (const other of names) {
    const distance = editDistance(name, other);
    if (distance < least) [closest, least] = [other, distance];
  }
  return new OptionError(
    `unknown argument ${argument}` +
      (closest === undefined
        ? "; --help lists them"
        : `: did you mean --${closest}?`),
  );
}

/** How many letters have to be changed, added, left out or swapped. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      let least = Math.min(
        row[j - 1]! + 1,
        last[j]! + 1,
        last[j - 1]! + Number(a[i - 1] !== b[j - 1]),
      );
      if (a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] && i > 1 && j > 1) {
        least = Math.min(least, before[j - 2]! + 1);
      }
      row.push(least);
    }
    [before, last] = [last, row];
  }
  return last[b.length]!;
}
