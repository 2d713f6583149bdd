/**
 * The functions of a basis and their exact derivatives, for a structure.
 *
 * @module
 */

import { SYMBOLS } from "../extxyz/elements.ts";
import type { Basis } from "./basis.ts";
import { Bond, FIRST_PRODUCT } from "./bond.ts";
import { type NeighborList, neighborList } from "./neighbors.ts";
import { periodicVolume, stressOf, VOIGT } from "./stress.ts";
import { DataSetError, type Geometry } from "./structure.ts";

/** Energy, forces and stress of a structure, as linear maps from the parameters. */
export interface DesignRows {
  /** `[size]` */
  readonly energy: Float64Array;
  /** `[3 · atoms, size]`: minus the derivative of `energy` by each coordinate. */
  readonly forces: Float64Array;
  /**
   * `[6, size]`: its derivative by strain over the volume: xx yy zz yz xz xy.
   * Empty where it is not asked for.
   */
  readonly stress: Float64Array;
}

/** What a potential says of a structure. */
export interface Prediction {
  /** eV */
  readonly energy: number;
  /** eV/Å: x, y, z of atom after atom. */
  readonly forces: Float64Array<ArrayBuffer>;
  /** eV/Å³: xx yy zz yz xz xy; NaN where the structure is not periodic in three directions. */
  readonly stress: Float64Array<ArrayBuffer>;
}

/** Computes the functions of a basis; has the memory for it. */
export class Descriptors {
  readonly basis: Basis;
  readonly #bond: Bond;
  /** The numbers of the tape for one atom. */
  readonly #value: Float64Array;
  /** Their derivatives by the position of a neighbour, or of an energy by them. */
  readonly #slope: Float64Array;
  /** ∂value[k]/∂value[left] and …[right] of each product. */
  readonly #byLeft: Float64Array;
  readonly #byRight: Float64Array;
  readonly #places: ReadonlyMap<number, number>;

  constructor(basis: Basis) {
    this.basis = basis;
    const { pair, moments, kinds, tape, elements } = basis;
    const most = Math.ceil(moments[0]!.length / kinds);
    this.#bond = new Bond(Math.max(pair, most), basis.cutoff);
    this.#value = new Float64Array(tape.size);
    this.#slope = new Float64Array(3 * tape.size);
    this.#byLeft = new Float64Array(tape.left.length);
    this.#byRight = new Float64Array(tape.left.length);
    this.#places = new Map(elements.map((z, e) => [z, e]));
  }

  /**
   * The design rows of a structure.
   *
   * @param hasStress Whether those of the stress are asked for: of a structure
   * that is periodic in three directions.
   * @throws {DataSetError} where it has an element that is not the basis's.
   * @throws {GeometryError} where its geometry makes no sense.
   */
  designRows(structure: Geometry, hasStress: boolean): DesignRows {
    const { basis } = this;
    const { functions, size, pair, invariants } = basis;
    const count = basis.elements.length;
    const kinds = this.#elementsOf(structure);
    const atoms = kinds.length;
    const energy = new Float64Array(size);
    const forces = new Float64Array(3 * atoms * size);
    const strains = hasStress ? VOIGT : [];
    const stress = new Float64Array(strains.length * size);
    const perVolume = periodicVolume(structure) ** -1;

    const neighbors = neighborList(structure, basis.cutoff);
    const bond = this.#bond;
    const slope = this.#slope;
    // ∂(function)/∂(position of the neighbour): x, y, z, and their sum.
    const gradient = new Float64Array(3 * functions);
    const total = new Float64Array(3 * functions);
    for (let i = 0; i < atoms; i++) {
      const first = count + kinds[i]! * functions;
      energy[kinds[i]!]!++;
      this.#compute(neighbors, i, kinds, energy.subarray(first));
      for (let p = 0; p < invariants.length; p++) {
        energy[first + pair * count + p]! += this.#value[invariants[p]!]!;
      }

      total.fill(0);
      for (let k = neighbors.start[i]!; k < neighbors.start[i + 1]!; k++) {
        const j = neighbors.index[k]!;
        this.#setBond(neighbors, k);
        this.#differentiate(kinds[j]!);
        gradient.fill(0, 0, 3 * pair * count);
        for (let n = 0; n < pair; n++) {
          const p = 3 * (kinds[j]! * pair + n);
          gradient[p] = bond.slope[n]! * bond.x;
          gradient[p + 1] = bond.slope[n]! * bond.y;
          gradient[p + 2] = bond.slope[n]! * bond.z;
        }
        for (let p = 0; p < invariants.length; p++) {
          const at = 3 * invariants[p]!;
          const to = 3 * (pair * count + p);
          gradient[to] = slope[at]!;
          gradient[to + 1] = slope[at + 1]!;
          gradient[to + 2] = slope[at + 2]!;
        }
        const row = 3 * j * size + first;
        for (let p = 0; p < functions; p++) {
          const gx = gradient[3 * p]!;
          const gy = gradient[3 * p + 1]!;
          const gz = gradient[3 * p + 2]!;
          forces[row + p]! -= gx;
          forces[row + size + p]! -= gy;
          forces[row + 2 * size + p]! -= gz;
          total[3 * p]! += gx;
          total[3 * p + 1]! += gy;
          total[3 * p + 2]! += gz;
        }
        for (let c = 0; c < strains.length; c++) {
          const [a, b] = strains[c]!;
          const length = neighbors.vector[3 * k + b]! * perVolume;
          for (let p = 0; p < functions; p++) {
            stress[c * size + first + p]! += gradient[3 * p + a]! * length;
          }
        }
      }
      // Moving the atom itself moves all its neighbours the other way.
      for (let axis = 0; axis < 3; axis++) {
        const row = (3 * i + axis) * size + first;
        for (let p = 0; p < functions; p++) {
          forces[row + p]! += total[3 * p + axis]!;
        }
      }
    }
    return { energy, forces, stress };
  }

  /**
   * Energy, forces and stress of a structure with these parameters: the same
   * numbers as by the design rows, from one backward pass along the tape.
   *
   * @param parameters `[size]`
   * @throws {DataSetError} where it has an element that is not the basis's.
   * @throws {GeometryError} where its geometry makes no sense.
   */
  predict(structure: Geometry, parameters: Float64Array): Prediction {
    const { basis } = this;
    const { functions, pair, invariants, tape, moments } = basis;
    const count = basis.elements.length;
    const kinds = this.#elementsOf(structure);
    const atoms = kinds.length;
    const forces = new Float64Array(3 * atoms);
    const bonds = new Float64Array(9);
    const neighbors = neighborList(structure, basis.cutoff);
    const bond = this.#bond;
    const pairs = new Float64Array(pair * count);
    const slope = this.#slope.subarray(0, tape.size);
    let energy = 0;
    for (let i = 0; i < atoms; i++) {
      const first = count + kinds[i]! * functions;
      pairs.fill(0);
      this.#compute(neighbors, i, kinds, pairs);
      energy += parameters[kinds[i]!]!;
      for (let p = 0; p < pairs.length; p++) {
        energy += parameters[first + p]! * pairs[p]!;
      }
      slope.fill(0);
      for (let p = 0; p < invariants.length; p++) {
        const parameter = parameters[first + pairs.length + p]!;
        energy += parameter * this.#value[invariants[p]!]!;
        slope[invariants[p]!]! += parameter;
      }
      for (let k = tape.size - 1; k >= tape.inputs; k--) {
        const g = slope[k]!;
        const end = tape.start[k - tape.inputs + 1]!;
        for (let t = tape.start[k - tape.inputs]!; t < end; t++) {
          slope[tape.left[t]!]! += g * this.#byLeft[t]!;
          slope[tape.right[t]!]! += g * this.#byRight[t]!;
        }
      }

      for (let k = neighbors.start[i]!; k < neighbors.start[i + 1]!; k++) {
        const j = neighbors.index[k]!;
        this.#setBond(neighbors, k);
        let radial = 0; // along the bond
        for (let n = 0; n < pair; n++) {
          radial += parameters[first + kinds[j]! * pair + n]! * bond.slope[n]!;
        }
        let gx = 0, gy = 0, gz = 0;
        for (let rank = 0; rank < moments.length; rank++) {
          const from = FIRST_PRODUCT[rank]!;
          const components = (rank + 1) * (rank + 2) / 2;
          const ofRank = moments[rank]!;
          for (let q = 0; q < ofRank.length; q++) {
            const share = this.#share(kinds[j]!, q);
            if (share === 0) continue;
            const n = Math.floor(q / basis.kinds);
            const value = share * bond.value[n]!;
            const along = share * bond.slope[n]!;
            for (let c = 0; c < components; c++) {
              const g = slope[ofRank[q]! + c]!;
              const across = g * value;
              radial += g * along * bond.product[from + c]!;
              gx += across * bond.gradient[3 * (from + c)]!;
              gy += across * bond.gradient[3 * (from + c) + 1]!;
              gz += across * bond.gradient[3 * (from + c) + 2]!;
            }
          }
        }
        const g = [
          gx + radial * bond.x,
          gy + radial * bond.y,
          gz + radial * bond.z,
        ];
        for (let axis = 0; axis < 3; axis++) {
          forces[3 * j + axis]! -= g[axis]!;
          forces[3 * i + axis]! += g[axis]!;
          for (let b = 0; b < 3; b++) {
            bonds[3 * axis + b]! += g[axis]! * neighbors.vector[3 * k + b]!;
          }
        }
      }
    }
    return { energy, forces, stress: stressOf(bonds, structure) };
  }

  /** The place of each atom's element among the basis's. */
  #elementsOf({ numbers, source }: Geometry): Uint8Array {
    const kinds = new Uint8Array(numbers.length);
    for (let i = 0; i < kinds.length; i++) {
      const place = this.#places.get(numbers[i]!);
      if (place === undefined) {
        const known = this.basis.elements.map((z) => SYMBOLS[z]).join(", ");
        throw new DataSetError(
          `${source}: has ${
            SYMBOLS[numbers[i]!]
          }, the potential is of ${known}`,
        );
      }
      kinds[i] = place;
    }
    return kinds;
  }

  #setBond({ distance, vector }: NeighborList, k: number): void {
    const at = 3 * k;
    this.#bond.set(distance[k]!, vector[at]!, vector[at + 1]!, vector[at + 2]!);
  }

  /** How much of an element is in a moment. */
  #share(element: number, moment: number): number {
    const { kinds, mixture } = this.basis;
    return mixture[element * kinds + moment % kinds]!;
  }

  /** Computes all numbers of the tape for an atom, and adds its pair terms. */
  #compute(
    neighbors: NeighborList,
    i: number,
    kinds: Uint8Array,
    pairs: Float64Array,
  ): void {
    const { moments, tape, pair } = this.basis;
    const value = this.#value;
    const bond = this.#bond;
    value.fill(0, 0, tape.inputs);
    for (let k = neighbors.start[i]!; k < neighbors.start[i + 1]!; k++) {
      this.#setBond(neighbors, k);
      const element = kinds[neighbors.index[k]!]!;
      for (let n = 0; n < pair; n++) {
        pairs[element * pair + n]! += bond.value[n]!;
      }
      for (let rank = 0; rank < moments.length; rank++) {
        const from = FIRST_PRODUCT[rank]!;
        const components = (rank + 1) * (rank + 2) / 2;
        const ofRank = moments[rank]!;
        for (let q = 0; q < ofRank.length; q++) {
          const share = this.#share(element, q) *
            bond.value[Math.floor(q / this.basis.kinds)]!;
          if (share === 0) continue;
          for (let c = 0; c < components; c++) {
            value[ofRank[q]! + c]! += share * bond.product[from + c]!;
          }
        }
      }
    }
    const { start, left, right, factor, inputs, size } = tape;
    for (let k = inputs; k < size; k++) {
      let sum = 0;
      for (let t = start[k - inputs]!; t < start[k - inputs + 1]!; t++) {
        const byLeft = factor[t]! * value[right[t]!]!;
        sum += byLeft * value[left[t]!]!;
        this.#byLeft[t] = byLeft;
        this.#byRight[t] = factor[t]! * value[left[t]!]!;
      }
      value[k] = sum;
    }
  }

  /** Differentiates all numbers of the tape by the position of the neighbour that is set. */
  #differentiate(element: number): void {
    const { moments, tape, kinds } = this.basis;
    const slope = this.#slope;
    const bond = this.#bond;
    for (let rank = 0; rank < moments.length; rank++) {
      const from = FIRST_PRODUCT[rank]!;
      const components = (rank + 1) * (rank + 2) / 2;
      const ofRank = moments[rank]!;
      for (let q = 0; q < ofRank.length; q++) {
        const share = this.#share(element, q);
        const n = Math.floor(q / kinds);
        const value = share * bond.value[n]!;
        const along = share * bond.slope[n]!;
        for (let c = 0; c < components; c++) {
          const at = 3 * (ofRank[q]! + c);
          const product = along * bond.product[from + c]!;
          const g = 3 * (from + c);
          slope[at] = product * bond.x + value * bond.gradient[g]!;
          slope[at + 1] = product * bond.y + value * bond.gradient[g + 1]!;
          slope[at + 2] = product * bond.z + value * bond.gradient[g + 2]!;
        }
      }
    }
    const { start, left, right, inputs, size } = tape;
    const byLeft = this.#byLeft;
    const byRight = this.#byRight;
    for (let k = inputs; k < size; k++) {
      let x = 0, y = 0, z = 0;
      const end = start[k - inputs + 1]!;
      for (let t = start[k - inputs]!; t < end; t++) {
        const i = 3 * left[t]!, j = 3 * right[t]!;
        const a = byLeft[t]!, b = byRight[t]!;
        x += a * slope[i]! + b * slope[j]!;
        y += a * slope[i + 1]! + b * slope[j + 1]!;
        z += a * slope[i + 2]! + b * slope[j + 2]!;
      }
      slope[3 * k] = x;
      slope[3 * k + 1] = y;
      slope[3 * k + 2] = z;
    }
  }
}
