/**
 * The Stillinger–Weber potential of silicon.
 *
 * F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985): equations
 * 2.3 to 2.7 and the parameters after them.
 *
 * @module
 */

import { neighborList } from "./neighbors.ts";
import { stressOf } from "./stress.ts";
import type { Structure } from "./structure.ts";

const A = 7.049556277;
const B = 0.6022245584;
/** The exponent p; the other exponent, q, is 0. */
const P = 4;
/** Cutoff in units of σ. */
const CUTOFF = 1.8;
const LAMBDA = 21;
const GAMMA = 1.2;
/** Å. */
const SIGMA = 2.0951;
/** eV: the paper's 50 kcal/mol. */
export const EPSILON = 2.16826;

/** What the potential needs of a structure. */
export type Geometry = Pick<
  Structure,
  "source" | "lattice" | "periodic" | "positions"
>;

/**
 * Energy in eV, forces in eV/Å and stress in eV/Å³ of silicon atoms.
 *
 * @throws {GeometryError} where the structure's geometry makes no sense.
 */
export function stillingerWeber(
  geometry: Geometry,
): Pick<Structure, "energy" | "forces" | "stress"> {
  const { start, index, vector, distance } = neighborList(
    geometry,
    CUTOFF * SIGMA,
  );
  const atoms = start.length - 1;
  const forces = new Float64Array(3 * atoms);
  const bonds = new Float64Array(9);
  let energy = 0;

  /** Adds the force of an energy that grows by g when neighbour k of i moves. */
  const push = (
    i: number,
    k: number,
    gx: number,
    gy: number,
    gz: number,
  ): void => {
    const j = index[k]!;
    forces[3 * j]! -= gx;
    forces[3 * j + 1]! -= gy;
    forces[3 * j + 2]! -= gz;
    forces[3 * i]! += gx;
    forces[3 * i + 1]! += gy;
    forces[3 * i + 2]! += gz;
    for (let b = 0; b < 3; b++) {
      const length = vector[3 * k + b]!;
      bonds[b]! += gx * length;
      bonds[3 + b]! += gy * length;
      bonds[6 + b]! += gz * length;
    }
  };

  for (let i = 0; i < atoms; i++) {
    for (let j = start[i]!; j < start[i + 1]!; j++) {
      const rij = distance[j]!;
      const gapJ = rij - CUTOFF * SIGMA;
      const [xj, yj, zj] = [
        vector[3 * j]! / rij,
        vector[3 * j + 1]! / rij,
        vector[3 * j + 2]! / rij,
      ];

      // Each pair is met from both of its ends, and each has half of it.
      const decay = Math.exp(SIGMA / gapJ);
      const power = B * (SIGMA / rij) ** P;
      const pair = 0.5 * A * EPSILON * decay;
      energy += pair * (power - 1);
      const slope = -pair *
        (P * power / rij + (power - 1) * SIGMA / gapJ ** 2);
      push(i, j, slope * xj, slope * yj, slope * zj);

      // Triplets with atom i in the corner: ε λ (cos θ + 1/3)² h(rij) h(rik).
      const hj = Math.exp(GAMMA * SIGMA / gapJ);
      for (let k = j + 1; k < start[i + 1]!; k++) {
        const rik = distance[k]!;
        const gapK = rik - CUTOFF * SIGMA;
        const [xk, yk, zk] = [
          vector[3 * k]! / rik,
          vector[3 * k + 1]! / rik,
          vector[3 * k + 2]! / rik,
        ];
        const cosine = xj * xk + yj * yk + zj * zk;
        const bend = cosine + 1 / 3;
        const both = EPSILON * LAMBDA * hj * Math.exp(GAMMA * SIGMA / gapK);
        energy += both * bend * bend;

        const turn = 2 * both * bend;
        const stretch = -both * bend * bend * GAMMA * SIGMA;
        const alongJ = stretch / gapJ ** 2 - turn * cosine / rij;
        const alongK = stretch / gapK ** 2 - turn * cosine / rik;
        const acrossJ = turn / rij;
        const acrossK = turn / rik;
        push(
          i,
          j,
          alongJ * xj + acrossJ * xk,
          alongJ * yj + acrossJ * yk,
          alongJ * zj + acrossJ * zk,
        );
        push(
          i,
          k,
          alongK * xk + acrossK * xj,
          alongK * yk + acrossK * yj,
          alongK * zk + acrossK * zj,
        );
      }
    }
  }
  return { energy, forces, stress: stressOf(bonds, geometry) };
}
