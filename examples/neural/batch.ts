/**
 * Batches of structures in the memory of jax-js, padded to one size, so that
 * the model is compiled once.
 *
 * @module
 */

import { numpy as np } from "@jax-js/jax";
import type { Device, ProcessGroup, Tensor } from "../../mod.ts";
import { energyOfAtoms } from "../potential/free_atoms.ts";
import { type NeighborList, neighborList } from "../potential/neighbors.ts";
import type { Random } from "../potential/random.ts";
import {
  atomCount,
  DataSetError,
  type Structure,
} from "../potential/structure.ts";
import { CUTOFF, type Geometry } from "./model.ts";

/** What every batch of a replica has room for. */
export interface Sizes {
  readonly structures: number;
  readonly atoms: number;
  /** Of one atom. */
  readonly neighbors: number;
  /** Atomic numbers. */
  readonly elements: readonly number[];
}

/**
 * Cuts structures into batches, in random order, and deals each to the replicas:
 * this replica's share of every batch, of some maybe nothing.
 */
export function deal(
  structures: readonly Structure[],
  size: number,
  random: Random,
  { rank, worldSize }: Pick<ProcessGroup, "rank" | "worldSize">,
): Structure[][] {
  const order = random.permutation(structures.length);
  const shares: Structure[][] = [];
  for (let at = 0; at < order.length; at += size) {
    const batch = order.slice(at, at + size);
    const own = batch.filter((_, k) => k % worldSize === rank);
    shares.push(own.map((i) => structures[i]!));
  }
  return shares;
}

/** The size that all these batches fit in; elements: those that there may be. */
export function sizesOf(
  batches: readonly (readonly Structure[])[],
  elements: readonly number[],
): Sizes {
  let neighbors = 1;
  for (const structure of batches.flat()) {
    const { start } = neighborList(structure, CUTOFF);
    for (let i = 1; i < start.length; i++) {
      neighbors = Math.max(neighbors, start[i]! - start[i - 1]!);
    }
  }
  return {
    structures: Math.max(1, ...batches.map((batch) => batch.length)),
    atoms: Math.max(1, ...batches.map((batch) => atomCount(...batch))),
    // A whole number of vectors of four: jax-js is ten times as fast with it.
    neighbors: 4 * Math.ceil(neighbors / 4),
    elements,
  };
}

/** A tensor on the CPU in the memory of a typed array: nothing is copied. */
export function shared(
  device: Device,
  array: Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>,
  shape: readonly number[] = [array.length],
): Tensor {
  return device.wrap(
    Deno.UnsafePointer.of(array),
    shape,
    array instanceof Float32Array ? "float32" : "float64",
    { keep: array },
  );
}

/** Some structures, maybe none. */
export class Batch implements Disposable {
  readonly structures: readonly Structure[];
  readonly atoms: number;
  /** `[N, K, 3]`: from every atom to its neighbours, Å. */
  readonly edges: np.Array;
  readonly geometry: Geometry;
  /** `[S]`: atoms of each structure. */
  readonly natoms: Tensor;
  /** `[S, 1]`: reference energies without those of the free atoms, eV. */
  readonly energies: Tensor;
  /** The same as numbers. */
  readonly targets: Float32Array<ArrayBuffer>;
  /** `[atoms, 3]`: reference forces, eV/Å. */
  readonly forces: Tensor;
  /** `[N, K]`: which atom each neighbour is, −1 where there is none. */
  readonly #neighbors: Int32Array;

  /** @param freeAtoms Energies of free atoms, by atomic number. */
  constructor(
    device: Device,
    structures: readonly Structure[],
    sizes: Sizes,
    freeAtoms: Float64Array,
  ) {
    const { atoms: n, neighbors: k, elements } = sizes;
    const z = elements.length;
    const edges = new Float32Array(n * k * 3).fill(CUTOFF);
    const species = new Float32Array(n * k * z);
    const own = new Float32Array(n * z);
    const members = new Float32Array(sizes.structures * n);
    this.#neighbors = new Int32Array(n * k).fill(-1);
    let first = 0;
    structures.forEach((structure, s) => {
      const { start, index, vector }: NeighborList = neighborList(
        structure,
        CUTOFF,
      );
      const element = (i: number): number => {
        const at = elements.indexOf(structure.numbers[i]!);
        if (at >= 0) return at;
        throw new DataSetError(
          `${structure.source}: has an element of which the structures to ` +
            `train on have none with neighbours`,
        );
      };
      for (let i = 0; i < structure.numbers.length; i++) {
        const atom = first + i;
        own[atom * z + element(i)] = 1;
        members[s * n + atom] = 1;
        for (let e = start[i]!, at = atom * k; e < start[i + 1]!; e++, at++) {
          edges.set(vector.subarray(3 * e, 3 * e + 3), 3 * at);
          species[at * z + element(index[e]!)] = 1;
          this.#neighbors[at] = first + index[e]!;
        }
      }
      first += structure.numbers.length;
    });
    this.structures = structures;
    this.atoms = first;
    this.edges = np.array(edges, { shape: [n, k, 3] });
    this.geometry = {
      species: np.array(species, { shape: [n, k, z] }),
      elements: np.array(own, { shape: [n, z] }),
      members: np.array(members, { shape: [sizes.structures, n] }),
    };
    this.natoms = device.tensor(
      Int32Array.from(structures, ({ numbers }) => numbers.length),
    );
    this.targets = Float32Array.from(
      structures,
      ({ energy, numbers }) => energy - energyOfAtoms(numbers, freeAtoms),
    );
    this.energies = device.tensor(this.targets, [structures.length, 1]);
    this.forces = device.tensor(
      Float32Array.from(structures.flatMap(({ forces }) => [...forces])),
      [first, 3],
    );
  }

  /** The forces, `[atoms, 3]`, from the gradient with respect to the edges. */
  gather(gradient: Float32Array): Float32Array<ArrayBuffer> {
    const forces = new Float32Array(3 * this.atoms);
    this.#forEach((edge, atom, neighbor) => {
      forces[atom]! += gradient[edge]!;
      forces[neighbor]! -= gradient[edge]!;
    });
    return forces;
  }

  /** The transpose: minus what edges change by where the atoms are moved so. */
  spread(direction: Float32Array): np.Array {
    const edges = new Float32Array(3 * this.#neighbors.length);
    this.#forEach((edge, atom, neighbor) => {
      edges[edge] = direction[atom]! - direction[neighbor]!;
    });
    return np.array(edges, { shape: this.edges.shape });
  }

  /** Places of a component: of an edge, its atom and its neighbour. */
  #forEach(
    visit: (edge: number, atom: number, neighbor: number) => void,
  ): void {
    const k = this.edges.shape[1]!;
    for (let e = 0; e < this.#neighbors.length; e++) {
      const neighbor = this.#neighbors[e]!;
      if (neighbor < 0) continue;
      const atom = Math.floor(e / k);
      for (let a = 0; a < 3; a++) {
        visit(3 * e + a, 3 * atom + a, 3 * neighbor + a);
      }
    }
  }

  /** Frees the memory. */
  [Symbol.dispose](): void {
    for (const array of [this.edges, ...Object.values(this.geometry)]) {
      array.dispose();
    }
    for (const tensor of [this.natoms, this.energies, this.forces]) {
      tensor.dispose();
    }
  }
}
