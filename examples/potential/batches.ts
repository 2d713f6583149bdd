/**
 * From structures to batches on the device: the linear maps from parameters to
 * energies and forces (design matrices), and the reference values.
 *
 * A data set is shuffled once by the seed, cut into batches, and each batch is
 * dealt to the replicas structure by structure. So a replica keeps in device
 * memory what is its own of every batch, and a step copies nothing. Replicas
 * get different numbers of atoms, and from a ragged last batch maybe none.
 *
 * @module
 */

import type { Device, ProcessGroup, Tensor } from "../../mod.ts";
import type { Basis } from "./basis.ts";
import { Descriptors, type DesignRows } from "./descriptors.ts";
import { energyOfAtoms } from "./free_atoms.ts";
import { gather } from "./gather.ts";
import type { Options } from "./options.ts";
import { countLabels, hasStress, type LabelCounts } from "./labels.ts";
import { Progress } from "./progress.ts";
import type { Random } from "./random.ts";
import { atomCount, type Structure } from "./structure.ts";
import { applyWhitening, Statistics, type Whitening } from "./whitening.ts";

/** One replica's share of a batch, before it is on the device. */
export interface Share {
  /** Which structures of the data set the whole batch has, in order. */
  readonly batch: readonly number[];
  /** Which of them are this replica's. */
  readonly members: readonly number[];
  /** Design rows of the members. */
  readonly rows: readonly DesignRows[];
}

/**
 * Deals a data set to the replicas and computes the descriptors of this
 * replica's share.
 */
export async function deal(
  structures: readonly Structure[],
  batchSize: number,
  random: Random,
  { rank, worldSize }: Pick<ProcessGroup, "rank" | "worldSize">,
  basis: Basis,
): Promise<Share[]> {
  const descriptors = new Descriptors(basis);
  using progress = new Progress("descriptors", structures.length, rank === 0);
  const order = random.permutation(structures.length);
  const shares: Share[] = [];
  for (let first = 0; first < order.length; first += batchSize) {
    const batch = order.slice(first, first + batchSize);
    const members = batch.filter((_, k) => k % worldSize === rank);
    const rows: DesignRows[] = [];
    for (const member of members) {
      const structure = structures[member]!;
      rows.push(descriptors.designRows(structure, hasStress(structure)));
      // The others are about as far.
      await progress.update(
        Math.min(first + rows.length * worldSize, order.length),
      );
    }
    shares.push({ batch, members, rows });
  }
  return shares;
}

/**
 * The statistics of all structures, the same to the bit on all replicas and for
 * any number of them: each computes those of its share, and all add them in the
 * order of the batches.
 */
export async function allStatistics(
  structures: readonly Structure[],
  shares: readonly Share[],
  basis: Basis,
  group: ProcessGroup,
): Promise<Statistics> {
  const all = new Statistics(basis);
  const { length } = all;
  for (const { batch, members, rows } of shares) {
    for (let first = 0; first < batch.length; first += group.worldSize) {
      const round = batch.slice(first, first + group.worldSize);
      const parts = new Float64Array(round.length * length);
      const own = members.indexOf(round[group.rank] ?? -1);
      if (own >= 0) {
        const part = all.of(rows[own]!, structures[members[own]!]!);
        parts.set(part, group.rank * length);
      }
      const gathered = await gather(parts, group);
      round.forEach((structure, k) =>
        all.add(structure, gathered.subarray(k * length, (k + 1) * length))
      );
    }
  }
  return all;
}

/**
 * One replica's share of a batch in device memory, in micro-batches of so many
 * structures; one at least, maybe empty.
 */
export class Batch implements Disposable {
  readonly micro: readonly MicroBatch[];
  /** Labels of the share. */
  readonly labels: LabelCounts;

  constructor(
    device: Device,
    structures: readonly Structure[],
    { members, rows }: Share,
    whitening: Whitening,
    basis: Basis,
    { dtype, microBatch }: Pick<Options, "dtype" | "microBatch">,
  ) {
    const size = microBatch ?? Math.max(members.length, 1);
    const micro: MicroBatch[] = [];
    for (let at = 0; at === 0 || at < members.length; at += size) {
      const part = {
        members: members.slice(at, at + size),
        rows: rows.slice(at, at + size),
      };
      micro.push(
        new MicroBatch(device, structures, part, whitening, basis, dtype),
      );
    }
    this.micro = micro;
    this.labels = countLabels(members.map((member) => structures[member]!));
  }

  /** Frees the device memory. */
  [Symbol.dispose](): void {
    for (const micro of this.micro) micro[Symbol.dispose]();
  }
}

/**
 * What one pass of the model takes; S structures, N atoms, P parameters. T
 * structures have a stress.
 */
export class MicroBatch implements Disposable {
  /** Which structures of the data set it has. */
  readonly members: readonly number[];
  readonly atoms: number;
  /** `[S]`: atoms of each structure. */
  readonly natoms: Tensor;
  /** `[S, 1]`: reference energies, without those of the free atoms; NaN where there is none. */
  readonly energies: Tensor;
  /** `[N, 3]`: reference forces; NaN where there is none. */
  readonly forces: Tensor;
  /** `[T, 6]`: reference stresses. */
  readonly stresses: Tensor;
  /** `[S]`, `[S]`, `[T]`: what the labels of a structure weigh. */
  readonly weights: {
    readonly energy: Tensor;
    readonly forces: Tensor;
    readonly stress: Tensor;
  };
  /** `[S, P]`: times the parameters, the energies. */
  readonly energyDesign: Tensor;
  /** `[3N, P]`: times the parameters, the forces. */
  readonly forceDesign: Tensor;
  /** `[6T, P]`: times the parameters, the stresses. */
  readonly stressDesign: Tensor;

  constructor(
    device: Device,
    structures: readonly Structure[],
    { members, rows }: Pick<Share, "members" | "rows">,
    whitening: Whitening,
    basis: Basis,
    dtype: Options["dtype"],
  ) {
    const own = members.map((member) => structures[member]!);
    const stressed = own.filter(hasStress);
    const white = rows.map((row) => applyWhitening(row, whitening, basis));
    const count = own.length;
    const atoms = atomCount(...own);
    const width = whitening.size;
    const tensor = (
      parts: readonly Float64Array[],
      shape: readonly number[],
    ): Tensor => {
      const length = shape.reduce((product, n) => product * n, 1);
      const data = dtype === "float32"
        ? new Float32Array(length)
        : new Float64Array(length);
      let at = 0;
      for (const part of parts) {
        data.set(part, at);
        at += part.length;
      }
      return device.tensor(data, shape);
    };

    this.members = members;
    this.atoms = atoms;
    this.natoms = device.tensor(
      Int32Array.from(own, ({ numbers }) => numbers.length),
      [count],
    );
    this.energies = tensor(
      own.map(({ energy, numbers }) =>
        Float64Array.of(energy - energyOfAtoms(numbers, whitening.freeAtoms))
      ),
      [count, 1],
    );
    this.forces = tensor(own.map(({ forces }) => forces), [atoms, 3]);
    this.stresses = tensor(
      stressed.map(({ stress }) => stress),
      [stressed.length, 6],
    );
    const weightsOf = (
      some: readonly Structure[],
      name: keyof Structure["weights"],
    ): Tensor =>
      tensor(
        [Float64Array.from(some, ({ weights }) => weights[name])],
        [some.length],
      );
    this.weights = {
      energy: weightsOf(own, "energy"),
      forces: weightsOf(own, "forces"),
      stress: weightsOf(stressed, "stress"),
    };
    this.energyDesign = tensor(
      white.map(({ energy }) => energy),
      [count, width],
    );
    this.forceDesign = tensor(
      white.map(({ forces }) => forces),
      [3 * atoms, width],
    );
    this.stressDesign = tensor(
      white.map(({ stress }) => stress),
      [6 * stressed.length, width],
    );
  }

  /** Frees the device memory. */
  [Symbol.dispose](): void {
    this.natoms.dispose();
    this.energies.dispose();
    this.forces.dispose();
    this.stresses.dispose();
    for (const weights of Object.values(this.weights)) weights.dispose();
    this.energyDesign.dispose();
    this.forceDesign.dispose();
    this.stressDesign.dispose();
  }
}
