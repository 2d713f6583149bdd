/**
 * Where the training starts: the linear part fitted by least squares, with the
 * invariants scaled to the structures that there are. Also what makes the linear
 * parameters independent, so that one learning rate does for all of them.
 *
 * @module
 */

import { jit, jvp, numpy as np } from "@jax-js/jax";
import { CholeskyDecomposition, inverse, Matrix } from "ml-matrix";
import { Random } from "../potential/random.ts";
import type { Batch } from "./batch.ts";
import {
  FEATURES,
  firstParameters,
  type Geometry,
  inputs,
  type Parameters,
  parameterShapes,
  refs,
  type Scaling,
} from "./model.ts";

/** Directions in which the forces of a structure are fitted. */
const DIRECTIONS = 8;
/** Keeps what the structures do not determine small. */
const RIDGE = 1e-6;
/** Of the invariants' variance: one that is the same everywhere stays 0. */
const LEAST_VARIANCE = 1e-8;

type Numbers = Float32Array<ArrayBuffer>;
type Sum = (numbers: Float64Array<ArrayBuffer>) => void;

/** Sums of the inputs, of their squares, and of the atoms, by column. */
const columnSums = jit((
  radial: np.Array,
  edges: np.Array,
  { species, elements, ...scaling }:
    & Pick<Geometry, "species" | "elements">
    & Pick<Scaling, "mean" | "scale">,
): np.Array[] => {
  const x = inputs(radial, edges, {
    species,
    elements: elements.ref,
    ...scaling,
  });
  return [x.ref.sum(0), np.square(x).sum(0), elements.sum(0)];
});

/** The inputs summed over each structure, and how they fall along a direction. */
const rowsAlong = jit((
  radial: np.Array,
  edges: np.Array,
  { members, ...rest }: Geometry & Pick<Scaling, "mean" | "scale">,
  direction: np.Array,
): [np.Array, np.Array] =>
  jvp(
    (edges: np.Array) => np.matmul(members, inputs(radial, edges, rest)),
    [edges],
    [direction],
  )
);

/**
 * The numbers that a potential starts with.
 *
 * @param batches This replica's.
 * @param random Draws the first parameters, the same on all replicas.
 * @param energyWeight What an energy per atom weighs against a force.
 * @param sum Adds numbers over the replicas, in place.
 */
export function startOf(
  batches: readonly Batch[],
  elements: number,
  random: Random,
  energyWeight: number,
  sum: Sum,
): Record<keyof Parameters | keyof Scaling, Numbers> {
  const first = firstParameters(elements, () => random.uniform(-1, 1));
  const radial = np.array(first.radial, {
    shape: parameterShapes(elements).radial,
  });
  const measured = measureInputs(batches, radial, elements, sum);
  const shape = [elements, FEATURES];
  const mean = np.array(measured.mean, { shape });
  const scale = np.array(measured.scale, { shape });
  const fitted = leastSquares(
    batches,
    radial,
    { mean, scale },
    energyWeight,
    sum,
  );
  for (const array of [radial, mean, scale]) array.dispose();
  return { ...first, ...measured, ...fitted };
}

/** Mean and inverse standard deviation of the invariants, by element. */
function measureInputs(
  batches: readonly Batch[],
  radial: np.Array,
  elements: number,
  sum: Sum,
): { mean: Numbers; scale: Numbers } {
  const width = elements * FEATURES;
  const sums = new Float64Array(2 * width + elements);
  const shape = [elements, FEATURES];
  const [mean, scale] = [np.zeros(shape), np.ones(shape)];
  for (const { edges, geometry: { species, elements } } of batches) {
    let at = 0;
    const own = refs({ species, elements, mean, scale });
    for (const part of columnSums(radial.ref, edges.ref, own)) {
      for (const x of part.dataSync()) sums[at++]! += x;
    }
  }
  mean.dispose();
  scale.dispose();
  sum(sums);
  const meanOf = (i: number, part: number): number =>
    sums[part * width + i]! / sums[2 * width + Math.floor(i / FEATURES)]!;
  return {
    mean: Float32Array.from({ length: width }, (_, i) => meanOf(i, 0)),
    scale: Float32Array.from(
      { length: width },
      (_, i) =>
        1 / Math.sqrt(meanOf(i, 1) - meanOf(i, 0) ** 2 + LEAST_VARIANCE),
    ),
  };
}

/** Fits the linear part to energies per atom and forces. */
function leastSquares(
  batches: readonly Batch[],
  radial: np.Array,
  scaling: Pick<Scaling, "mean" | "scale">,
  energyWeight: number,
  sum: Sum,
): { linear: Numbers; whitening: Numbers } {
  const width = scaling.mean.size;
  // Sums of the rows' products, then of their products with the targets, then
  // of their weights.
  const sums = new Float64Array(width * (width + 1) + 1);
  const add = (row: Numbers, target: number, weight: number): void => {
    if (Number.isNaN(target)) return; // no label
    for (let i = 0; i < width; i++) {
      const x = weight * row[i]!;
      for (let j = 0; j <= i; j++) sums[i * width + j]! += x * row[j]!;
      sums[width * width + i]! += x * target;
    }
    sums[width * (width + 1)]! += weight;
  };
  for (const batch of batches) {
    for (let d = 0; d < DIRECTIONS; d++) {
      const directions = batch.structures.map(({ forces }) => {
        const random = new Random(d); // of any structure the same
        return Float32Array.from(forces, () => random.uniform(-1, 1));
      });
      const geometry = refs({ ...batch.geometry, ...scaling });
      const [values, slopes] = rowsAlong(
        radial.ref,
        batch.edges.ref,
        geometry,
        batch.spread(Float32Array.from(directions.flatMap((x) => [...x]))),
      ).map((rows) => rows.dataSync() as Numbers);
      batch.structures.forEach(({ numbers: { length: atoms }, forces }, s) => {
        const row = (rows: Numbers): Numbers =>
          rows.subarray(s * width, (s + 1) * width);
        if (d === 0) {
          add(
            row(values!).map((x) => x / atoms),
            batch.targets[s]! / atoms,
            energyWeight ** 2,
          );
        }
        const slope = forces.reduce((f, x, i) => f + x * directions[s]![i]!, 0);
        add(row(slopes!), slope, 1 / (atoms * DIRECTIONS));
      });
    }
  }
  sum(sums);
  const total = sums[width * (width + 1)]!;
  const products = new Matrix(width, width);
  for (let i = 0; i < width; i++) {
    for (let j = 0; j <= i; j++) {
      const x = sums[i * width + j]! / total;
      products.set(i, j, x).set(j, i, x);
    }
    products.set(i, i, products.get(i, i) + RIDGE);
  }
  const right = Matrix.columnVector(
    [...sums.subarray(width * width, -1)].map((x) => x / total),
  );
  const whitening = inverse(
    new CholeskyDecomposition(products).lowerTriangularMatrix,
  );
  return {
    linear: Float32Array.from(whitening.mmul(right).to1DArray()),
    whitening: Float32Array.from(whitening.transpose().to1DArray()),
  };
}
