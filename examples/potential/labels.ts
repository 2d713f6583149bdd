/**
 * Which labels of a structure count: any may be missing, and nothing counts that
 * has none.
 *
 * @module
 */

import type { Structure } from "./structure.ts";

/** How many labels there are. */
export interface LabelCounts {
  /** Structures with an energy. */
  readonly energies: number;
  /** Atoms with a force. */
  readonly forces: number;
  /** Structures with a stress. */
  readonly stresses: number;
}

/**
 * The structure with NaN for what is no label: all of an atom's force of which a
 * component is missing, and a stress where there is no volume.
 */
export function withoutHalfLabels(structure: Structure): Structure {
  const { forces, periodic } = structure;
  return {
    ...structure,
    forces: forces.map((force, k) =>
      hasForce(structure, Math.floor(k / 3)) ? force : NaN
    ),
    stress: periodic.every(Boolean)
      ? structure.stress
      : new Float64Array(6).fill(NaN),
  };
}

/** Whether a structure has an energy. */
export function hasEnergy({ energy }: Pick<Structure, "energy">): boolean {
  return !Number.isNaN(energy);
}

/** Whether an atom of a structure has a force. */
export function hasForce(
  { forces }: Pick<Structure, "forces">,
  atom: number,
): boolean {
  return !forces.subarray(3 * atom, 3 * atom + 3).some(Number.isNaN);
}

/** Whether a structure has a stress. */
export function hasStress({ stress }: Pick<Structure, "stress">): boolean {
  return !stress.some(Number.isNaN);
}

/** The labels of some structures. */
export function countLabels(structures: readonly Structure[]): LabelCounts {
  const counts = { energies: 0, forces: 0, stresses: 0 };
  for (const structure of structures) {
    counts.energies += Number(hasEnergy(structure));
    counts.stresses += Number(hasStress(structure));
    structure.numbers.forEach((_, atom) =>
      counts.forces += Number(hasForce(structure, atom))
    );
  }
  return counts;
}
