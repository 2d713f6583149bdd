/**
 * What the least squares need to know of a training set: the same to the last
 * bit on all replicas and for any number of them.
 *
 * Sums of numbers depend on their order. So a batch's structures are dealt to
 * lanes first, and lanes to replicas: one replica adds up all of a lane, in the
 * order of the batches, and all replicas add the lanes in their order. A lane
 * takes memory once, whatever the number of structures.
 *
 * @module
 */

import type { ProcessGroup } from "../../mod.ts";
import { type Basis, elementOf } from "./basis.ts";
import type { DesignRows } from "./descriptors.ts";
import { energyOfAtoms, type FreeAtoms } from "./free_atoms.ts";
import { gather } from "./gather.ts";
import { hasEnergy, hasForce, hasStress } from "./labels.ts";
import type { Structure } from "./structure.ts";

/** How much more a row of energy per atom counts than a force component. */
const ENERGY_WEIGHT = 100;
/** And a row of stress: as the energy of an atom in 30 Å³. */
const STRESS_WEIGHT = 30;
/** Rows that are added to a Gram matrix at a time. */
const ROWS = 4;
/** Lanes where batches are that large; many numbers of replicas divide it. */
const MOST_LANES = 48;

/** The lanes of a training: more than these have no structure. */
export function laneCount(batchSize: number, worldSize: number): number {
  return Math.min(batchSize, Math.max(MOST_LANES, worldSize));
}

/** Sums over all structures. */
export interface Moments {
  /** Mean of each function over the atoms that have it and an energy. */
  readonly mean: Float64Array;
  /** The Gram matrix of all rows, the references as last column: its upper triangle, row after row. */
  readonly gram: Float64Array;
  /** The largest that each function is per atom. */
  readonly sizes: Float64Array;
}

/** What one replica adds up of one lane. */
interface Lane {
  readonly energies: { row: Float64Array; structure: Structure }[];
  readonly gram: GramSum;
}

/** Adds up the structures of a replica's share. */
export class Statistics {
  readonly #basis: Basis;
  readonly #freeAtoms: FreeAtoms;
  readonly #lanes: readonly Lane[];
  readonly #sizes: Float64Array<ArrayBuffer>;

  constructor(basis: Basis, freeAtoms: FreeAtoms, lanes: number) {
    this.#basis = basis;
    this.#freeAtoms = freeAtoms;
    this.#lanes = Array.from({ length: lanes }, () => ({
      energies: [],
      gram: new GramSum(basis.size + 1),
    }));
    this.#sizes = new Float64Array(basis.size);
  }

  /** Adds a structure to a lane: all of a lane on one replica. */
  add(lane: number, rows: DesignRows, structure: Structure): void {
    const { energies, gram } = this.#lanes[lane]!;
    const { numbers, forces, stress, weights } = structure;
    for (let p = 0; p < this.#sizes.length; p++) {
      const size = Math.abs(rows.energy[p]!) / numbers.length;
      this.#sizes[p] = Math.max(this.#sizes[p]!, size);
    }
    if (hasEnergy(structure)) {
      energies.push({ row: rows.energy.slice(), structure });
    }
    const width = this.#basis.size;
    forces.forEach((force, k) => {
      if (!hasForce(structure, Math.floor(k / 3))) return;
      const row = rows.forces.subarray(k * width, (k + 1) * width);
      gram.add(row, force, Math.sqrt(weights.forces));
    });
    if (hasStress(structure)) {
      const weight = STRESS_WEIGHT * Math.sqrt(weights.stress);
      stress.forEach((x, k) =>
        gram.add(rows.stress.subarray(k * width, (k + 1) * width), x, weight)
      );
    }
  }

  /** The sums over all replicas, which all have to ask. Nothing can be added then. */
  async result(group: ProcessGroup): Promise<Moments> {
    const sums = await this.#sum(group, this.#basis.size, ({ energies }) => {
      const sum = new Float64Array(this.#basis.size);
      for (const { row } of energies) row.forEach((x, p) => sum[p]! += x);
      return sum;
    });
    const mean = this.#meanOf(sums);
    const gram = await this.#sum(
      group,
      this.#lanes[0]!.gram.length,
      ({ energies, gram }) => {
        for (const { row, structure } of energies) {
          const { numbers, energy, weights } = structure;
          const weight = ENERGY_WEIGHT * Math.sqrt(weights.energy) /
            numbers.length;
          const free = energyOfAtoms(numbers, this.#freeAtoms.energies);
          gram.add(centred(row, mean, this.#basis), energy - free, weight);
        }
        return gram.result();
      },
    );
    using sizes = group.device.tensor(this.#sizes);
    group.allReduce(sizes, "max");
    return { mean, gram, sizes: await sizes.data() as Float64Array };
  }

  /** Adds what the replicas have of the lanes, one lane after the other. */
  async #sum(
    group: ProcessGroup,
    length: number,
    part: (lane: Lane) => Float64Array<ArrayBuffer>,
  ): Promise<Float64Array> {
    const sum = new Float64Array(length);
    const none = new Float64Array(length);
    for (const [k, lane] of this.#lanes.entries()) {
      const own = k % group.worldSize === group.rank ? part(lane) : none;
      const all = await gather(own, group);
      for (let p = 0; p < length; p++) sum[p]! += all[p]!;
    }
    return sum;
  }

  /**
   * Means over the atoms of an element of the functions that they have; zeros
   * where the energy of the free atom is known, which no mean may shift.
   */
  #meanOf(sums: Float64Array): Float64Array {
    const { elements } = this.#basis;
    return sums.map((sum, p) => {
      const element = elementOf(p, this.#basis);
      const isShifted = p >= elements.length &&
        !this.#freeAtoms.isKnown(elements[element]!);
      const atoms = sums[element]!;
      return isShifted && atoms > 0 ? sum / atoms : 0;
    });
  }
}

/** A row of the energy without the means of its atoms. */
export function centred(
  energy: Float64Array,
  mean: Float64Array,
  basis: Basis,
): Float64Array {
  return energy.map((e, p) => e - energy[elementOf(p, basis)]! * mean[p]!);
}

/** Σ x xᵀ, of which the upper triangle is kept, row after row. */
class GramSum {
  readonly length: number;
  readonly #width: number;
  /** Made when there is something to add. */
  #sum: Float64Array<ArrayBuffer> | undefined;
  /** Rows that wait: a pass over the matrix takes several. */
  readonly #rows: Float64Array;
  #waiting = 0;

  constructor(width: number) {
    this.#width = width;
    this.length = width * (width + 1) / 2;
    this.#rows = new Float64Array(ROWS * width);
  }

  /** Adds the row x and its reference, times a weight. */
  add(x: Float64Array, target: number, weight: number): void {
    const width = this.#width;
    const at = this.#waiting * width;
    for (let p = 0; p < width - 1; p++) this.#rows[at + p] = weight * x[p]!;
    this.#rows[at + width - 1] = weight * target;
    if (++this.#waiting === ROWS) this.#addRows();
  }

  /** The sum. */
  result(): Float64Array<ArrayBuffer> {
    if (this.#waiting > 0) {
      this.#rows.fill(0, this.#waiting * this.#width);
      this.#addRows();
    }
    return this.#sum ?? new Float64Array(this.length);
  }

  #addRows(): void {
    const width = this.#width;
    const sum = this.#sum ??= new Float64Array(this.length);
    const [a, b, c, d] = [0, 1, 2, 3].map((row) =>
      this.#rows.subarray(row * width, (row + 1) * width)
    ) as [Float64Array, Float64Array, Float64Array, Float64Array];
    for (let p = 0, k = 0; p < width; p++) {
      const ap = a[p]!, bp = b[p]!, cp = c[p]!, dp = d[p]!;
      for (let q = p; q < width; q++, k++) {
        sum[k]! += ap * a[q]! + bp * b[q]! + cp * c[q]! + dp * d[q]!;
      }
    }
    this.#waiting = 0;
  }
}
