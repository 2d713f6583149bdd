import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import {
  designRows,
  parameterCount,
} from "../examples/potential/descriptors.ts";
import { ExtxyzFile } from "../examples/extxyz/read.ts";
import { Random } from "../examples/potential/random.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import {
  EPSILON,
  stillingerWeber,
} from "../examples/potential/stillinger_weber.ts";
import { atomCount, type Structure } from "../examples/potential/structure.ts";
import {
  applyWhitening,
  structureStatistics,
  whiten,
} from "../examples/potential/whitening.ts";

const OPTIONS = { cutoff: 5, radial: 5 };
const WIDTH = parameterCount(OPTIONS);

/** Structures in triclinic cells that are smaller than the cutoff, or larger. */
const STRUCTURES = siliconStructures(6, 3);

/** Energy and forces of a potential with these parameters. */
function potential(
  structure: Structure,
  parameters: readonly number[],
): { energy: number; forces: Float64Array } {
  const rows = designRows(structure, OPTIONS);
  const dot = (at: number, row: Float64Array): number =>
    parameters.reduce((sum, w, p) => sum + w * row[at + p]!, 0);
  return {
    energy: dot(0, rows.energy),
    forces: Float64Array.from(
      structure.positions,
      (_, k) => dot(k * WIDTH, rows.forces),
    ),
  };
}

function randomParameters(seed: number): number[] {
  const random = new Random(seed);
  return Array.from({ length: WIDTH }, () => random.uniform(-1, 1));
}

/** Minus the derivative of an energy by one coordinate: central differences, Richardson extrapolated. */
function numericalForce(
  structure: Structure,
  coordinate: number,
  energyOf: (structure: Structure) => number,
): number {
  const slope = (h: number): number => {
    const [low, high] = [-h, h].map((shift) => {
      const positions = structure.positions.slice();
      positions[coordinate]! += shift;
      return energyOf({ ...structure, positions });
    });
    return (high! - low!) / (2 * h);
  };
  const h = 2e-3;
  return -(4 * slope(h / 2) - slope(h)) / 3;
}

function assertForcesMatch(
  structure: Structure,
  forces: Float64Array,
  energyOf: (structure: Structure) => number,
): void {
  const largest = Math.max(...forces.map(Math.abs));
  for (let k = 0; k < forces.length; k += 5) {
    const expected = numericalForce(structure, k, energyOf);
    assertAlmostEquals(forces[k]!, expected, 1e-6 * largest);
  }
}

/** A rotation by some angles about all axes. */
const ROTATION = [[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]];

function rotate(vectors: Float64Array): Float64Array {
  return vectors.map((_, k) => {
    const first = k - k % 3;
    return ROTATION[k % 3]!.reduce(
      (sum, r, axis) => sum + r * vectors[first + axis]!,
      0,
    );
  });
}

function assertClose(
  actual: Float64Array,
  expected: Float64Array,
  relative = 1e-10,
): void {
  assertEquals(actual.length, expected.length);
  const scale = Math.max(...expected.map(Math.abs));
  actual.forEach((x, k) =>
    assertAlmostEquals(x, expected[k]!, relative * scale)
  );
}

Deno.test("designRows() gives forces that are the derivatives of the energy", () => {
  const parameters = randomParameters(1);
  for (const structure of STRUCTURES) {
    const { forces } = potential(structure, parameters);
    assertForcesMatch(
      structure,
      forces,
      (moved) => potential(moved, parameters).energy,
    );
  }
});

Deno.test("designRows() gives derivatives of every single descriptor", () => {
  const structure = STRUCTURES[0]!;
  const { forces } = designRows(structure, OPTIONS);
  for (let k = 0; k < structure.positions.length; k += 4) {
    const descriptors = new Map<number, Float64Array>();
    for (let p = 0; p < WIDTH; p++) {
      const column = structure.positions
        .map((_, row) => Math.abs(forces[row * WIDTH + p]!));
      const expected = numericalForce(structure, k, ({ positions }) => {
        // One computation serves all descriptors.
        const x = positions[k]!;
        const known = descriptors.get(x) ??
          designRows({ ...structure, positions }, OPTIONS).energy;
        descriptors.set(x, known);
        return known[p]!;
      });
      assertAlmostEquals(
        forces[k * WIDTH + p]!,
        expected,
        1e-6 * Math.max(...column),
      );
    }
  }
});

Deno.test("designRows() has the three-body sums over pairs of neighbours", () => {
  // One atom with two neighbours at right angles, no images.
  const structure: Structure = {
    ...STRUCTURES[0]!,
    numbers: Uint8Array.of(14, 14, 14),
    lattice: Float64Array.of(9, 0, 0, 0, 9, 0, 0, 0, 9),
    periodic: [false, false, false],
    positions: Float64Array.of(0, 0, 0, 4, 0, 0, 0, 4.5, 0),
  };
  const { energy } = designRows(structure, { cutoff: 5, radial: 1 });
  const r0 = (r: number): number => 0.5 * (1 + Math.cos(Math.PI * r / 5));
  const [near, far] = [r0(4), r0(4.5)];
  // The third distance is beyond the cutoff. Pairs, then orders 0 to 3, where
  // cos θ of the two neighbours is 0, and of a neighbour with itself 1.
  const squares = 2 * near ** 2 + 2 * far ** 2;
  assertClose(
    energy,
    Float64Array.of(
      2 * (near + far),
      squares + 2 * near * far,
      squares,
      squares,
      squares,
      3,
    ),
  );
});

Deno.test("designRows() does not change when the structure is rotated, moved or renumbered", () => {
  for (const structure of STRUCTURES) {
    const expected = designRows(structure, OPTIONS);

    const rotated = designRows({
      ...structure,
      lattice: rotate(structure.lattice),
      positions: rotate(structure.positions),
    }, OPTIONS);
    assertClose(rotated.energy, expected.energy);

    const moved = designRows({
      ...structure,
      positions: structure.positions.map((x, k) => x + [1.3, -7, 40][k % 3]!),
    }, OPTIONS);
    assertClose(moved.energy, expected.energy);
    assertClose(moved.forces, expected.forces);

    const atoms = atomCount(structure);
    const order = new Random(1).permutation(atoms);
    const renumbered = designRows({
      ...structure,
      positions: Float64Array.from(
        order.flatMap((i) => [...structure.positions.slice(3 * i, 3 * i + 3)]),
      ),
    }, OPTIONS);
    assertClose(renumbered.energy, expected.energy);
    order.forEach((i, k) =>
      assertClose(
        renumbered.forces.slice(3 * k * WIDTH, 3 * (k + 1) * WIDTH),
        expected.forces.slice(3 * i * WIDTH, 3 * (i + 1) * WIDTH),
        1e-9,
      )
    );
  }
});

Deno.test("designRows() doubles the energy when the cell is doubled", () => {
  const [structure] = STRUCTURES;
  const { lattice, positions, numbers } = structure!;
  const expected = designRows(structure!, OPTIONS).energy.map((e) => 2 * e);
  const doubled = designRows({
    ...structure!,
    numbers: Uint8Array.of(...numbers, ...numbers),
    lattice: lattice.map((x, k) => k < 3 ? 2 * x : x),
    positions: Float64Array.of(
      ...positions,
      ...positions.map((x, k) => x + lattice[k % 3]!),
    ),
  }, OPTIONS);
  assertClose(doubled.energy, expected);
});

Deno.test("designRows() goes to zero smoothly when a neighbour leaves the cutoff", () => {
  const at = (r: number): Float64Array => {
    const structure: Structure = {
      ...STRUCTURES[0]!,
      numbers: Uint8Array.of(14, 14),
      periodic: [false, false, false],
      positions: Float64Array.of(0, 0, 0, r, 0, 0),
    };
    const { energy, forces } = designRows(structure, OPTIONS);
    return Float64Array.of(...energy.subarray(0, WIDTH - 1), ...forces);
  };
  assertEquals(Math.max(...at(5).map(Math.abs)), 0);
  assert(Math.max(...at(5 - 1e-5).map(Math.abs)) < 1e-4);
  assert(Math.max(...at(4).map(Math.abs)) > 1e-2);
});

Deno.test("applyWhitening() makes descriptors independent of each other and of scale 1", () => {
  const structures = siliconStructures(40, 5);
  const rows = structures.map((structure) => designRows(structure, OPTIONS));
  const whitening = whiten(structures, rows.map(structureStatistics), WIDTH);
  const { size } = whitening;
  const white = rows.map((row) => applyWhitening(row, whitening));

  // The Gram matrix that was made to be the unit matrix.
  const gram = new Float64Array(size * size);
  const add = (row: Float64Array, factor: number): void => {
    for (let p = 0; p < size; p++) {
      for (let q = 0; q < size; q++) {
        gram[p * size + q]! += factor * row[p]! * row[q]!;
      }
    }
  };
  const components = 3 * atomCount(...structures);
  white.forEach(({ energy, forces }, s) => {
    add(energy, (10 / atomCount(structures[s]!)) ** 2 / components);
    for (let k = 0; k < forces.length; k += size) {
      add(forces.subarray(k, k + size), 1 / components);
    }
  });
  for (let p = 0; p < size; p++) {
    for (let q = 0; q < size; q++) {
      assertAlmostEquals(gram[p * size + q]!, Number(p === q), 1e-2);
    }
  }
});

Deno.test("stillingerWeber() gives the published energy of diamond silicon", () => {
  // The minimum of the pair energy is −ε at 2^(1/6) σ, and tetrahedral angles
  // cost nothing: −2 ε per atom, with 4 bonds that are shared by two.
  const a = 2 ** (1 / 6) * 2.0951 * 4 / Math.sqrt(3);
  const diamond = (scale: number): number =>
    stillingerWeber({
      source: "diamond",
      periodic: [true, true, true],
      lattice: Float64Array.of(0, 1, 1, 1, 0, 1, 1, 1, 0)
        .map((x) => scale * x * a / 2),
      positions: Float64Array.of(0, 0, 0, 1, 1, 1)
        .map((x) => scale * x * a / 4),
    }).energy / 2;
  assertAlmostEquals(a, 5.431, 1e-3);
  assertAlmostEquals(diamond(1), -2 * EPSILON, 1e-6);
  assertAlmostEquals(diamond(1), -4.3363, 5e-4);
  assert(diamond(1.001) > diamond(1));
  assert(diamond(0.999) > diamond(1));
});

Deno.test("stillingerWeber() gives forces that are the derivatives of the energy", () => {
  for (const structure of STRUCTURES) {
    assertForcesMatch(
      structure,
      structure.forces,
      (moved) => stillingerWeber(moved).energy,
    );
  }
});

Deno.test("siliconStructures() makes the same structures when the seed is the same", () => {
  const same = siliconStructures(6, 3);
  assertEquals(same, STRUCTURES);
  const other = siliconStructures(6, 4);
  assert(other[0]!.energy !== same[0]!.energy);
  const sizes = new Set(siliconStructures(30, 1).map((s) => atomCount(s)));
  assert(sizes.size > 4, `sizes ${[...sizes]}`);
});

const mlearn = Deno.env.get("ATOMLOSS_MLEARN");
Deno.test({
  name:
    "designRows() gives derivatives of the energy when the data is mlearn's (ATOMLOSS_MLEARN)",
  ignore: mlearn === undefined,
  fn: async () => {
    const parameters = randomParameters(2);
    for (const element of ["Si", "Ge"]) {
      const file = await ExtxyzFile.open(
        `${mlearn}/${element}_test.extxyz`,
      );
      const structures = await Array.fromAsync(file.structures());
      assertEquals(structures.length, 25);
      for (const structure of [structures[0]!, structures.at(-1)!]) {
        const { forces } = potential(structure, parameters);
        const largest = Math.max(...forces.map(Math.abs));
        for (const k of [0, 1, 2]) {
          const expected = numericalForce(
            structure,
            k,
            (moved) => potential(moved, parameters).energy,
          );
          assertAlmostEquals(forces[k]!, expected, 1e-6 * largest);
        }
      }
    }
  },
});
