/**
 * The numbers of a structure's energy, stress and virial.
 *
 * @module
 */

import { parseNumbers } from "./numbers.ts";
import { quote } from "./quote.ts";

/** Differences of a label below this part of it are rounding. */
const SAME = 1e-6;

/**
 * An energy in eV; NaN if it is not finite.
 *
 * @param fail Throws the error of the comment line.
 */
export function parseEnergy(
  key: string,
  value: string,
  fail: (problem: string) => never,
): number {
  const numbers = parseNumbers(value);
  if (numbers?.length !== 1) {
    fail(`${key} is ${quote(value)}, expected one number`);
  }
  return Number.isFinite(numbers![0]!) ? numbers![0]! : NaN;
}

/**
 * A stress or virial, of nine numbers or of six in Voigt's order, as xx yy zz
 * yz xz xy; all NaN if one is not finite. Of one that is not symmetric, the mean
 * with its transpose.
 *
 * @param fail Throws the error of the comment line.
 */
export function parseStress(
  key: string,
  value: string,
  fail: (problem: string) => never,
): Float64Array<ArrayBuffer> {
  const n = parseNumbers(value);
  if (n?.length !== 9 && n?.length !== 6) {
    fail(`${key} is ${quote(value)}, expected 9 numbers or 6`);
  }
  if (!n!.every(Number.isFinite)) return new Float64Array(6).fill(NaN);
  if (n!.length === 6) return Float64Array.from(n!);
  const [xx, xy, xz, yx, yy, yz, zx, zy, zz] = n as [
    ...[number, number, number],
    ...[number, number, number],
    ...[number, number, number],
  ];
  return Float64Array.of(
    xx,
    yy,
    zz,
    yz / 2 + zy / 2,
    xz / 2 + zx / 2,
    xy / 2 + yx / 2,
  );
}

/** The Frobenius norm of a symmetric 3×3 of which the six numbers are given. */
export function stressNorm(s: ArrayLike<number>): number {
  return Math.hypot(
    s[0]!,
    s[1]!,
    s[2]!,
    ...[s[3]!, s[4]!, s[5]!].map((x) => Math.SQRT2 * x),
  );
}

/**
 * Whether two labels that are finite have other values.
 *
 * @param norm Of all numbers of a label.
 */
export function differ(
  chosen: Float64Array,
  other: Float64Array,
  norm: (label: Float64Array) => number,
): boolean {
  if (chosen.length !== other.length) return false;
  const off = norm(chosen.map((x, k) => x - other[k]!));
  return off > SAME * norm(chosen);
}

/** √Σx². */
export function norm(label: Float64Array): number {
  let sum = 0;
  for (let k = 0; k < label.length; k++) sum += label[k]! * label[k]!;
  return Math.sqrt(sum);
}

/** Whether one of the numbers is missing. */
export function hasNaN(numbers: Float64Array): boolean {
  for (let k = 0; k < numbers.length; k++) {
    if (numbers[k] !== numbers[k]) return true;
  }
  return false;
}
