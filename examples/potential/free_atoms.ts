/**
 * Energies of free atoms (E0s): what a structure's energy is counted from.
 *
 * @module
 */

import { Matrix, pseudoInverse } from "ml-matrix";
import { hasEnergy } from "./labels.ts";
import { elementsOf, type Structure } from "./structure.ts";

/** Where the energy of a free atom is from. */
type Origin = "given" | "isolated atom" | "least squares" | "no energy";

/** The energies of free atoms of some elements. */
export interface FreeAtoms {
  /** eV, by atomic number; 0 for all other elements. */
  readonly energies: Float64Array;
  /** Of each element: where it is from. */
  readonly origins: ReadonlyMap<number, Origin>;
  /** Whether it is known, and not only what fits the structures best. */
  isKnown(element: number): boolean;
}

/**
 * The energies of free atoms: those given, of isolated atoms among the structures, and for
 * the other elements those that fit the energies per atom best; 0 where there is
 * no energy that an element has a part in.
 */
export function findFreeAtoms(
  structures: readonly Structure[],
  given: ReadonlyMap<number, number> = new Map(),
): FreeAtoms {
  const energies = new Float64Array(119);
  const origins = new Map<number, Origin>();
  for (const z of elementsOf(structures)) {
    const energy = given.get(z);
    if (energy === undefined) continue;
    energies[z] = energy;
    origins.set(z, "given");
  }
  for (const structure of structures) {
    const [element] = structure.numbers;
    if (
      !isFreeAtom(structure) || !hasEnergy(structure) || origins.has(element!)
    ) continue;
    energies[element!] = structure.energy;
    origins.set(element!, "isolated atom");
  }

  const labelled = structures.filter(hasEnergy);
  const others = elementsOf(labelled).filter((z) => !origins.has(z));
  if (others.length > 0) {
    const fractions = labelled.map(({ numbers }) =>
      others.map((z) => numbers.filter((n) => n === z).length / numbers.length)
    );
    const rest = labelled.map(({ numbers, energy }) =>
      (energy - energyOfAtoms(numbers, energies)) / numbers.length
    );
    // What the compositions do not tell apart is shared out.
    const solution = pseudoInverse(new Matrix(fractions))
      .mmul(Matrix.columnVector(rest));
    others.forEach((z, k) => {
      energies[z] = solution.get(k, 0);
      origins.set(z, "least squares");
    });
  }
  for (const z of elementsOf(structures)) {
    if (!origins.has(z)) origins.set(z, "no energy");
  }
  return {
    energies,
    origins,
    isKnown: (element) =>
      ["given", "isolated atom"].includes(origins.get(element)!),
  };
}

/** Whether it is one atom alone in space, or said to be. */
export function isFreeAtom(
  { numbers, periodic, configType }: Pick<
    Structure,
    "numbers" | "periodic" | "configType"
  >,
): boolean {
  return numbers.length === 1 &&
    (configType === "IsolatedAtom" || !periodic.some(Boolean));
}

/** The energy of atoms that do not see each other, eV. */
export function energyOfAtoms(
  numbers: Uint8Array,
  energies: Float64Array,
): number {
  return numbers.reduce((sum, z) => sum + energies[z]!, 0);
}
