/**
 * Neighbours in periodic space: every pair of atoms, image atoms included,
 * that is closer than a cutoff.
 *
 * Atoms are sorted into bins along the cell vectors, and each looks only into
 * the bins that its cutoff reaches. A bin beyond the edge of the cell is a bin
 * of an image of the cell, so a cell smaller than the cutoff needs no case of
 * its own: its atoms are met again in as many images as the cutoff reaches.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";
import type { Structure } from "./structure.ts";

/** The geometry of a structure makes no sense: a flat cell, or atoms in one place. */
export class GeometryError extends AtomlossError {}

/** Neighbours of all atoms; those of atom `i` are at `start[i]` up to `start[i + 1]`. */
export interface NeighborList {
  readonly start: Int32Array;
  /** Which atom the neighbour is, or is an image of. */
  readonly index: Int32Array;
  /** From the atom to its neighbour in Å: x, y, z. */
  readonly vector: Float64Array;
  readonly distance: Float64Array;
}

/** Twenty times what the densest element holds within 5 Å: no real structure. */
const MAX_NEIGHBORS = 5_000;
const MIN_DISTANCE = 1e-3;
/** Beyond so many cells, wrapping an atom back loses its digits. */
const MAX_IMAGE = 1e6;

/**
 * Lists the neighbours of every atom that are nearer than `cutoff`.
 *
 * @param structure Atoms in any cell, however skewed or small; vectors along
 * which nothing repeats do not matter.
 * @param cutoff Distance in Å.
 * @throws {GeometryError} where the vectors along which it repeats are
 * dependent, or atoms coincide.
 */
export function neighborList(
  structure: Pick<Structure, "source" | "lattice" | "periodic" | "positions">,
  cutoff: number,
): NeighborList {
  const { source, periodic, positions } = structure;
  const lattice = wholeCell(structure);
  const atoms = positions.length / 3;
  const reciprocal = inverse(lattice, source);
  const density = atoms * Math.abs(determinant(reciprocal));
  if (
    periodic.every(Boolean) &&
    density * 4 / 3 * Math.PI * cutoff ** 3 > MAX_NEIGHBORS
  ) {
    throw new GeometryError(
      `${source}: ${density.toPrecision(3)} atoms per Å³ are too dense for ` +
        `a cutoff of ${cutoff} Å (more than ${MAX_NEIGHBORS} neighbours)`,
    );
  }

  // Along each cell vector: how many bins, and how many of them to look into.
  const bins = [1, 1, 1];
  const reach = [0, 0, 0];
  for (let axis = 0; axis < 3; axis++) {
    // Along an axis that does not repeat, one bin holds all atoms.
    if (!periodic[axis]) continue;
    const height = 1 / Math.hypot(
      reciprocal[axis]!,
      reciprocal[3 + axis]!,
      reciprocal[6 + axis]!,
    );
    const most = Math.ceil(Math.cbrt(atoms));
    bins[axis] = Math.min(most, Math.max(1, Math.floor(height / cutoff)));
    reach[axis] = Math.ceil(cutoff * bins[axis]! / height);
  }

  const { wrapped, cell, first, next } = sortIntoBins(
    source,
    positions,
    lattice,
    reciprocal,
    periodic,
    bins,
  );

  const start = new Int32Array(atoms + 1);
  const index: number[] = [];
  const vector: number[] = [];
  const distance: number[] = [];
  const [na, nb, nc] = bins as [number, number, number];
  const [ra, rb, rc] = reach as [number, number, number];
  for (let i = 0; i < atoms; i++) {
    for (let a = cell[3 * i]! - ra; a <= cell[3 * i]! + ra; a++) {
      const imageA = Math.floor(a / na);
      for (let b = cell[3 * i + 1]! - rb; b <= cell[3 * i + 1]! + rb; b++) {
        const imageB = Math.floor(b / nb);
        for (let c = cell[3 * i + 2]! - rc; c <= cell[3 * i + 2]! + rc; c++) {
          const imageC = Math.floor(c / nc);
          const shiftX = imageA * lattice[0]! + imageB * lattice[3]! +
            imageC * lattice[6]! - wrapped[3 * i]!;
          const shiftY = imageA * lattice[1]! + imageB * lattice[4]! +
            imageC * lattice[7]! - wrapped[3 * i + 1]!;
          const shiftZ = imageA * lattice[2]! + imageB * lattice[5]! +
            imageC * lattice[8]! - wrapped[3 * i + 2]!;
          const isHome = imageA === 0 && imageB === 0 && imageC === 0;
          const bin = ((a - imageA * na) * nb + (b - imageB * nb)) * nc +
            (c - imageC * nc);
          for (let j = first[bin]!; j >= 0; j = next[j]!) {
            if (isHome && i === j) continue;
            const x = wrapped[3 * j]! + shiftX;
            const y = wrapped[3 * j + 1]! + shiftY;
            const z = wrapped[3 * j + 2]! + shiftZ;
            const squared = x * x + y * y + z * z;
            if (squared >= cutoff * cutoff) continue;
            const r = Math.sqrt(squared);
            if (r < MIN_DISTANCE) {
              throw new GeometryError(
                `${source}: atoms ${i + 1} and ${j + 1} are in one place`,
              );
            }
            index.push(j);
            vector.push(x, y, z);
            distance.push(r);
          }
        }
      }
    }
    start[i + 1] = index.length;
  }
  return {
    start,
    index: Int32Array.from(index),
    vector: Float64Array.from(vector),
    distance: Float64Array.from(distance),
  };
}

/** Moves every atom into the cell, and chains the atoms of each bin. */
function sortIntoBins(
  source: string,
  positions: Float64Array,
  lattice: Float64Array,
  reciprocal: Float64Array,
  periodic: readonly boolean[],
  bins: readonly number[],
): {
  wrapped: Float64Array;
  cell: Int32Array;
  first: Int32Array;
  next: Int32Array;
} {
  const atoms = positions.length / 3;
  const wrapped = positions.slice();
  const cell = new Int32Array(3 * atoms);
  const first = new Int32Array(bins[0]! * bins[1]! * bins[2]!).fill(-1);
  const next = new Int32Array(atoms).fill(-1);
  for (let i = 0; i < atoms; i++) {
    for (let axis = 0; axis < 3; axis++) {
      if (!periodic[axis]) continue;
      const fraction = positions[3 * i]! * reciprocal[axis]! +
        positions[3 * i + 1]! * reciprocal[3 + axis]! +
        positions[3 * i + 2]! * reciprocal[6 + axis]!;
      const image = Math.floor(fraction);
      if (!(Math.abs(image) < MAX_IMAGE)) {
        throw new GeometryError(
          `${source}: atom ${i + 1} is ${fraction.toExponential(1)} cells away`,
        );
      }
      for (let k = 0; k < 3; k++) {
        wrapped[3 * i + k]! -= image * lattice[3 * axis + k]!;
      }
      // Rounding may put a fraction at 1; it belongs into the last bin.
      cell[3 * i + axis] = Math.min(
        bins[axis]! - 1,
        Math.floor((fraction - image) * bins[axis]!),
      );
    }
    const bin = (cell[3 * i]! * bins[1]! + cell[3 * i + 1]!) * bins[2]! +
      cell[3 * i + 2]!;
    next[i] = first[bin]!;
    first[bin] = i;
  }
  return { wrapped, cell, first, next };
}

/** A cell that has vectors perpendicular to all others where nothing repeats. */
function wholeCell(
  { lattice, periodic }: Pick<Structure, "lattice" | "periodic">,
): Float64Array {
  const cell = lattice.slice();
  const of = (axis: number): Float64Array =>
    cell.subarray(3 * axis, 3 * axis + 3);
  const fixed = [0, 1, 2].filter((axis) => periodic[axis]);
  const length = Math.max(...fixed.map((axis) => Math.hypot(...of(axis))), 1);
  for (let axis = 0; axis < 3; axis++) {
    if (periodic[axis]) continue;
    const [first, second] = fixed.map(of);
    const a = first ?? Float64Array.of(1, 0, 0);
    // Of the coordinate axes the one that is least along the first vector.
    const least = [0, 1, 2].reduce((i, j) =>
      Math.abs(a[j]!) < Math.abs(a[i]!) ? j : i
    );
    const b = second ??
      Float64Array.from([0, 1, 2], (k) => Number(k === least));
    const cross = Float64Array.from([0, 1, 2], (k) => {
      const [i, j] = [(k + 1) % 3, (k + 2) % 3];
      return a[i]! * b[j]! - a[j]! * b[i]!;
    });
    const norm = Math.hypot(...cross);
    of(axis).set(cross.map((x) => x * length / norm));
    fixed.push(axis);
  }
  return cell;
}

function determinant(m: Float64Array): number {
  return m[0]! * (m[4]! * m[8]! - m[5]! * m[7]!) -
    m[1]! * (m[3]! * m[8]! - m[5]! * m[6]!) +
    m[2]! * (m[3]! * m[7]! - m[4]! * m[6]!);
}

function inverse(m: Float64Array, source: string): Float64Array {
  const volume = determinant(m);
  const longest = Math.max(...m.map(Math.abs));
  if (!(Math.abs(volume) > 1e-9 * longest ** 3)) {
    throw new GeometryError(
      `${source}: the cell vectors [${m.join(", ")}] span no volume`,
    );
  }
  const [a, b, c, d, e, f, g, h, i] = m as unknown as number[];
  return Float64Array.of(
    e! * i! - f! * h!,
    c! * h! - b! * i!,
    b! * f! - c! * e!,
    f! * g! - d! * i!,
    a! * i! - c! * g!,
    c! * d! - a! * f!,
    d! * h! - e! * g!,
    b! * g! - a! * h!,
    a! * e! - b! * d!,
  ).map((cofactor) => cofactor / volume);
}
