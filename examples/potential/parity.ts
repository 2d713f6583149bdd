/**
 * Predictions beside their labels, for a picture: of any number of structures
 * there are never more than so many.
 *
 * @module
 */

import type { Predicted } from "./errors.ts";
import { atomCount } from "./structure.ts";

/** More points of a quantity than this are thinned out to half of them. */
const MAX_POINTS = 800;

/** A label and what was predicted for it. */
export interface ParityPoint {
  readonly reference: number;
  readonly predicted: number;
}

/** Points of a data set; labels that are missing have none. */
export class ParityPoints {
  /** eV per atom */
  readonly energies = new ThinnedPoints();
  /** Components, eV/Å. */
  readonly forces = new ThinnedPoints();
  /** Components, meV/Å³. */
  readonly stresses = new ThinnedPoints();

  /** Adds the points of a structure. */
  add([structure, { energy, forces, stress }]: Predicted): void {
    const atoms = atomCount(structure);
    this.energies.add(structure.energy / atoms, energy / atoms);
    structure.forces.forEach((f, k) => this.forces.add(f, forces[k]!));
    stress?.forEach((s, k) =>
      this.stresses.add(1000 * structure.stress[k]!, 1000 * s)
    );
  }
}

/** Every 2ⁿth of the points that come, so many that they are not too many. */
class ThinnedPoints {
  #points: ParityPoint[] = [];
  #every = 1;
  #count = 0;

  get points(): readonly ParityPoint[] {
    return this.#points;
  }

  add(reference: number, predicted: number): void {
    if (Number.isNaN(reference) || Number.isNaN(predicted)) return;
    if (this.#count++ % this.#every !== 0) return;
    this.#points.push({ reference, predicted });
    if (this.#points.length <= MAX_POINTS) return;
    this.#points = this.#points.filter((_, k) => k % 2 === 0);
    this.#every *= 2;
  }
}
