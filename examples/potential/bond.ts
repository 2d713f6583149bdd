/**
 * What one neighbour adds to the moments: radial functions and products of its
 * direction, and their derivatives.
 *
 * R_n(r) = T_n(x(r)) · (1 − r/r_c)², T_n the Chebyshev polynomials, x from 1 at
 * distance 0 to −1 at the cutoff along exp(−2 r/r_c), so that they are denser
 * where atoms are near.
 *
 * @module
 */

import { MAX_RANK } from "./basis.ts";
import { componentsOf } from "./tape.ts";

const DENSITY = 2;
const EXPONENTS = Array.from(
  { length: MAX_RANK + 1 },
  (_, rank) => componentsOf(rank).map((exponents) => ({ rank, exponents })),
);
const PRODUCTS = EXPONENTS.flat();
/** Where the products of a rank begin. */
export const FIRST_PRODUCT = EXPONENTS.map((_, rank) =>
  EXPONENTS.slice(0, rank).flat().length
);
const X = Int32Array.from(PRODUCTS, ({ exponents }) => exponents[0]);
const Y = Int32Array.from(PRODUCTS, ({ exponents }) => exponents[1]);
const Z = Int32Array.from(PRODUCTS, ({ exponents }) => exponents[2]);
const RANK = Int32Array.from(PRODUCTS, ({ rank }) => rank);

/** One neighbour. */
export class Bond {
  /** R_n and R_n′. */
  readonly value: Float64Array;
  readonly slope: Float64Array;
  /** x^a y^b z^c of the direction, by rank, and their derivatives by the position. */
  readonly product = new Float64Array(PRODUCTS.length);
  readonly gradient = new Float64Array(3 * PRODUCTS.length);
  /** Its direction. */
  x = 0;
  y = 0;
  z = 0;

  readonly #cutoff: number;
  readonly #powers = [1, 2, 3].map(() => new Float64Array(MAX_RANK + 1));

  /** @param radial How many radial functions. */
  constructor(radial: number, cutoff: number) {
    this.value = new Float64Array(radial);
    this.slope = new Float64Array(radial);
    this.#cutoff = cutoff;
  }

  /** Computes all, from the distance and the vector from the atom to its neighbour. */
  set(r: number, x: number, y: number, z: number): void {
    this.#radial(r);
    this.x = x /= r;
    this.y = y /= r;
    this.z = z /= r;
    const [px, py, pz] = this.#powers as [
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    px[0] = py[0] = pz[0] = 1;
    for (let n = 1; n <= MAX_RANK; n++) {
      px[n] = px[n - 1]! * x;
      py[n] = py[n - 1]! * y;
      pz[n] = pz[n - 1]! * z;
    }
    const { product, gradient } = this;
    for (let c = 0; c < product.length; c++) {
      const a = X[c]!, b = Y[c]!, d = Z[c]!;
      const value = product[c] = px[a]! * py[b]! * pz[d]!;
      // ∂u/∂r has no part along u: u^l is of order l in it.
      const along = RANK[c]! * value;
      gradient[3 * c] =
        ((a > 0 ? a * px[a - 1]! * py[b]! * pz[d]! : 0) - along * x) / r;
      gradient[3 * c + 1] =
        ((b > 0 ? b * px[a]! * py[b - 1]! * pz[d]! : 0) - along * y) / r;
      gradient[3 * c + 2] =
        ((d > 0 ? d * px[a]! * py[b]! * pz[d - 1]! : 0) - along * z) / r;
    }
  }

  #radial(r: number): void {
    const { value, slope } = this;
    const cutoff = this.#cutoff;
    const end = Math.exp(-DENSITY);
    const u = Math.exp(-DENSITY * r / cutoff);
    const x = 2 * (u - end) / (1 - end) - 1;
    const dx = -2 * DENSITY / cutoff * u / (1 - end);
    const gap = 1 - r / cutoff;
    const smooth = gap * gap;
    const dSmooth = -2 * gap / cutoff;
    // T_0 = 1, T_1 = x, T_n+1 = 2x T_n − T_n−1, and the same differentiated.
    let t = 1, dt = 0, next = x, dNext = 1;
    for (let n = 0; n < value.length; n++) {
      value[n] = t * smooth;
      slope[n] = dt * dx * smooth + t * dSmooth;
      const after = 2 * x * next - t;
      const dAfter = 2 * next + 2 * x * dNext - dt;
      t = next, dt = dNext, next = after, dNext = dAfter;
    }
  }
}
