/**
 * The atoms' lines of a structure. Most of a file is here, so numbers and
 * symbols are read from its bytes.
 *
 * @module
 */

import { type Column, type Columns, findColumn, widthOf } from "./columns.ts";
import { atomicNumber, SYMBOLS } from "./elements.ts";
import type { Lines } from "./lines.ts";
import { parseNumber, WordScanner } from "./numbers.ts";
import { quote } from "./quote.ts";

/** What the lines of the atoms say. */
export interface Atoms {
  /** Atomic number of each atom. */
  readonly numbers: Uint8Array<ArrayBuffer>;
  /** x, y, z of atom after atom, Å. */
  readonly positions: Float64Array<ArrayBuffer>;
  /** The chosen forces, eV/Å, where there is such a column. */
  readonly forces: Float64Array<ArrayBuffer> | undefined;
  /** Other columns of forces by name, NaN where a word is no number. */
  readonly others: readonly (readonly [string, Float64Array<ArrayBuffer>])[];
}

/** A word of no interest, a symbol, an atomic number; from 0 on, components. */
const SKIP = -3, SYMBOL = -2, ATOMIC_NUMBER = -1;
/** Atoms that memory is taken for at once, whatever their number is said to be. */
const MAX_CAPACITY = 1 << 16;

/** Reads the atoms of structures that have the same columns. */
export class AtomReader {
  /** Words that a line must have. */
  readonly #width: number;
  readonly #hasForces: boolean;
  /** Names of the other columns of forces. */
  readonly #others: readonly string[];
  /** What becomes of each word of a line: a component goes into this vector. */
  readonly #actions: Int32Array;
  /** Which of the three it is. */
  readonly #axes: Int32Array;
  readonly #scanner = new WordScanner();
  /** The symbol of the atom before, to know it again. */
  #symbol = new Uint8Array();
  #symbolNumber = 0;
  /** Of the structure that is read; its number of atoms may be told wrong, so they grow. */
  #numbers = new Uint8Array();
  readonly #vectors: Float64Array<ArrayBuffer>[];

  /**
   * Finds the columns to read.
   *
   * @param forcesKey The chosen column of forces.
   * @param otherKeys Columns to compare it with, where they can be.
   * @param fail Throws the error of the comment line.
   */
  constructor(
    columns: Columns,
    forcesKey: string | null,
    otherKeys: readonly string[],
    fail: (problem: string) => never,
  ) {
    const find = (
      names: readonly string[],
      types: string,
      count: number,
    ): Column | undefined => findColumn(columns, names, types, count, fail);
    const missing = (names: string): never =>
      fail(`Properties has no column ${names}`);
    const element = find(["Z", "numbers"], "IR", 1) ??
      find(["species", "symbols"], "S", 1) ?? missing("species or Z");
    const position = find(["pos", "positions"], "RI", 3) ?? missing("pos");
    const forces = forcesKey === null ? undefined : find([forcesKey], "RI", 3);
    const others = otherKeys.flatMap((key) => {
      const column = columns.get(key);
      return column?.count === 3 && "RI".includes(column.type) ? [column] : [];
    });
    const vectors = [
      position,
      ...forces === undefined ? [] : [forces],
      ...others,
    ];

    this.#width = widthOf(columns);
    this.#hasForces = forces !== undefined;
    this.#others = others.map(({ name }) => name);
    this.#vectors = vectors.map(() => new Float64Array());
    const ends = vectors.map(({ start }) => start + 3);
    this.#actions = new Int32Array(Math.max(element.start + 1, ...ends))
      .fill(SKIP);
    this.#actions[element.start] = element.type === "S"
      ? SYMBOL
      : ATOMIC_NUMBER;
    this.#axes = new Int32Array(this.#actions.length);
    vectors.forEach(({ start }, v) => {
      for (let k = 0; k < 3; k++) {
        this.#actions[start + k] = v;
        this.#axes[start + k] = k;
      }
    });
  }

  /**
   * Reads the lines of a structure's atoms.
   *
   * @param lines At the comment line; afterwards at the last atom's.
   * @param count How many atoms there are said to be.
   * @throws {ExtxyzError} where there are not, or a line says what it cannot.
   */
  async read(lines: Lines, count: number): Promise<Atoms> {
    const width = this.#width;
    this.#resize(Math.min(count, MAX_CAPACITY));
    for (let atom = 0; atom < count; atom++) {
      if (!(lines.take() || await lines.load())) {
        throw lines.error(`the file ends after ${atom} of ${count} atoms`);
      }
      if (atom === this.#numbers.length) {
        this.#resize(Math.min(count, 2 * atom));
      }
      const words = this.#add(lines, atom);
      if (words === width) continue;
      throw lines.error(
        words === 0
          ? `a blank line, expected atom ${atom + 1} of ${count}`
          : `atom ${
            atom + 1
          } of ${count} has ${words} columns, expected ${width}` +
            (words === 1 ? " (or the number of atoms is wrong)" : ""),
      );
    }
    const numbers = this.#numbers;
    const [positions, ...vectors] = this.#vectors;
    this.#numbers = new Uint8Array();
    this.#vectors.fill(new Float64Array());
    const forces = this.#hasForces ? vectors.shift() : undefined;
    return {
      numbers,
      positions: positions!,
      forces,
      others: this.#others.map((name, k) => [name, vectors[k]!]),
    };
  }

  /** Reads the current line; returns how many words it has, as far as they are needed. */
  #add(lines: Lines, atom: number): number {
    const scanner = this.#scanner;
    scanner.bytes = lines.bytes;
    scanner.at = lines.start;
    scanner.end = lines.end;
    const actions = this.#actions;
    let word = 0;
    for (; word < this.#width && scanner.next(); word++) {
      const action = word < actions.length ? actions[word]! : SKIP;
      if (action >= 0) {
        const vector = this.#vectors[action]!;
        const index = 3 * atom + this.#axes[word]!;
        if (!scanner.number(vector, index)) {
          vector[index] = this.#otherNumber(lines, action);
        }
        continue;
      }
      const start = scanner.at;
      scanner.skip();
      if (action === SYMBOL) {
        this.#numbers[atom] = this.#elementOf(lines, start, scanner.at);
      } else if (action === ATOMIC_NUMBER) {
        this.#numbers[atom] = numberedElement(lines, start, scanner.at);
      }
    }
    return word;
  }

  /** A number that is not of the usual ones. */
  #otherNumber(lines: Lines, vector: number): number {
    const start = this.#scanner.at;
    this.#scanner.skip();
    const word = lines.text(start, this.#scanner.at);
    const value = parseNumber(word);
    if (vector > Number(this.#hasForces)) return value ?? NaN;
    if (value === undefined || vector === 0 && !Number.isFinite(value)) {
      throw lines.error(
        vector === 0
          ? `a position is ${quote(word)}, expected a finite number`
          : `a force is ${quote(word)}, expected a number`,
      );
    }
    return value;
  }

  /** Makes room for so many atoms. */
  #resize(capacity: number): void {
    const numbers = new Uint8Array(capacity);
    numbers.set(this.#numbers);
    this.#numbers = numbers;
    this.#vectors.forEach((vector, v) => {
      const larger = new Float64Array(3 * capacity);
      larger.set(vector);
      this.#vectors[v] = larger;
    });
  }

  #elementOf(lines: Lines, start: number, end: number): number {
    const { bytes } = lines;
    const symbol = this.#symbol;
    let isSame = symbol.length === end - start;
    for (let k = 0; isSame && k < symbol.length; k++) {
      isSame = symbol[k] === bytes[start + k];
    }
    if (isSame) return this.#symbolNumber;
    const word = lines.text(start, end);
    const number = atomicNumber(word);
    if (number === 0) {
      const hint = /^\d+$/.test(word)
        ? " (or the number of atoms is wrong)"
        : "";
      throw lines.error(
        `no element is ${quote(word)}, expected one like Si${hint}`,
      );
    }
    this.#symbol = bytes.slice(start, end);
    this.#symbolNumber = number;
    return number;
  }
}

function numberedElement(lines: Lines, start: number, end: number): number {
  const word = lines.text(start, end);
  const number = parseNumber(word);
  if (number === undefined || !(number in SYMBOLS) || number === 0) {
    throw lines.error(
      `an atomic number is ${quote(word)}, expected a whole number from 1 to ` +
        `${SYMBOLS.length - 1}`,
    );
  }
  return number;
}
