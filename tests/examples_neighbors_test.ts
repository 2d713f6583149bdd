import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import {
  GeometryError,
  neighborList,
} from "../examples/potential/neighbors.ts";
import { Random } from "../examples/potential/random.ts";

interface Cell {
  readonly source: string;
  readonly lattice: Float64Array;
  readonly periodic: readonly [boolean, boolean, boolean];
  readonly positions: Float64Array;
}

/** Atoms anywhere, outside of the cell too. */
function randomCell(
  lattice: readonly number[],
  atoms: number,
  periodic: Cell["periodic"] = [true, true, true],
): Cell {
  const random = new Random(atoms);
  return {
    source: "a test",
    lattice: Float64Array.from(lattice),
    periodic,
    positions: Float64Array.from(
      { length: 3 * atoms },
      () => random.uniform(-8, 8),
    ),
  };
}

/** All neighbours as sorted lines, from every image within reach. */
function bruteForce(
  { lattice, periodic, positions }: Cell,
  cutoff: number,
  reach = 14,
): string[] {
  const images = periodic.map((repeats) => repeats ? reach : 0);
  const found: string[] = [];
  const atoms = positions.length / 3;
  for (let i = 0; i < atoms; i++) {
    for (let j = 0; j < atoms; j++) {
      for (let a = -images[0]!; a <= images[0]!; a++) {
        for (let b = -images[1]!; b <= images[1]!; b++) {
          for (let c = -images[2]!; c <= images[2]!; c++) {
            const d = [0, 1, 2].map((k) =>
              positions[3 * j + k]! - positions[3 * i + k]! +
              a * lattice[k]! + b * lattice[3 + k]! + c * lattice[6 + k]!
            );
            const r = Math.hypot(...d);
            if (r < cutoff && r > 0) found.push(line(i, j, d));
          }
        }
      }
    }
  }
  return found.sort();
}

function line(i: number, j: number, vector: readonly number[]): string {
  // Adding 0 turns −0 into 0.
  return [i, j, ...vector.map((x) => (x + 1e-12).toFixed(6))].join(" ");
}

function listed(cell: Cell, cutoff: number): string[] {
  const { start, index, vector, distance } = neighborList(cell, cutoff);
  const found: string[] = [];
  for (let i = 0; i + 1 < start.length; i++) {
    for (let k = start[i]!; k < start[i + 1]!; k++) {
      const d = [...vector.subarray(3 * k, 3 * k + 3)];
      assertAlmostEquals(Math.hypot(...d), distance[k]!, 1e-12);
      found.push(line(i, index[k]!, d));
    }
  }
  return found.sort();
}

Deno.test("neighborList() finds what brute force finds when the cell is triclinic and small", () => {
  const small = [2.1, 0.3, -0.4, 1.7, 2.4, 0.2, -0.6, 1.1, 2.9];
  assertEquals(
    listed(randomCell(small, 1), 5),
    bruteForce(randomCell(small, 1), 5),
  );
  assertEquals(
    listed(randomCell(small, 3), 4),
    bruteForce(randomCell(small, 3), 4),
  );
});

Deno.test("neighborList() finds what brute force finds when the cell is left-handed and skewed", () => {
  const skewed = [0, 3, 0, 4, 0, 0, 11, 7, 5];
  const cell = randomCell(skewed, 4);
  assertEquals(listed(cell, 3.5), bruteForce(cell, 3.5));
});

Deno.test("neighborList() finds what brute force finds when the cell has several bins", () => {
  const large = [13, 0, 0, 2, 12, 0, 1, -3, 14];
  const cell = randomCell(large, 60);
  assertEquals(listed(cell, 3), bruteForce(cell, 3, 3));
});

Deno.test("neighborList() repeats space along periodic axes only", () => {
  for (
    const periodic of [
      [true, false, true],
      [false, false, false],
      [false, true, false],
    ] as const
  ) {
    const cell = randomCell([3, 0, 0, 1, 3, 0, 0, 1, 3.5], 3, periodic);
    const expected = bruteForce(cell, 4);
    assertEquals(listed(cell, 4), expected);
    // Vectors along which nothing repeats may be any, also none.
    for (const other of [[0, 0, 0], [3, 0, 0], [1, 3, 0], [-200, 7, 1]]) {
      const lattice = cell.lattice.map((x, k) =>
        periodic[Math.floor(k / 3)] ? x : other[k % 3]!
      );
      assertEquals(listed({ ...cell, lattice }, 4), expected);
    }
  }
});

Deno.test("neighborList() throws when the geometry makes no sense", () => {
  const cell = randomCell([4, 0, 0, 0, 4, 0, 0, 0, 4], 2);
  assertThrows(
    () =>
      neighborList({
        ...cell,
        lattice: new Float64Array([1, 0, 0, 2, 0, 0, 0, 0, 1]),
      }, 5),
    GeometryError,
    "a test: the cell vectors [1, 0, 0, 2, 0, 0, 0, 0, 1] span no volume",
  );
  assertThrows(
    () => neighborList({ ...cell, lattice: new Float64Array(9) }, 5),
    GeometryError,
    "no volume",
  );
  assertThrows(
    () =>
      neighborList({
        ...cell,
        lattice: Float64Array.of(1e-3, 0, 0, 0, 1e-3, 0, 0, 0, 1e-3),
      }, 5),
    GeometryError,
    "too dense",
  );
  assertThrows(
    () =>
      neighborList(
        { ...cell, positions: Float64Array.of(1, 1, 1, 1, 5, 1) },
        5,
      ),
    GeometryError,
    "atoms 1 and 2 are in one place",
  );
  assertThrows(
    () =>
      neighborList({
        ...cell,
        positions: Float64Array.of(1, 1, 1, 1, 1e300, 1),
      }, 5),
    GeometryError,
    "atom 2 is 2.5e+299 cells away",
  );
});
