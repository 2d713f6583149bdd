/**
 * What a data set is made of: atoms in a periodic cell, with the energy and
 * the forces that a reference method gave for them.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";

/** Structures that cannot be one data set. */
export class DataSetError extends AtomlossError {}

/** Atoms, maybe in a cell, and what a reference method gave for them. */
export interface Structure {
  /** Where it comes from, for messages: a file and line, or what made it. */
  readonly source: string;
  /** Atomic number of each atom. */
  readonly numbers: Uint8Array;
  /** Cell vectors a, b, c in Å, row after row; zeros where there is none. */
  readonly lattice: Float64Array;
  /** Whether space repeats along a, b and c. */
  readonly periodic: readonly [boolean, boolean, boolean];
  /** Positions in Å: x, y, z of atom after atom. */
  readonly positions: Float64Array;
  /** Total energy in eV; NaN if it is not known, as all that follow. */
  readonly energy: number;
  /** Forces in eV/Å: x, y, z of atom after atom. */
  readonly forces: Float64Array;
  /** (1/V)·∂E/∂ε in eV/Å³: xx, yy, zz, yz, xz, xy. */
  readonly stress: Float64Array;
  /** What kind of structure it is. */
  readonly configType: string | undefined;
  /** What its labels weigh in a training; NaN where that is no number. */
  readonly weights: {
    readonly energy: number;
    readonly forces: number;
    readonly stress: number;
  };
}

/** The number of atoms of one or more structures. */
export function atomCount(...structures: readonly Structure[]): number {
  return structures.reduce((sum, { numbers }) => sum + numbers.length, 0);
}

/** The elements of some structures: atomic numbers in ascending order. */
export function elementsOf(structures: readonly Structure[]): number[] {
  const found = new Set<number>();
  for (const { numbers } of structures) for (const z of numbers) found.add(z);
  return [...found].sort((a, b) => a - b);
}

/** Where the atoms of a structure are: all that a prediction needs. */
export type Geometry = Pick<
  Structure,
  "source" | "numbers" | "lattice" | "periodic" | "positions"
>;
