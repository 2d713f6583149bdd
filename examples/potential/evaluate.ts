/**
 * How good a potential is on a data set, and what it predicts for it.
 *
 * @module
 */

import { matmul, Metrics, type ProcessGroup, type Tensor } from "../../mod.ts";
import type { Batch } from "./batches.ts";
import { energyOfAtoms } from "./free_atoms.ts";
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

/** Errors over a whole data set. */
export interface Errors {
  /** Mean absolute error of the energies, eV per atom. */
  readonly energyMAE: number;
  /** Mean absolute error of the forces, eV/Å per component. */
  readonly forceMAE: number;
  /** Root of the mean square of the same. */
  readonly forceRMSE: number;
  /** The force MAE for forces predicted to be zero. */
  readonly baselineForceMAE: number;
  /** Mean cosine of the angle between predicted and reference force. */
  readonly forceCosine: number;
  /** Fraction of structures within 0.02 eV and 0.03 eV/Å. */
  readonly energyForcesWithinThreshold: number;
}

/** The errors on all replicas' shares: summed on the device, read once. */
export async function evaluate(
  batches: readonly Batch[],
  parameters: Tensor,
  group: ProcessGroup,
): Promise<Errors> {
  using metrics = new Metrics(group.device, { group });
  using baseline = new Metrics(group.device, { group });
  for (const batch of batches.flatMap(({ micro }) => micro)) {
    const { natoms, energyDesign, forceDesign, atoms } = batch;
    using energies = matmul(energyDesign, parameters);
    using components = matmul(forceDesign, parameters);
    using forces = components.reshape([atoms, 3]);
    using zero = group.device.zeros([atoms, 3], forces.dtype);
    metrics.add({
      natoms,
      energy: { input: energies, target: batch.energies },
      forces: { input: forces, target: batch.forces },
    });
    baseline.add({ natoms, forces: { input: zero, target: batch.forces } });
  }
  const report = await metrics.result();
  return {
    energyMAE: report.energyPerAtomMAE,
    forceMAE: report.forcesMAE,
    forceRMSE: report.forcesRMSE,
    baselineForceMAE: (await baseline.result()).forcesMAE,
    forceCosine: report.forcesCosineSimilarity,
    energyForcesWithinThreshold: report.energyForcesWithinThreshold,
  };
}

/** Predicts on all replicas, each its share, and tells all of them the whole. */
export async function predict(
  structures: readonly Structure[],
  batches: readonly Batch[],
  parameters: Tensor,
  { freeAtoms }: Whitening,
  group: ProcessGroup,
): Promise<Predictions> {
  const offsets = [0];
  for (const structure of structures) {
    offsets.push(offsets.at(-1)! + 3 * atomCount(structure));
  }
  const energies = new Float64Array(structures.length);
  const forces = new Float64Array(offsets.at(-1)!);
  const parts = batches.flatMap(({ micro }) => micro);
  for (const { members, energyDesign, forceDesign } of parts) {
    using energyTensor = matmul(energyDesign, parameters);
    using forceTensor = matmul(forceDesign, parameters);
    const ofEnergies = await energyTensor.data() as Float64Array;
    const ofForces = await forceTensor.data() as Float64Array;
    let at = 0;
    members.forEach((member, k) => {
      const atoms = atomCount(structures[member]!);
      energies[member] = ofEnergies[k]! +
        energyOfAtoms(structures[member]!.numbers, freeAtoms);
      forces.set(ofForces.subarray(at, at + 3 * atoms), offsets[member]!);
      at += 3 * atoms;
    });
  }
  return {
    energies: await gather(energies, group),
    forces: await gather(forces, group),
  };
}
