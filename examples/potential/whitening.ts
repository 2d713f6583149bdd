/**
 * A basis in which the descriptors are easy to train in.
 *
 * Raw descriptors are nearly dependent on each other: some combinations vary a
 * million times less over the data than others, and gradient descent would
 * need as many steps to find their parameters. Whitening subtracts the mean,
 * and then combines the descriptors so that in the new basis all of them vary
 * alike and independently, which is what their Gram matrix says about them.
 *
 * The same basis to the last bit is needed on all replicas, whatever their
 * number. So the statistics are kept for each structure apart
 * ({@linkcode structureStatistics}), and added in the order of the data set.
 *
 * @module
 */

import { EigenvalueDecomposition, Matrix } from "ml-matrix";
import type { DesignRows } from "./descriptors.ts";
import type { Structure } from "./structure.ts";

/** How much more a row of energy per atom counts than a force component. */
const ENERGY_WEIGHT = 10;

/** Variations below this, relative to the largest, are rounding errors. */
const RANK_TOLERANCE = 1e-13;

/** The way from descriptors to whitened ones. */
export interface Whitening {
  /** Mean energy per atom in eV, which the potential starts from. */
  readonly energyPerAtom: number;
  /** Mean descriptors per atom, which are subtracted. */
  readonly mean: Float64Array;
  /** `[descriptors, whitened]` */
  readonly transform: Float64Array;
  /** Number of whitened descriptors: the parameters to train. */
  readonly size: number;
}

/** Length of what {@linkcode structureStatistics} returns. */
export function statisticsLength(width: number): number {
  return width + width * (width + 1) / 2;
}

/** What {@linkcode whiten} needs to know of one structure. */
export function structureStatistics(
  { energy, forces }: DesignRows,
): Float64Array {
  const width = energy.length;
  const statistics = new Float64Array(statisticsLength(width));
  statistics.set(energy);
  for (let row = 0; row < forces.length; row += width) {
    addOuterProduct(
      statistics.subarray(width),
      forces.subarray(row, row + width),
    );
  }
  return statistics;
}

/** Finds the whitening of a training set from the statistics of its structures. */
export function whiten(
  structures: readonly Structure[],
  statistics: readonly Float64Array[],
  width: number,
): Whitening {
  const count = structures.length;
  const mean = new Float64Array(width);
  let energyPerAtom = 0;
  let rows = 0;
  structures.forEach(({ numbers, energy }, s) => {
    for (let p = 0; p < width - 1; p++) {
      mean[p]! += statistics[s]![p]! / numbers.length / count;
    }
    energyPerAtom += energy / numbers.length / count;
    rows += 3 * numbers.length;
  });

  const packed = new Float64Array(width * (width + 1) / 2);
  structures.forEach(({ numbers }, s) => {
    const ofForces = statistics[s]!.subarray(width);
    for (let k = 0; k < packed.length; k++) packed[k]! += ofForces[k]!;
    addOuterProduct(
      packed,
      mean.map((m, p) =>
        ENERGY_WEIGHT * (statistics[s]![p]! / numbers.length - m)
      ),
    );
  });

  // Scaled to a diagonal of 1 first, which the eigenvectors are more exact for.
  const gram = Matrix.zeros(width, width);
  for (let p = 0, k = 0; p < width; p++) {
    for (let q = p; q < width; q++, k++) {
      gram.set(p, q, packed[k]! / rows);
      gram.set(q, p, packed[k]! / rows);
    }
  }
  const scale = gram.diagonal().map((x) => x > 0 ? 1 / Math.sqrt(x) : 0);
  for (let p = 0; p < width; p++) {
    gram.mulRow(p, scale[p]!).mulColumn(p, scale[p]!);
  }
  const { realEigenvalues: variances, eigenvectorMatrix: vectors } =
    new EigenvalueDecomposition(gram, { assumeSymmetric: true });
  const least = RANK_TOLERANCE * Math.max(...variances);
  const kept = variances.flatMap((variance, q) => variance > least ? [q] : []);

  const transform = new Float64Array(width * kept.length);
  for (let p = 0; p < width; p++) {
    kept.forEach((q, column) => {
      transform[p * kept.length + column] = scale[p]! * vectors.get(p, q) /
        Math.sqrt(variances[q]!);
    });
  }
  return { energyPerAtom, mean, transform, size: kept.length };
}

/** Design rows in the whitened basis. */
export function applyWhitening(
  { energy, forces }: DesignRows,
  { mean, transform, size }: Whitening,
): DesignRows {
  const atoms = energy.at(-1)!;
  return {
    energy: multiply(
      energy.map((e, p) => e - atoms * mean[p]!),
      transform,
      size,
    ),
    forces: multiply(forces, transform, size),
  };
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
