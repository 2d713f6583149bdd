/**
 * How good a potential in training is on a data set, and what it predicts for it.
 *
 * @module
 */

import { matmul, type ProcessGroup, type Tensor } from "../../mod.ts";
import type { Batch } from "./batches.ts";
import { type ErrorReport, ErrorSums, type Predicted } from "./errors.ts";
import { energyOfAtoms } from "./free_atoms.ts";
import { gather } from "./gather.ts";
import { hasStress } from "./labels.ts";
import { atomCount, type Structure } from "./structure.ts";
import type { Whitening } from "./whitening.ts";

/** The errors on all replicas' shares: each adds its own, all get the sum. */
export async function evaluate(
  structures: readonly Structure[],
  batches: readonly Batch[],
  parameters: Tensor,
  whitening: Whitening,
  group: ProcessGroup,
): Promise<ErrorReport> {
  using sums = new ErrorSums(group.device, group, structures);
  const shares = predictShares(structures, batches, parameters, whitening);
  for await (const share of shares) sums.add(share.map(({ of }) => of));
  return await sums.result();
}

/**
 * Predicts on all replicas, each its share, and tells all of them the whole, in
 * the order of the structures; a stress where there is one to compare it with.
 */
export async function predict(
  structures: readonly Structure[],
  batches: readonly Batch[],
  parameters: Tensor,
  whitening: Whitening,
  group: ProcessGroup,
): Promise<Predicted[]> {
  const offsets = [0];
  for (const structure of structures) {
    offsets.push(offsets.at(-1)! + 3 * atomCount(structure));
  }
  const ownEnergies = new Float64Array(structures.length);
  const ownForces = new Float64Array(offsets.at(-1)!);
  const ownStresses = new Float64Array(6 * structures.length);
  const shares = predictShares(structures, batches, parameters, whitening);
  for await (const share of shares) {
    for (const { member, of: [, { energy, forces, stress }] } of share) {
      ownEnergies[member] = energy;
      ownForces.set(forces, offsets[member]!);
      if (stress !== undefined) ownStresses.set(stress, 6 * member);
    }
  }
  const energies = await gather(ownEnergies, group);
  const forces = await gather(ownForces, group);
  const stresses = await gather(ownStresses, group);
  return structures.map((structure, s) => [structure, {
    energy: energies[s]!,
    forces: forces.slice(offsets[s]!, offsets[s + 1]!),
    ...hasStress(structure) ? { stress: stresses.slice(6 * s, 6 * s + 6) } : {},
  }]);
}

/** What this replica predicts: a micro-batch at a time. */
async function* predictShares(
  structures: readonly Structure[],
  batches: readonly Batch[],
  parameters: Tensor,
  { freeAtoms }: Whitening,
): AsyncGenerator<{ member: number; of: Predicted }[], void> {
  const parts = batches.flatMap(({ micro }) => micro);
  for (const part of parts) {
    const { members } = part;
    using design = part.design();
    using energyTensor = matmul(design.energy, parameters);
    using forceTensor = matmul(design.forces, parameters);
    using stressTensor = matmul(design.stress, parameters);
    const energies = await energyTensor.data() as Float64Array;
    const components = Float64Array.from(
      await forceTensor.data() as Float64Array,
    );
    const strained = Float64Array.from(
      await stressTensor.data() as Float64Array,
    );
    let at = 0, stressAt = 0;
    yield members.map((member, k) => {
      const structure = structures[member]!;
      const start = at;
      at += 3 * atomCount(structure);
      const energy = energies[k]! + energyOfAtoms(structure.numbers, freeAtoms);
      const forces = components.subarray(start, at);
      if (!hasStress(structure)) {
        return { member, of: [structure, { energy, forces }] };
      }
      const stress = strained.subarray(stressAt, stressAt += 6);
      return { member, of: [structure, { energy, forces, stress }] };
    });
  }
}
