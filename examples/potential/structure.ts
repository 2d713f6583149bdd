/**
 * What a data set is made of: atoms in a periodic cell, with the energy and
 * the forces that a reference method gave for them.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";

/** Structures that cannot be one data set. */
export class DataSetError extends AtomlossError {}

/** Atoms in a cell, and the reference energy and forces on them. */
export interface Structure {
  /** Where it comes from, for messages: a file and line, or what made it. */
  readonly source: string;
  /** Chemical symbol of each atom. */
  readonly species: readonly string[];
  /** Cell vectors a, b, c in Å, row after row. */
  readonly lattice: Float64Array;
  /** Whether space repeats along a, b and c. */
  readonly periodic: readonly [boolean, boolean, boolean];
  /** Positions in Å: x, y, z of atom after atom. */
  readonly positions: Float64Array;
  /** Total energy in eV. */
  readonly energy: number;
  /** Forces in eV/Å: x, y, z of atom after atom. */
  readonly forces: Float64Array;
}

/** The number of atoms of one or more structures. */
export function atomCount(...structures: readonly Structure[]): number {
  return structures.reduce((sum, { species }) => sum + species.length, 0);
}

/**
 * The one chemical element that all structures consist of.
 *
 * @throws {DataSetError} where there are several: the descriptors of this
 * example do not tell them apart.
 */
export function elementOf(structures: readonly Structure[]): string {
  const [first] = structures[0]?.species ?? [];
  if (first === undefined) throw new DataSetError("there is no structure");
  for (const { source, species } of structures) {
    const other = species.find((symbol) => symbol !== first);
    if (other !== undefined) {
      throw new DataSetError(
        `${source}: has ${other}, but the first structure has ${first}: ` +
          `all structures must be of one chemical element`,
      );
    }
  }
  return first;
}
