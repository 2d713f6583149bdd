/**
 * A basis in which the functions are easy to train in, and the parameters of
 * the least squares to start from.
 *
 * The functions are nearly dependent on each other: some combinations vary a
 * million times less over the data than others, and gradient descent would
 * need as many steps to find their parameters. Whitening combines them so that
 * in the new basis all vary alike and independently, which is what their Gram
 * matrix says about them. With a ridge in it, the parameters of the regularised
 * least squares are the products of this basis with the references.
 *
 * The same basis to the last bit is needed on all replicas, whatever their
 * number: a nearly singular matrix makes rounding errors large. So the Gram
 * matrices of the structures are added one by one, in an order that does not
 * depend on the replicas.
 *
 * @module
 */

import type { Basis } from "./basis.ts";
import { independentColumns, inverseFactor } from "./cholesky.ts";
import type { DesignRows } from "./descriptors.ts";
import { energyOfAtoms, type FreeAtoms } from "./free_atoms.ts";
import { countLabels, hasEnergy, hasForce, hasStress } from "./labels.ts";
import { DataSetError, type Structure } from "./structure.ts";

/** How much more a row of energy per atom counts than a force component. */
const ENERGY_WEIGHT = 100;
/** And a row of stress: as the energy of an atom in 30 Å³. */
const STRESS_WEIGHT = 30;
/** What is added to the variances, relative to those of the functions. */
const RIDGE = 1e-10;
/** Parts of a variance that no other function has are rounding errors below this. */
const RANK_TOLERANCE = 1e-12;
/** As are functions that vary by less than this, relative to their size … */
const ROUNDING = 1e-8;
/** … which is at least this, relative to the largest: symmetry makes some zero. */
const LEAST_SIZE = 1e-4;

/** The way from functions to whitened ones. */
export interface Whitening {
  /** Energies of free atoms in eV by atomic number, which are subtracted. */
  readonly freeAtoms: Float64Array;
  /** Mean of each function over the atoms that have it, which is subtracted. */
  readonly mean: Float64Array;
  /** `[functions, whitened]` */
  readonly transform: Float64Array;
  /** `[whitened]`: the parameters of the least squares. */
  readonly start: Float64Array<ArrayBuffer>;
  /** Number of whitened functions: the parameters to train. */
  readonly size: number;
}

/** What {@linkcode whiten} needs to know of a training set. */
export class Statistics {
  /** `[functions]` of each structure: its row of the energy. */
  readonly energies: Float64Array[] = [];
  /** The Gram matrix of all rows of forces and stresses, the references as last column: its upper triangle. */
  readonly derivatives: Float64Array;
  readonly #width: number;

  constructor({ size }: Pick<Basis, "size">) {
    this.#width = size;
    this.derivatives = new Float64Array((size + 1) * (size + 2) / 2);
  }

  /** Length of what {@linkcode of} returns. */
  get length(): number {
    return this.#width + this.derivatives.length;
  }

  /** The part of one structure. */
  of(
    { energy, forces, stress }: DesignRows,
    structure: Structure,
  ): Float64Array {
    const width = this.#width;
    const part = new Float64Array(this.length);
    part.set(energy);
    const gram = part.subarray(width);
    const row = new Float64Array(width + 1);
    const add = (
      rows: Float64Array,
      k: number,
      target: number,
      weight: number,
    ): void => {
      row.set(rows.subarray(k * width, (k + 1) * width));
      row[width] = target;
      if (weight !== 1) { for (let p = 0; p <= width; p++) row[p]! *= weight; }
      addOuterProduct(gram, row);
    };
    const { weights } = structure;
    structure.forces.forEach((force, k) => {
      if (!hasForce(structure, Math.floor(k / 3))) return;
      add(forces, k, force, Math.sqrt(weights.forces));
    });
    if (hasStress(structure)) {
      const weight = STRESS_WEIGHT * Math.sqrt(weights.stress);
      structure.stress.forEach((x, k) => add(stress, k, x, weight));
    }
    return part;
  }

  /** Adds the part of a structure: of one after the other, in the same order everywhere. */
  add(structure: number, part: Float64Array): void {
    this.energies[structure] = part.slice(0, this.#width);
    const { derivatives } = this;
    for (let k = 0, at = this.#width; k < derivatives.length; k++, at++) {
      derivatives[k]! += part[at]!;
    }
  }
}

/**
 * Finds the whitening of a training set, and the least squares in it. What the
 * structures do not determine has no part in it.
 *
 * @throws {DataSetError} where they determine nothing.
 */
export function whiten(
  structures: readonly Structure[],
  { energies, derivatives }: Statistics,
  freeAtoms: FreeAtoms,
  basis: Basis,
): Whitening {
  const width = basis.size;
  const mean = meanFunctions(
    energies.filter((_, s) => hasEnergy(structures[s]!)),
    freeAtoms,
    basis,
  );
  const labels = countLabels(structures);
  const rows = labels.energies + 3 * labels.forces + 6 * labels.stresses;
  if (rows === 0) {
    throw new DataSetError(
      "no structure to train on has an energy, a force or a stress",
    );
  }

  const packed = derivatives.slice();
  const sizes = new Float64Array(width);
  const row = new Float64Array(width + 1);
  structures.forEach(({ numbers, energy, weights }, s) => {
    if (hasEnergy(structures[s]!)) {
      const weight = ENERGY_WEIGHT * Math.sqrt(weights.energy) /
        numbers.length;
      row.set(centred(energies[s]!, mean, basis));
      row[width] = energy - energyOfAtoms(numbers, freeAtoms.energies);
      addOuterProduct(packed, row.map((x) => weight * x));
    }
    for (let p = 0; p < width; p++) {
      const size = Math.abs(energies[s]![p]!) / numbers.length;
      sizes[p] = Math.max(sizes[p]!, size);
    }
  });

  // Scaled to a diagonal of 1 first, so that all are told apart alike.
  const gram = new Float64Array(width * width);
  const right = new Float64Array(width);
  for (let p = 0, k = 0; p < width; p++) {
    for (let q = p; q < width; q++, k++) {
      gram[p * width + q] = gram[q * width + p] = packed[k]! / rows;
    }
    right[p] = packed[k++]! / rows;
  }
  const least = LEAST_SIZE * sizes.reduce((a, b) => Math.max(a, b));
  const scale = sizes.map((size, p) => {
    const element = basis.elements[p];
    const isFixed = element !== undefined && freeAtoms.isKnown(element);
    const deviation = Math.sqrt(gram[p * width + p]!);
    const varies = deviation > ROUNDING * Math.max(size, least);
    return varies && !isFixed ? 1 / deviation : 0;
  });
  for (let p = 0, k = 0; p < width; p++) {
    for (let q = 0; q < width; q++, k++) gram[k]! *= scale[p]! * scale[q]!;
  }
  const kept = independentColumns(gram, width, RANK_TOLERANCE);
  const size = kept.length;
  if (size === 0) {
    throw new DataSetError("the structures do not determine any function");
  }

  const inverse = inverseFactor(gram, width, kept, RIDGE);
  const transform = new Float64Array(width * size);
  const start = new Float64Array(size);
  kept.forEach((p, k) => {
    for (let q = k; q < size; q++) {
      const x = scale[p]! * inverse[q * size + k]!;
      transform[p * size + q] = x;
      start[q]! += x * right[p]!;
    }
  });
  return { freeAtoms: freeAtoms.energies, mean, transform, start, size };
}

/** Design rows in the whitened basis. */
export function applyWhitening(
  { energy, forces, stress }: DesignRows,
  { mean, transform, size }: Whitening,
  basis: Basis,
): DesignRows {
  return {
    energy: multiply(centred(energy, mean, basis), transform, size),
    forces: multiply(forces, transform, size),
    stress: multiply(stress, transform, size),
  };
}

/** Parameters of the functions themselves, from those of the whitened ones. */
export function withoutWhitening(
  parameters: readonly number[],
  { freeAtoms, mean, transform, size }: Whitening,
  basis: Basis,
): Float64Array<ArrayBuffer> {
  const plain = new Float64Array(basis.size);
  basis.elements.forEach((z, element) => plain[element] = freeAtoms[z]!);
  for (let p = 0; p < basis.size; p++) {
    let w = 0;
    for (let q = 0; q < size; q++) {
      w += transform[p * size + q]! * parameters[q]!;
    }
    plain[p]! += w;
    plain[elementOf(p, basis)]! -= w * mean[p]!;
  }
  return plain;
}

/**
 * Means over the atoms of an element of the functions that they have; zeros
 * where the energy of the free atom is known, which no mean may shift.
 */
function meanFunctions(
  energies: readonly Float64Array[],
  freeAtoms: FreeAtoms,
  basis: Basis,
): Float64Array {
  const mean = new Float64Array(basis.size);
  for (const row of energies) row.forEach((x, p) => mean[p]! += x);
  const atoms = mean.slice(0, basis.elements.length);
  return mean.map((sum, p) => {
    const element = elementOf(p, basis);
    const isShifted = p >= atoms.length &&
      !freeAtoms.isKnown(basis.elements[element]!);
    return isShifted && atoms[element]! > 0 ? sum / atoms[element]! : 0;
  });
}

/** A row of the energy without the means of its atoms. */
function centred(
  energy: Float64Array,
  mean: Float64Array,
  basis: Basis,
): Float64Array {
  return energy.map((e, p) => e - energy[elementOf(p, basis)]! * mean[p]!);
}

/** The place of the element whose atoms have a function. */
function elementOf(p: number, { elements, functions }: Basis): number {
  const count = elements.length;
  return p < count ? p : Math.floor((p - count) / functions);
}

/** Adds x xᵀ to a matrix of which the upper triangle is kept, row after row. */
function addOuterProduct(packed: Float64Array, x: Float64Array): void {
  for (let p = 0, k = 0; p < x.length; p++) {
    const xp = x[p]!;
    for (let q = p; q < x.length; q++, k++) packed[k]! += xp * x[q]!;
  }
}

/** `a [rows, inner] · b [inner, columns]`, summed in the same order everywhere. */
function multiply(
  a: Float64Array,
  b: Float64Array,
  columns: number,
): Float64Array {
  const inner = b.length / columns;
  const rows = a.length / inner;
  const product = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const out = product.subarray(row * columns, (row + 1) * columns);
    for (let k = 0; k < inner; k++) {
      const factor = a[row * inner + k]!;
      for (let c = 0; c < columns; c++) {
        out[c]! += factor * b[k * columns + c]!;
      }
    }
  }
  return product;
}
