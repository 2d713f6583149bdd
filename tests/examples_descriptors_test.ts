import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { makeBasis } from "../examples/potential/basis.ts";
import { Device, ProcessGroup } from "../mod.ts";
import {
  Descriptors,
  type DesignRows,
} from "../examples/potential/descriptors.ts";
import { findFreeAtoms } from "../examples/potential/free_atoms.ts";
import { ExtxyzFile } from "../examples/extxyz/read.ts";
import { Random } from "../examples/potential/random.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import {
  EPSILON,
  stillingerWeber,
} from "../examples/potential/stillinger_weber.ts";
import { atomCount, type Structure } from "../examples/potential/structure.ts";
import { Statistics } from "../examples/potential/statistics.ts";
import {
  applyWhitening,
  whiten,
  type Whitening,
} from "../examples/potential/whitening.ts";

const BASIS = makeBasis([14], 5);
const WIDTH = BASIS.size;

function designRows(structure: Structure, basis = BASIS): DesignRows {
  const hasStress = structure.periodic.every(Boolean);
  return new Descriptors(basis).designRows(structure, hasStress);
}

/** Structures in triclinic cells that are smaller than the cutoff, or larger. */
const STRUCTURES = siliconStructures(6, 3);

/** Energy and forces of a potential with these parameters. */
function potential(
  structure: Structure,
  parameters: readonly number[],
): { energy: number; forces: Float64Array } {
  const rows = designRows(structure);
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

/** (1/V)·∂E/∂ε by strains ½(ε_ij + ε_ji): central differences, Richardson extrapolated. */
function assertStressMatches(
  structure: Structure,
  stress: Float64Array,
  energyOf: (structure: Structure) => number,
): void {
  const [a, b, c] = [0, 3, 6].map((k) => structure.lattice.slice(k, k + 3));
  const volume = Math.abs(
    a![0]! * (b![1]! * c![2]! - b![2]! * c![1]!) -
      a![1]! * (b![0]! * c![2]! - b![2]! * c![0]!) +
      a![2]! * (b![0]! * c![1]! - b![1]! * c![0]!),
  );
  const size = Math.max(...stress.map(Math.abs));
  const voigt = [[0, 0], [1, 1], [2, 2], [1, 2], [0, 2], [0, 1]] as const;
  voigt.forEach(([i, j], component) => {
    const slope = (h: number): number => {
      const [low, high] = [-h, h].map((strain) => {
        const strained = (x: Float64Array): Float64Array =>
          x.map((value, k) => {
            const [first, axis] = [k - k % 3, k % 3];
            return value +
              (axis === i ? strain / 2 * x[first + j]! : 0) +
              (axis === j ? strain / 2 * x[first + i]! : 0);
          });
        return energyOf({
          ...structure,
          lattice: strained(structure.lattice),
          positions: strained(structure.positions),
        });
      });
      return (high! - low!) / (2 * h);
    };
    const expected = (4 * slope(5e-4) - slope(1e-3)) / 3 / volume;
    assertAlmostEquals(stress[component]!, expected, 1e-6 * size);
  });
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
  for (const structure of STRUCTURES.slice(0, 2)) {
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
  const { forces } = designRows(structure);
  for (let k = 0; k < structure.positions.length; k += 8) {
    const descriptors = new Map<number, Float64Array>();
    for (let p = 0; p < WIDTH; p++) {
      const column = structure.positions
        .map((_, row) => Math.abs(forces[row * WIDTH + p]!));
      const expected = numericalForce(structure, k, ({ positions }) => {
        // One computation serves all descriptors.
        const x = positions[k]!;
        const known = descriptors.get(x) ??
          designRows({ ...structure, positions }).energy;
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

Deno.test("designRows() has the two- and three-body sums over pairs of neighbours", () => {
  // One atom with two neighbours at right angles, no images.
  const structure: Structure = {
    ...STRUCTURES[0]!,
    numbers: Uint8Array.of(14, 14, 14),
    lattice: Float64Array.of(9, 0, 0, 0, 9, 0, 0, 0, 9),
    periodic: [false, false, false],
    positions: Float64Array.of(0, 0, 0, 4, 0, 0, 0, 4.5, 0),
  };
  const { energy } = designRows(structure);
  const r0 = (r: number): number => (1 - r / 5) ** 2;
  const [near, far] = [r0(4), r0(4.5)];
  // The third distance is beyond the cutoff. The constant, the first pair term,
  // then M_00 : M_00, and M_01 : M_01, where cos θ of the two neighbours is 0
  // and of a neighbour with itself 1.
  assertEquals(energy[0], 3);
  assertAlmostEquals(energy[1]!, 2 * (near + far), 1e-12);
  const squares = 2 * near ** 2 + 2 * far ** 2;
  const first = 1 + BASIS.pair;
  assertAlmostEquals(energy[first]!, squares + 2 * near * far, 1e-12);
  const ofRank0 = BASIS.moments[0]!.length;
  const ofRank1 = first + ofRank0 * (ofRank0 + 1) / 2;
  assertAlmostEquals(energy[ofRank1]!, squares, 1e-12);
});

/** Three elements: a slab, a wire, a molecule, a crystal in a left-handed cell. */
const ALLOY = makeBasis([8, 14, 32], 5);
const ALLOYS = STRUCTURES.slice(0, 4).map((structure, k): Structure => ({
  ...structure,
  numbers: structure.numbers.map((_, i) => [14, 8, 32, 14][i % 4]!),
  periodic: [k !== 2, k !== 2 && k !== 1, k === 3],
  ...k === 3
    ? {
      lattice: structure.lattice.map((x, c) => c < 3 ? -x : x),
    }
    : {},
}));

Deno.test("predict() gives forces and stresses that are the derivatives of the energy, for any elements and periodicity", () => {
  const random = new Random(3);
  const parameters = Float64Array.from(
    { length: ALLOY.size },
    () => random.uniform(-1, 1),
  );
  const descriptors = new Descriptors(ALLOY);
  const energyOf = (structure: Structure): number =>
    descriptors.predict(structure, parameters).energy;
  for (const structure of ALLOYS) {
    const { forces, stress } = descriptors.predict(structure, parameters);
    const largest = Math.max(...forces.map(Math.abs));
    for (let k = 0; k < forces.length; k += 7) {
      const expected = numericalForce(structure, k, energyOf);
      assertAlmostEquals(forces[k]!, expected, 1e-6 * largest);
    }
    if (!structure.periodic.every(Boolean)) {
      assert(stress.every(Number.isNaN));
      continue;
    }
    assertStressMatches(structure, stress, energyOf);
  }
});

Deno.test("designRows() says what predict() says, for any elements and periodicity", () => {
  const random = new Random(4);
  const parameters = Float64Array.from(
    { length: ALLOY.size },
    () => random.uniform(-1, 1),
  );
  const descriptors = new Descriptors(ALLOY);
  const times = (rows: Float64Array): Float64Array =>
    Float64Array.from(
      { length: rows.length / ALLOY.size },
      (_, row) =>
        parameters.reduce(
          (sum, w, p) => sum + w * rows[row * ALLOY.size + p]!,
          0,
        ),
    );
  for (const structure of ALLOYS) {
    const rows = designRows(structure, ALLOY);
    const expected = descriptors.predict(structure, parameters);
    assertClose(times(rows.energy), Float64Array.of(expected.energy));
    assertClose(times(rows.forces), expected.forces);
    if (structure.periodic.every(Boolean)) {
      assertClose(times(rows.stress), expected.stress);
    }
  }
});

Deno.test("designRows() does not change when the structure is rotated, moved or renumbered", () => {
  for (const structure of STRUCTURES) {
    const expected = designRows(structure);

    const rotated = designRows({
      ...structure,
      lattice: rotate(structure.lattice),
      positions: rotate(structure.positions),
    });
    assertClose(rotated.energy, expected.energy);

    const moved = designRows({
      ...structure,
      positions: structure.positions.map((x, k) => x + [1.3, -7, 40][k % 3]!),
    });
    assertClose(moved.energy, expected.energy);
    assertClose(moved.forces, expected.forces);

    const atoms = atomCount(structure);
    const order = new Random(1).permutation(atoms);
    const renumbered = designRows({
      ...structure,
      positions: Float64Array.from(
        order.flatMap((i) => [...structure.positions.slice(3 * i, 3 * i + 3)]),
      ),
    });
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
  const expected = designRows(structure!).energy.map((e) => 2 * e);
  const doubled = designRows({
    ...structure!,
    numbers: Uint8Array.of(...numbers, ...numbers),
    lattice: lattice.map((x, k) => k < 3 ? 2 * x : x),
    positions: Float64Array.of(
      ...positions,
      ...positions.map((x, k) => x + lattice[k % 3]!),
    ),
  });
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
    const { energy, forces } = designRows(structure);
    return Float64Array.of(...energy.subarray(1), ...forces);
  };
  assertEquals(Math.max(...at(5).map(Math.abs)), 0);
  assert(Math.max(...at(5 - 1e-5).map(Math.abs)) < 1e-4);
  assert(Math.max(...at(4).map(Math.abs)) > 1e-2);
});

/** The whitening of a training set, and its design rows in one. */
async function whitened(
  structures: readonly Structure[],
): Promise<{ rows: Float64Array[]; whitening: Whitening }> {
  const rows = structures.map((structure) => designRows(structure));
  const freeAtoms = findFreeAtoms(structures);
  const statistics = new Statistics(BASIS, freeAtoms, 3);
  structures.forEach((structure, s) =>
    statistics.add(s % 3, rows[s]!, structure)
  );
  using device = await Device.open("cpu");
  using group = await ProcessGroup.init({ device });
  const moments = await statistics.result(group);
  return {
    rows: rows.map(({ energy, forces, stress }) =>
      Float64Array.of(...energy, ...forces, ...stress)
    ),
    whitening: whiten(structures, moments, freeAtoms, BASIS),
  };
}

Deno.test("applyWhitening() makes functions independent of each other and of scale 1, and starts from their least squares", async () => {
  const structures = siliconStructures(40, 5);
  const { rows, whitening } = await whitened(structures);
  const { size, start, freeAtoms } = whitening;

  // The Gram matrix that was made to be the unit matrix, but for the ridge.
  const gram = new Float64Array(size * size);
  const right = new Float64Array(size);
  const add = (row: Float64Array, target: number, factor: number): void => {
    for (let p = 0; p < size; p++) {
      right[p]! += factor * row[p]! * target;
      for (let q = 0; q < size; q++) {
        gram[p * size + q]! += factor * row[p]! * row[q]!;
      }
    }
  };
  const components = 7 * structures.length + 3 * atomCount(...structures);
  rows.forEach((row, s) => {
    const white = applyWhitening(row, whitening, BASIS);
    const rowOf = (k: number): Float64Array =>
      white.subarray(k * size, (k + 1) * size);
    const { numbers, forces: targets, stress: strained } = structures[s]!;
    const atoms = numbers.length;
    const target = structures[s]!.energy - atoms * freeAtoms[14]!;
    add(rowOf(0), target, (100 / atoms) ** 2 / components);
    targets.forEach((force, k) => add(rowOf(1 + k), force, 1 / components));
    strained.forEach((x, k) =>
      add(rowOf(1 + 3 * atoms + k), x, 30 ** 2 / components)
    );
  });
  let independent = 0;
  for (let p = 0; p < size; p++) {
    assert(gram[p * size + p]! < 1.01);
    if (gram[p * size + p]! > 0.99) independent++;
    for (let q = 0; q < p; q++) {
      // What the ridge takes from two functions is all that they may share.
      const missing = (1 - gram[p * size + p]!) * (1 - gram[q * size + q]!);
      const most = Math.sqrt(Math.max(missing, 0)) + 1e-2;
      assertAlmostEquals(gram[p * size + q]!, 0, most);
    }
  }
  assert(independent > 50, `${independent} of ${size}`);
  right.forEach((x, p) => assertAlmostEquals(x, start[p]!, 1e-4));
});

Deno.test("whiten() leaves out what the structures do not determine", async () => {
  const [crystal] = STRUCTURES;
  const diamond: Structure = {
    ...crystal!,
    numbers: Uint8Array.of(14, 14),
    lattice: Float64Array.of(0, 1, 1, 1, 0, 1, 1, 1, 0).map((x) => 2.7155 * x),
    positions: Float64Array.of(0, 0, 0, 1, 1, 1).map((x) => 1.35775 * x),
    forces: new Float64Array(6),
    stress: new Float64Array(6).fill(NaN),
    energy: -8.6,
  };
  const { rows, whitening } = await whitened(new Array(10).fill(diamond));
  assertEquals(whitening.size, 1); // the constant
  const energy = applyWhitening(rows[0]!, whitening, BASIS);
  const predicted = energy[0]! * whitening.start[0]! +
    2 * whitening.freeAtoms[14]!;
  assertAlmostEquals(predicted, -8.6, 1e-6);
  assert(whitening.transform.every((x) => Math.abs(x) < 1));
});

Deno.test("findFreeAtoms() takes isolated atoms, and fits what is left to the energies per atom", () => {
  const [structure] = STRUCTURES;
  const of = (
    numbers: number[],
    energy: number,
    isFree = false,
  ): Structure => ({
    ...structure!,
    numbers: Uint8Array.from(numbers),
    energy,
    configType: isFree ? "IsolatedAtom" : undefined,
  });
  const { energies, isKnown } = findFreeAtoms([
    of([8], -2, true),
    of([8, 14, 14], -2 - 2 * 5),
    of([8, 14, 32], -2 - 5 - 7),
  ]);
  assertEquals([8, 14, 32].map(isKnown), [true, false, false]);
  for (const [z, energy] of [[8, -2], [14, -5], [32, -7]] as const) {
    assertAlmostEquals(energies[z]!, energy, 1e-10);
  }
  // What is given holds, and the rest is fitted to what it leaves.
  const fixed = findFreeAtoms(
    [of([8], -2, true), of([8, 14], -8)],
    new Map([[8, -3], [92, -1]]),
  );
  assertEquals([8, 14, 92].map((z) => fixed.energies[z]!.toFixed(9)), [
    "-3.000000000",
    "-5.000000000",
    "0.000000000",
  ]);
  assertEquals([...fixed.origins], [[8, "given"], [14, "least squares"]]);
  assert(fixed.isKnown(8) && !fixed.isKnown(14));
  // A composition that tells two elements not apart: shared out.
  const alike = findFreeAtoms([of([14, 32], -12), of([14, 32], -12)]);
  assertAlmostEquals(alike.energies[14]!, -6, 1e-10);
  assertAlmostEquals(alike.energies[32]!, -6, 1e-10);
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

Deno.test("stillingerWeber() gives forces and stresses that are the derivatives of the energy", () => {
  const energyOf = (moved: Structure): number => stillingerWeber(moved).energy;
  for (const structure of STRUCTURES) {
    assertForcesMatch(structure, structure.forces, energyOf);
    assertStressMatches(structure, structure.stress, energyOf);
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
