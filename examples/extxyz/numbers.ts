/**
 * Numbers as people write them: with Fortran's exponents and without a digit
 * on one side of the point, but nothing that only looks like a number.
 *
 * @module
 */

const DECIMAL = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?$/;
const NOT_FINITE = /^([+-]?)(?:nan|(inf(?:inity)?))$/i;

/** The number of a word, maybe not a finite one; undefined where it is none. */
export function parseNumber(word: string): number | undefined {
  if (DECIMAL.test(word)) return Number(word.replace(/[dD]/, "e"));
  const match = NOT_FINITE.exec(word);
  if (match === null) return undefined;
  const [, sign, infinity] = match;
  return infinity === undefined ? NaN : sign === "-" ? -Infinity : Infinity;
}

/**
 * The words of a list: brackets count as blanks, and blanks and commas separate.
 *
 * @param value A list as `1 2 3`, `[[1, 2], [3]]`, or JSON marked as ASE does.
 */
export function listWords(value: string): string[] {
  return value.replace(/^[ \t]*_JSON/, "").split(/[ \t,[\]{}]+/)
    .filter((word) => word !== "");
}

/** The numbers of a list; undefined where a word of it is none. */
export function parseNumbers(value: string): number[] | undefined {
  const numbers = listWords(value).map(parseNumber);
  return numbers.includes(undefined) ? undefined : numbers as number[];
}

/** The powers of ten that are exact. */
const POWERS = Float64Array.from({ length: 23 }, (_, n) => Number(`1e${n}`));
/** So many digits fit an int32, so many make an integer that is exact. */
const HALF_DIGITS = 9, EXACT_DIGITS = 15;
/** 2²⁷ + 1 splits a float64 into halves whose products are exact. */
const SPLITTER = 134217729;
/** Above the relative error of a quotient of two float64 pairs. */
const PAIR_ERROR = 1e-25;

/** Reads words and numbers from bytes, up to the next blank. */
export class WordScanner {
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array();
  /** Where it is, and where it ends. */
  at = 0;
  end = 0;

  /** Goes to the next word; false if there is none. */
  next(): boolean {
    const { bytes, end } = this;
    let at = this.at;
    while (at < end && (bytes[at] === 32 || bytes[at] === 9)) at++;
    this.at = at;
    return at < end;
  }

  /** Goes behind the word. */
  skip(): void {
    const { bytes, end } = this;
    let at = this.at;
    while (at < end && bytes[at] !== 32 && bytes[at] !== 9) at++;
    this.at = at;
  }

  /**
   * Goes behind the word and puts its number where it belongs, for speed: of the
   * usual ones what {@linkcode parseNumber} gives. False for all others, which
   * that has to be asked about; then it goes nowhere.
   *
   * Where the digits make an exact integer and the power of ten is exact, one
   * rounding is the right one (W. D. Clinger, PLDI 1990). Where there are more
   * digits, the integer is a sum of two numbers, and so is the quotient.
   */
  number(into: Float64Array, index: number): boolean {
    const { bytes, end } = this;
    let at = this.at;
    const sign = bytes[at]!;
    if (sign === 45 || sign === 43) at++;
    let high = 0, low = 0; // the first nine digits, and the others
    let digits = 0;
    let point = -1;
    let byte = 32;
    for (; at < end; at++) {
      byte = bytes[at]!;
      const digit = byte - 48;
      if (digit >= 0 && digit <= 9) {
        if (digits < HALF_DIGITS) high = 10 * high + digit | 0;
        else low = 10 * low + digit | 0;
        digits++;
      } else if (digit === -2 && point < 0) point = digits;
      else break;
    }
    if (digits === 0 || digits > 2 * HALF_DIGITS) return false;
    let power = point < 0 ? 0 : point - digits;
    if (at < end && byte !== 32 && byte !== 9) {
      if ((byte | 32) !== 101 && (byte | 32) !== 100) return false;
      byte = bytes[++at]!;
      const exponentSign = byte;
      if (exponentSign === 45 || exponentSign === 43) at++;
      const first = at;
      let exponent = 0;
      for (; at < end; at++) {
        byte = bytes[at]!;
        const digit = byte - 48;
        if (digit < 0 || digit > 9) break;
        exponent = 10 * exponent + digit;
      }
      if (at === first || at < end && byte !== 32 && byte !== 9) return false;
      power += exponentSign === 45 ? -exponent : exponent;
    }
    if (!(power >= -22 && power <= 22)) return false;
    let size: number;
    if (digits <= EXACT_DIGITS) {
      const integer = digits <= HALF_DIGITS
        ? high
        : high * POWERS[digits - HALF_DIGITS]! + low;
      size = power < 0 ? integer / POWERS[-power]! : integer * POWERS[power]!;
    } else if (power > 0) return false;
    else {
      const shift = POWERS[digits - HALF_DIGITS]!;
      size = longQuotient(high, shift, low, POWERS[-power]!);
      if (size !== size) return false;
    }
    this.at = at;
    into[index] = sign === 45 ? -size : size;
    return true;
  }
}

/**
 * (a · b + c) / d, rounded once: of integers that are exact. NaN where that
 * rounding is a close one (T. J. Dekker, Numer. Math. 18, 224, 1971).
 */
function longQuotient(a: number, b: number, c: number, d: number): number {
  const product = a * b;
  const high = product + c;
  const low = productError(a, b, product) + (c - (high - product));
  const quotient = high / d;
  const back = quotient * d;
  const rest = ((high - back) - productError(quotient, d, back) + low) / d;
  const bound = quotient * PAIR_ERROR;
  const result = quotient + (rest - bound);
  return result === quotient + (rest + bound) ? result : NaN;
}

/** What a · b is more than its rounded value. */
function productError(a: number, b: number, product: number): number {
  const aHigh = SPLITTER * a - (SPLITTER * a - a);
  const bHigh = SPLITTER * b - (SPLITTER * b - b);
  const aLow = a - aHigh;
  const bLow = b - bHigh;
  return ((aHigh * bHigh - product) + aHigh * bLow + aLow * bHigh) +
    aLow * bLow;
}
