/**
 * The cell of a structure and the directions in which it repeats, from `Lattice`
 * and `pbc`.
 *
 * @module
 */

import { type Comment, valueInAnyCase } from "./comment.ts";
import { listWords, parseNumbers } from "./numbers.ts";
import { quote } from "./quote.ts";

/** The cell of a structure. */
export interface Cell {
  /** Vectors a, b, c in Å, one after the other; nine zeros where there is none. */
  readonly lattice: Float64Array;
  /** Whether the structure repeats along a, b and c. */
  readonly periodic: readonly [boolean, boolean, boolean];
}

const FLAGS: Readonly<Record<string, boolean>> = {
  ...Object.fromEntries(
    ["T", "true", "True", "TRUE", "1"].map((f) => [f, true]),
  ),
  ...Object.fromEntries(
    ["F", "false", "False", "FALSE", "0"].map((f) => [f, false]),
  ),
};
/** Of vectors of length 1: an area or a volume below it is rounding. */
const MIN_VOLUME = 1e-8;

/**
 * Reads the cell.
 *
 * @param fail Throws the error of the comment line.
 */
export function parseCell(
  comment: Comment,
  fail: (problem: string) => never,
): Cell {
  const lattice = parseLattice(valueInAnyCase(comment, "Lattice"), fail);
  const hasLattice = lattice.some((x) => x !== 0);
  const periodic = parsePbc(valueInAnyCase(comment, "pbc"), fail) ??
    [hasLattice, hasLattice, hasLattice];
  if (!areIndependent(lattice, periodic)) {
    const which = ["a", "b", "c"].filter((_, axis) => periodic[axis]);
    fail(
      hasLattice
        ? `the vectors ${
          which.join(", ")
        } of the periodic directions are zero or linearly ` +
          `dependent in Lattice=${quote(lattice.join(" "))}`
        : `periodic along ${which.join(", ")}, expected a Lattice`,
    );
  }
  return { lattice, periodic };
}

/** |det| of three vectors. */
export function volumeOf(v: Float64Array): number {
  return Math.abs(
    v[0]! * (v[4]! * v[8]! - v[5]! * v[7]!) -
      v[1]! * (v[3]! * v[8]! - v[5]! * v[6]!) +
      v[2]! * (v[3]! * v[7]! - v[4]! * v[6]!),
  );
}

function parseLattice(
  value: string | undefined,
  fail: (problem: string) => never,
): Float64Array {
  if (value === undefined) return new Float64Array(9);
  const numbers = parseNumbers(value);
  if (numbers?.length !== 9 || !numbers.every(Number.isFinite)) {
    fail(`Lattice is ${quote(value)}, expected 9 finite numbers`);
  }
  return Float64Array.from(numbers!);
}

function parsePbc(
  value: string | undefined,
  fail: (problem: string) => never,
): readonly [boolean, boolean, boolean] | undefined {
  if (value === undefined) return undefined;
  const words = listWords(value);
  const flags = words.map((word) =>
    Object.hasOwn(FLAGS, word) ? FLAGS[word]! : undefined
  );
  const [a, b = a, c = a] = flags;
  if (
    (flags.length !== 3 && flags.length !== 1) || flags.includes(undefined)
  ) fail(`pbc is ${quote(value)}, expected one flag or three, T or F each`);
  return [a!, b!, c!];
}

/** Whether the vectors of the periodic directions are there and independent. */
function areIndependent(
  lattice: Float64Array,
  periodic: readonly boolean[],
): boolean {
  const unit: number[][] = [];
  for (let axis = 0; axis < 3; axis++) {
    if (!periodic[axis]) continue;
    const vector = [...lattice.subarray(3 * axis, 3 * axis + 3)];
    // Scaled first, so that the length of none overflows or vanishes.
    const largest = Math.max(...vector.map(Math.abs));
    if (largest === 0) return false;
    const scaled = vector.map((x) => x / largest);
    const length = Math.hypot(...scaled);
    unit.push(scaled.map((x) => x / length));
  }
  const [a, b, c] = unit;
  if (a === undefined || b === undefined) return true;
  const cross = [0, 1, 2].map((k) =>
    a[(k + 1) % 3]! * b[(k + 2) % 3]! - a[(k + 2) % 3]! * b[(k + 1) % 3]!
  );
  if (Math.hypot(...cross) < MIN_VOLUME) return false;
  return c === undefined ||
    Math.abs(cross.reduce((sum, x, k) => sum + x * c[k]!, 0)) >= MIN_VOLUME;
}
