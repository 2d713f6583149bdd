/**
 * The stress of a structure: the derivative of its energy by strain over its
 * volume.
 *
 * @module
 */

import { volumeOf } from "../extxyz/cell.ts";
import type { Geometry } from "./structure.ts";

/** The indices a, b of the components of a stress: xx yy zz yz xz xy. */
export const VOIGT = [[0, 0], [1, 1], [2, 2], [1, 2], [0, 2], [0, 1]] as const;

/** Where a structure is and whether it repeats. */
type Cell = Pick<Geometry, "lattice" | "periodic">;

/** The volume of a structure in Å³, NaN where it is not periodic in three directions. */
export function periodicVolume({ lattice, periodic }: Cell): number {
  return periodic.every(Boolean) ? volumeOf(lattice) : NaN;
}

/**
 * The stress in eV/Å³ from Σ_ab ∂E/∂(vector)_a · vector_b over all bonds, row
 * after row; NaN where there is no volume.
 */
export function stressOf(
  bonds: Float64Array,
  cell: Cell,
): Float64Array<ArrayBuffer> {
  const volume = periodicVolume(cell);
  return Float64Array.from(
    VOIGT,
    ([a, b]) => (bonds[3 * a + b]! + bonds[3 * b + a]!) / (2 * volume),
  );
}
