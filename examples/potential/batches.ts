/**
 * From structures to batches on the device: the linear maps from parameters to
 * energies and forces (design matrices), and the reference values.
 *
 * A data set is shuffled once by the seed, cut into batches, and each batch is
 * dealt to the replicas structure by structure. So a replica keeps in device
 * memory what is its own of every batch, and a step copies nothing; of a data set
 * that is too large for it the rest waits in a file. Replicas get different
 * numbers of atoms, and from a ragged last batch maybe none.
 *
 * @module
 */

import type { Device, ProcessGroup, Tensor } from "../../mod.ts";
import type { Basis } from "./basis.ts";
import { Descriptors } from "./descriptors.ts";
import { energyOfAtoms } from "./free_atoms.ts";
import type { Options } from "./options.ts";
import { countLabels, hasStress, type LabelCounts } from "./labels.ts";
import { Progress } from "./progress.ts";
import type { Random } from "./random.ts";
import type { Shelf } from "./shelf.ts";
import { laneCount, type Statistics } from "./statistics.ts";
import { atomCount, type Structure } from "./structure.ts";
import { applyWhitening, type Whitening } from "./whitening.ts";

type Numbers = Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;

/** One replica's share of a batch, before it is on the device. */
export interface Share {
  /** Which structures of the data set are this replica's. */
  readonly members: readonly number[];
  /** Take away their design rows: of the energy, the forces and the stress. */
  readonly rows: readonly (() => Float64Array<ArrayBuffer>)[];
}

/**
 * Deals a data set to the replicas and computes the design rows of this
 * replica's share.
 *
 * @param shelf Takes the rows.
 * @param statistics Of the structures to train on.
 */
export async function deal(
  structures: readonly Structure[],
  batchSize: number,
  random: Random,
  { rank, worldSize }: Pick<ProcessGroup, "rank" | "worldSize">,
  basis: Basis,
  shelf: Shelf,
  statistics?: Statistics,
): Promise<Share[]> {
  const descriptors = new Descriptors(basis);
  const lanes = laneCount(batchSize, worldSize);
  using progress = new Progress("descriptors", structures.length, rank === 0);
  const order = random.permutation(structures.length);
  const shares: Share[] = [];
  for (let first = 0; first < order.length; first += batchSize) {
    const members: number[] = [];
    const rows: Share["rows"][number][] = [];
    for (const [k, member] of order.slice(first, first + batchSize).entries()) {
      const lane = k % lanes;
      if (lane % worldSize !== rank) continue;
      const structure = structures[member]!;
      const { energy, forces, stress } = descriptors.designRows(
        structure,
        hasStress(structure),
      );
      statistics?.add(lane, { energy, forces, stress }, structure);
      const all = new Float64Array(
        energy.length + forces.length + stress.length,
      );
      all.set(energy);
      all.set(forces, energy.length);
      all.set(stress, energy.length + forces.length);
      rows.push(shelf.put(all));
      members.push(member);
      await progress.update(first + k + 1); // the others are about as far
    }
    shares.push({ members, rows });
  }
  return shares;
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
    shelf: Shelf,
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
        new MicroBatch(
          device,
          structures,
          part,
          whitening,
          basis,
          shelf,
          dtype,
        ),
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
  /** The design matrices, or how to load them. */
  readonly #kept: Matrices | undefined;
  readonly #load: (() => Matrices) | undefined;

  constructor(
    device: Device,
    structures: readonly Structure[],
    { members, rows }: Share,
    whitening: Whitening,
    basis: Basis,
    shelf: Shelf,
    dtype: Options["dtype"],
  ) {
    const own = members.map((member) => structures[member]!);
    const stressed = own.filter(hasStress);
    const count = own.length;
    const atoms = atomCount(...own);
    const width = whitening.size;
    const numbers = (length: number): Numbers =>
      dtype === "float32" ? new Float32Array(length) : new Float64Array(length);
    const tensor = (
      parts: readonly Float64Array[],
      shape: readonly number[],
    ): Tensor => {
      const data = numbers(shape.reduce((product, n) => product * n, 1));
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

    const energy = numbers(count * width);
    const force = numbers(3 * atoms * width);
    const stress = numbers(6 * stressed.length * width);
    let forceAt = 0, stressAt = 0;
    own.forEach(({ forces }, k) => {
      const white = applyWhitening(rows[k]!(), whitening, basis);
      const end = width * (1 + forces.length);
      energy.set(white.subarray(0, width), k * width);
      force.set(white.subarray(width, end), forceAt);
      stress.set(white.subarray(end), stressAt);
      forceAt += end - width;
      stressAt += white.length - end;
    });
    const matrices = [energy, force, stress];
    if (shelf.reserve(matrices.reduce((sum, m) => sum + m.byteLength, 0))) {
      this.#kept = toDevice(device, width, matrices.map((m) => () => m));
    } else {
      const read = matrices.map((matrix) => shelf.write(matrix));
      this.#load = loader(device, width, read);
    }
  }

  /** The design matrices: to be disposed of after use, as they may be a copy of a file's. */
  design(): Matrices & Disposable {
    const matrices = this.#kept ?? this.#load!();
    return {
      ...matrices,
      [Symbol.dispose]: () => {
        if (matrices !== this.#kept) dispose(matrices);
      },
    };
  }

  /** Frees the device memory. */
  [Symbol.dispose](): void {
    this.natoms.dispose();
    this.energies.dispose();
    this.forces.dispose();
    this.stresses.dispose();
    for (const weights of Object.values(this.weights)) weights.dispose();
    if (this.#kept !== undefined) dispose(this.#kept);
  }
}

/** Linear maps from P parameters: a prediction is the product of both. */
export interface Matrices {
  /** `[S, P]`: to the energies. */
  readonly energy: Tensor;
  /** `[3N, P]`: to the forces. */
  readonly forces: Tensor;
  /** `[6T, P]`: to the stresses. */
  readonly stress: Tensor;
}

/** Matrices of the numbers that are read, one after the other. */
function toDevice(
  device: Device,
  width: number,
  read: readonly (() => Numbers)[],
): Matrices {
  const [energy, forces, stress] = read.map((numbers) => {
    const data = numbers();
    return device.tensor(data, [data.length / width, width]);
  }) as [Tensor, Tensor, Tensor];
  return { energy, forces, stress };
}

/** Loads them later; apart from where the numbers are made, so that it does not hold them. */
function loader(...from: Parameters<typeof toDevice>): () => Matrices {
  return () => toDevice(...from);
}

function dispose(matrices: Matrices): void {
  for (const tensor of Object.values(matrices)) tensor.dispose();
}
