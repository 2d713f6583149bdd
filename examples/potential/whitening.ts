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
 * number: a nearly singular matrix makes rounding errors large.
 *
 * @module
 */

import { type Basis, elementOf } from "./basis.ts";
import { independentColumns, inverseFactor } from "./cholesky.ts";
import type { FreeAtoms } from "./free_atoms.ts";
import { countLabels } from "./labels.ts";
import { centred, type Moments } from "./statistics.ts";
import { DataSetError, type Structure } from "./structure.ts";

/**
 * What is added to the variances, relative to those of the functions, over the
 * number of rows: parameters are small unless enough rows say otherwise, which
 * is what makes little data worth something.
 */
const RIDGE = 4e-3;
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

/**
 * Finds the whitening of a training set, and the least squares in it. What the
 * structures do not determine has no part in it.
 *
 * @throws {DataSetError} where they determine nothing.
 */
export function whiten(
  structures: readonly Structure[],
  { mean, gram: packed, sizes }: Moments,
  freeAtoms: FreeAtoms,
  basis: Basis,
): Whitening {
  const width = basis.size;
  const rows = rowsOf(structures);
  if (rows === 0) {
    throw new DataSetError(
      "no structure to train on has an energy, a force or a stress that weighs " +
        "something",
    );
  }

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

  const inverse = inverseFactor(gram, width, kept, RIDGE / rows);
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

/**
 * Design rows of a structure in the whitened basis.
 *
 * @param rows `[rows, functions]`, that of the energy first.
 * @returns `[rows, whitened]`
 */
export function applyWhitening(
  rows: Float64Array,
  { mean, transform, size }: Whitening,
  basis: Basis,
): Float64Array<ArrayBuffer> {
  const energy = centred(rows.subarray(0, basis.size), mean, basis);
  const all = rows.slice();
  all.set(energy);
  return multiply(all, transform, size);
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

/** How many rows of the least squares there are: one of weight 2 is two. */
function rowsOf(structures: readonly Structure[]): number {
  return structures.reduce((sum, structure) => {
    const { energies, forces, stresses } = countLabels([structure]);
    const { weights } = structure;
    return sum + weights.energy * energies + 3 * weights.forces * forces +
      6 * weights.stress * stresses;
  }, 0);
}

/** `a [rows, inner] · b [inner, columns]`, summed in the same order everywhere. */
function multiply(
  a: Float64Array,
  b: Float64Array,
  columns: number,
): Float64Array<ArrayBuffer> {
  const inner = b.length / columns;
  const rows = a.length / inner;
  const product = new Float64Array(rows * columns);
  const whole = inner - inner % 4;
  for (let row = 0; row < rows; row++) {
    const out = product.subarray(row * columns, (row + 1) * columns);
    const ofRow = a.subarray(row * inner, (row + 1) * inner);
    // Four at a time: the output is read and written a quarter as often.
    for (let k = 0; k < whole; k += 4) {
      const f = ofRow[k]!, g = ofRow[k + 1]!;
      const h = ofRow[k + 2]!, i = ofRow[k + 3]!;
      const b0 = k * columns, b1 = b0 + columns;
      const b2 = b1 + columns, b3 = b2 + columns;
      for (let c = 0; c < columns; c++) {
        out[c]! += f * b[b0 + c]! + g * b[b1 + c]! + h * b[b2 + c]! +
          i * b[b3 + c]!;
      }
    }
    for (let k = whole; k < inner; k++) {
      for (let c = 0; c < columns; c++) {
        out[c]! += ofRow[k]! * b[k * columns + c]!;
      }
    }
  }
  return product;
}
