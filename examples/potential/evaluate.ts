/**
 * Predictions for a whole data set, and their errors.
 *
 * @module
 */

import { matmul, type ProcessGroup, type Tensor } from "../../mod.ts";
import type { Batch } from "./batches.ts";
import { gather } from "./gather.ts";
import { atomCount, type Structure } from "./structure.ts";
import type { Whitening } from "./whitening.ts";

/** Energies and forces of all structures of a data set, in its order. */
export interface Predictions {
  /** eV, one per structure. */
  readonly energies: Float64Array;
  /** eV/Å, structure after structure. */
  readonly forces: Float64Array;
}

/** Mean absolute errors. */
export interface Errors {
  /** eV per atom. */
  readonly energyMAE: number;
  /** eV/Å per component. */
  readonly forceMAE: number;
  /** The same for forces predicted to be zero. */
  readonly baselineForceMAE: number;
}

/** Predicts on all replicas, each its share, and tells all of them the whole. */
export async function predict(
  structures: readonly Structure[],
  batches: readonly Batch[],
  parameters: Tensor,
  { energyPerAtom }: Whitening,
  group: ProcessGroup,
): Promise<Predictions> {
  const offsets = [0];
  for (const structure of structures) {
    offsets.push(offsets.at(-1)! + 3 * atomCount(structure));
  }
  const energies = new Float64Array(structures.length);
  const forces = new Float64Array(offsets.at(-1)!);
  for (const { members, energyDesign, forceDesign } of batches) {
    using energyTensor = matmul(energyDesign, parameters);
    using forceTensor = matmul(forceDesign, parameters);
    const ofEnergies = await energyTensor.data() as Float64Array;
    const ofForces = await forceTensor.data() as Float64Array;
    let at = 0;
    members.forEach((member, k) => {
      const atoms = atomCount(structures[member]!);
      energies[member] = ofEnergies[k]! + atoms * energyPerAtom;
      forces.set(ofForces.subarray(at, at + 3 * atoms), offsets[member]!);
      at += 3 * atoms;
    });
  }
  return {
    energies: await gather(energies, group),
    forces: await gather(forces, group),
  };
}

/** Compares predictions with the reference. */
export function errorsOf(
  structures: readonly Structure[],
  { energies, forces }: Predictions,
): Errors {
  let energyError = 0;
  let forceError = 0;
  let forceSize = 0;
  let at = 0;
  structures.forEach((structure, s) => {
    energyError += Math.abs(energies[s]! - structure.energy) /
      atomCount(structure);
    for (const force of structure.forces) {
      forceError += Math.abs(forces[at++]! - force);
      forceSize += Math.abs(force);
    }
  });
  return {
    energyMAE: energyError / structures.length,
    forceMAE: forceError / forces.length,
    baselineForceMAE: forceSize / forces.length,
  };
}
