import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  parseNumber,
  parseNumbers,
  WordScanner,
} from "../examples/extxyz/numbers.ts";

Deno.test("parseNumber() takes digits on one side of the point and Fortran's exponents", () => {
  for (
    const [word, value] of [
      ...[["1", 1], ["+1", 1], ["-1.5", -1.5], [".5", 0.5], ["5.", 5]] as const,
      ...[["-.5e1", -5], ["1.e2", 100], ["1E+2", 100], ["007", 7]] as const,
      ...[["1d2", 100], ["1.5D-3", 0.0015], ["-0", -0]] as const,
    ]
  ) assertEquals(parseNumber(word), value);
});

Deno.test("parseNumber() takes what is not finite for a number", () => {
  for (const word of ["nan", "NaN", "-nan", "+NAN"]) {
    assertEquals(parseNumber(word), NaN);
  }
  for (const word of ["inf", "Infinity", "+INF", "1e999", "1d400"]) {
    assertEquals(parseNumber(word), Infinity);
  }
  assertEquals(parseNumber("-inf"), -Infinity);
  assertEquals(parseNumber("-1e999"), -Infinity);
});

Deno.test("parseNumber() takes nothing else", () => {
  for (
    const word of [
      ..."0x10 1_000 1,5 1.2.3 ******** . e5 1e 1e+ --1 +-1 1e1.5".split(" "),
      ..."-5.0eV infinit nanx T 1f 1l 0b1 ١ −1 1e2d3".split(" "),
      ...["", " 1", "1 ", "None", "null"],
    ]
  ) assertEquals(parseNumber(word), undefined, word);
});

Deno.test("parseNumbers() drops brackets and splits at blanks and commas", () => {
  const nine = [1, 0, 0, 0, 1, 0, 0, 0, 1];
  for (
    const value of [
      "1 0 0 0 1 0 0 0 1",
      "1, 0, 0, 0, 1, 0, 0, 0, 1",
      "1,0,0,0,1,0,0,0,1",
      " [1,0 0][0 1 0]{0 0 1},",
      "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
      "_JSON [[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
      "_JSON[[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
      "1\t0\t0\t0 ,, 1\t0\t0\t0\t1",
    ]
  ) assertEquals(parseNumbers(value), nine, value);
  assertEquals(parseNumbers(""), []);
  assertEquals(parseNumbers(" , "), []);
  for (const value of ['"1"', "1 eV", "'1 2'", "null", "1;2", "1_JSON"]) {
    assertEquals(parseNumbers(value), undefined, value);
  }
});

function scan(word: string): number {
  const scanner = new WordScanner();
  scanner.bytes = new TextEncoder().encode(`x ${word}\t9`);
  scanner.at = 1;
  scanner.end = scanner.bytes.length;
  assert(scanner.next());
  const into = Float64Array.of(NaN, 7);
  const isThere = scanner.number(into, 0);
  assertEquals(into[1], 7);
  assertEquals(scanner.at, isThere ? 2 + word.length : 2);
  return isThere ? into[0]! : NaN;
}

Deno.test("WordScanner.number() is Number() to the bit, or has to ask", () => {
  const digits = fc.string({
    unit: fc.constantFrom(..."0123456789"),
    maxLength: 12,
  });
  const decimal = fc.tuple(
    fc.constantFrom("", "-", "+"),
    digits,
    fc.constantFrom("", "."),
    digits,
    fc.oneof(
      fc.constant(""),
      fc.integer({ min: -30, max: 30 }).map((n) => `e${n}`),
    ),
  ).map((parts) => parts.join(""));
  const words = fc.oneof(
    decimal,
    fc.double().map(String),
    fc.double({ min: -100, max: 100 }).map((x) => x.toFixed(16)),
    fc.string({ unit: fc.constantFrom(..."0123456789+-.eEdDnaif_x") }),
  ).filter((word) => word !== "");
  let asked = 0;
  fc.assert(
    fc.property(words, (word) => {
      const value = scan(word);
      if (Number.isNaN(value)) asked++;
      else assertEquals(value, parseNumber(word), word);
    }),
    { numRuns: 20_000 },
  );
  assert(asked < 15_000, `asked ${asked} times`);
  for (const usual of ["-2.98187262", "9.033552194395998", "0", "1e-05"]) {
    assertEquals(scan(usual), Number(usual));
  }
});
