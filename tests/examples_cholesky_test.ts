import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  independentColumns,
  inverseFactor,
} from "../examples/potential/cholesky.ts";
import { Random } from "../examples/potential/random.ts";

/** The Gram matrix of columns of random numbers, scaled to a diagonal of 1. */
function gramOf(columns: readonly (readonly number[])[]): Float64Array {
  const dot = (a: readonly number[], b: readonly number[]): number =>
    a.reduce((sum, x, k) => sum + x * b[k]!, 0);
  const norms = columns.map((a) => Math.sqrt(dot(a, a)));
  return Float64Array.from(
    columns.flatMap((a, i) =>
      columns.map((b, j) => dot(a, b) / (norms[i]! * norms[j]!))
    ),
  );
}

const problems = fc.record({
  seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
  independent: fc.integer({ min: 1, max: 12 }),
  dependent: fc.integer({ min: 0, max: 12 }),
  ridge: fc.constantFrom(0, 1e-10, 0.1),
});

Deno.test("independentColumns() and inverseFactor() find as many columns as are independent, and whiten them", () => {
  fc.assert(fc.property(problems, ({ seed, independent, dependent, ridge }) => {
    const random = new Random(seed);
    const rows = Array.from({ length: 40 });
    const basis = Array.from(
      { length: independent },
      () => rows.map(() => random.uniform(-1, 1)),
    );
    const mixed = Array.from({ length: dependent }, () => {
      const factors = basis.map(() => random.uniform(-1, 1));
      return rows.map((_, k) =>
        factors.reduce((sum, f, c) => sum + f * basis[c]![k]!, 0)
      );
    });
    const columns = random.permutation(independent + dependent)
      .map((k) => [...basis, ...mixed][k]!);
    const size = columns.length;
    const gram = gramOf(columns);

    const order = independentColumns(gram, size, 1e-12);
    assertEquals(order.length, independent);
    assertEquals(new Set(order).size, independent);
    const inverse = inverseFactor(gram, size, order, ridge);
    for (let a = 0; a < independent; a++) {
      for (let b = 0; b < independent; b++) {
        let sum = 0;
        for (let i = 0; i < independent; i++) {
          for (let j = 0; j < independent; j++) {
            const g = gram[order[i]! * size + order[j]!]! +
              (i === j ? ridge : 0);
            sum += inverse[a * independent + i]! * g *
              inverse[b * independent + j]!;
          }
        }
        assertAlmostEquals(sum, Number(a === b), 1e-5);
        if (b > a) assertEquals(inverse[a * independent + b], 0);
      }
    }
  }));
});

Deno.test("independentColumns() finds no column where all are zero", () => {
  assertEquals(independentColumns(new Float64Array(9), 3, 1e-12), []);
});

Deno.test("independentColumns() and inverseFactor() do with a thousand columns in seconds", () => {
  const size = 1000;
  const random = new Random(1);
  const gram = new Float64Array(size * size);
  for (let p = 0; p < size; p++) {
    gram[p * size + p] = 1;
    for (let q = 0; q < p; q++) {
      gram[p * size + q] = gram[q * size + p] = random.uniform(-1, 1) / size;
    }
  }
  const began = performance.now();
  const order = independentColumns(gram, size, 1e-12);
  assertEquals(order.length, size);
  const inverse = inverseFactor(gram, size, order, 1e-10);
  assert(inverse.every(Number.isFinite));
  const seconds = (performance.now() - began) / 1000;
  assert(seconds < 30, `${seconds} s`); // 1.5 on a quiet machine
});
