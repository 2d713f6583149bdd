/**
 * A data set made on the spot: strained and rattled silicon crystals of many
 * sizes, some with a vacancy, with the energies and forces of the
 * Stillinger–Weber potential.
 *
 * @module
 */

import { Random } from "./random.ts";
import { stillingerWeber } from "./stillinger_weber.ts";
import type { Structure } from "./structure.ts";

const SILICON = 14;
/** Lattice constant of diamond silicon in Å. */
const LATTICE_CONSTANT = 5.431;
/** Every component of the strain is at most this. */
const MAX_STRAIN = 0.05;
/** Every coordinate of an atom is moved by at most this, in Å. */
const MAX_RATTLE = 0.3;

/**
 * Makes structures of 8 to 54 atoms.
 *
 * @param count How many.
 * @param seed The same seed gives the same structures.
 */
export function siliconStructures(count: number, seed: number): Structure[] {
  const random = new Random(seed);
  return Array.from(
    { length: count },
    (_, i) => siliconStructure(random, `silicon ${i + 1} of seed ${seed}`),
  );
}

function siliconStructure(random: Random, source: string): Structure {
  // The primitive cell of diamond, 2 atoms, repeated n times along its vectors.
  const half = LATTICE_CONSTANT / 2;
  const primitive = [[0, half, half], [half, 0, half], [half, half, 0]];
  let repeats = [1, 1, 1];
  while (repeats[0]! * repeats[1]! * repeats[2]! < 4) {
    repeats = repeats.map(() => random.integer(1, 3));
  }
  const strain = primitive.map((_, row) =>
    primitive.map((_, column) =>
      Number(row === column) + random.uniform(-MAX_STRAIN, MAX_STRAIN)
    )
  );
  const [a, b, c] = primitive.map((vector) =>
    strain.map((row) => row.reduce((sum, s, k) => sum + s * vector[k]!, 0))
  ) as [number[], number[], number[]];
  const rattle = random.uniform(0, MAX_RATTLE);

  const positions: number[] = [];
  const [na, nb, nc] = repeats as [number, number, number];
  for (let i = 0; i < na; i++) {
    for (let j = 0; j < nb; j++) {
      for (let k = 0; k < nc; k++) {
        for (const basis of [0, 0.25]) {
          for (let axis = 0; axis < 3; axis++) {
            positions.push(
              (i + basis) * a[axis]! + (j + basis) * b[axis]! +
                (k + basis) * c[axis]! + random.uniform(-rattle, rattle),
            );
          }
        }
      }
    }
  }
  // One in four has a vacancy.
  if (random.integer(1, 4) === 1) positions.splice(0, 3);

  const geometry = {
    source,
    numbers: new Uint8Array(positions.length / 3).fill(SILICON),
    lattice: Float64Array.from(
      [a, b, c].flatMap((vector, axis) =>
        vector.map((x) => x * repeats[axis]!)
      ),
    ),
    periodic: [true, true, true] as const,
    positions: Float64Array.from(positions),
  };
  return {
    ...geometry,
    ...stillingerWeber(geometry),
    configType: undefined,
    weights: { energy: 1, forces: 1, stress: 1 },
  };
}
