/**
 * Invariant descriptors of the surroundings of an atom, and their exact
 * derivatives: what a linear potential is linear in.
 *
 * Around atom i, with u the direction and r the distance of a neighbour, the
 * neighbours' moments are the tensors
 *
 *     M_nl = Σ_neighbours R_n(r) u⊗…⊗u   (l times, l = 0 to 3)
 *
 * with radial functions R_n(r) = T_n(2r/r_c − 1) · ½(1 + cos(πr/r_c)), T_n the
 * Chebyshev polynomials. No rotation changes their contractions, which are
 * the descriptors:
 *
 *     pair terms         M_n0
 *     three-body terms   M_nl : M_ml = Σ_j Σ_k R_n(r_j) R_m(r_k) cos^l θ_jk
 *
 * The moments make the three-body terms cost one sum over neighbours and not
 * a double one. The energy of a structure is then linear in the descriptors
 * summed over its atoms, and so the forces are linear in their derivatives.
 *
 * @module
 */

import { neighborList } from "./neighbors.ts";
import type { Structure } from "./structure.ts";

/** What fixes the descriptors. */
export interface DescriptorOptions {
  /** Distance in Å beyond which atoms do not see each other. */
  readonly cutoff: number;
  /** Number of radial functions. */
  readonly radial: number;
}

/** Energy and forces of one structure, as linear maps from the parameters. */
export interface DesignRows {
  /** `[parameters]`: descriptors summed over the atoms; last the constant, the number of atoms. */
  readonly energy: Float64Array;
  /** `[3 · atoms, parameters]`: minus the derivative of `energy` by each coordinate. */
  readonly forces: Float64Array;
}

/** Highest order of the moments. */
const MAX_ORDER = 3;

/** Components of a symmetric tensor of order l, as exponents of x, y and z. */
const COMPONENTS = Array.from({ length: MAX_ORDER + 1 }, (_, order) => {
  const all: [number, number, number][] = [];
  for (let x = order; x >= 0; x--) {
    for (let y = order - x; y >= 0; y--) all.push([x, y, order - x - y]);
  }
  return all;
});

/** How often each component stands in the full tensor: l! / (x! y! z!). */
const MULTIPLICITY = COMPONENTS.map((components, order) =>
  components.map(([x, y, z]) =>
    factorial(order) / (factorial(x) * factorial(y) * factorial(z))
  )
);

/** The number of parameters of the potential: pair terms, three-body terms, a constant. */
export function parameterCount({ radial }: DescriptorOptions): number {
  return radial + (MAX_ORDER + 1) * radial * (radial + 1) / 2 + 1;
}

/**
 * Computes the design rows of one structure.
 *
 * @throws {GeometryError} where the structure's geometry makes no sense.
 */
export function designRows(
  structure: Structure,
  options: DescriptorOptions,
): DesignRows {
  const { cutoff, radial } = options;
  const atoms = structure.numbers.length;
  const width = parameterCount(options);
  const energy = new Float64Array(width);
  const forces = new Float64Array(3 * atoms * width);
  energy[width - 1] = atoms;

  const neighbors = neighborList(structure, cutoff);
  const value = new Float64Array(radial);
  const slope = new Float64Array(radial);
  const moments = COMPONENTS.map((c) => new Float64Array(radial * c.length));
  // Of each radial function, for one neighbour: the moment contracted with u
  // once less than its order (a vector), and as often (a number).
  const vectors = new Float64Array(3 * radial);
  const numbers = new Float64Array(radial);
  // d(descriptor)/d(position of the neighbour): x, y and z, and their sum.
  const gradient = new Float64Array(3 * width);
  const total = new Float64Array(3 * width);

  for (let i = 0; i < atoms; i++) {
    const begin = neighbors.start[i]!;
    const end = neighbors.start[i + 1]!;

    for (const moment of moments) moment.fill(0);
    for (let k = begin; k < end; k++) {
      const r = neighbors.distance[k]!;
      radialFunctions(r, cutoff, value, slope);
      addToMoments(
        moments,
        value,
        neighbors.vector[3 * k]! / r,
        neighbors.vector[3 * k + 1]! / r,
        neighbors.vector[3 * k + 2]! / r,
      );
    }
    addDescriptors(moments, radial, energy);

    total.fill(0);
    for (let k = begin; k < end; k++) {
      const r = neighbors.distance[k]!;
      const x = neighbors.vector[3 * k]! / r;
      const y = neighbors.vector[3 * k + 1]! / r;
      const z = neighbors.vector[3 * k + 2]! / r;
      radialFunctions(r, cutoff, value, slope);

      for (let n = 0; n < radial; n++) {
        gradient[n] = slope[n]! * x;
        gradient[width + n] = slope[n]! * y;
        gradient[2 * width + n] = slope[n]! * z;
      }
      let p = radial;
      for (let order = 0; order <= MAX_ORDER; order++) {
        contract(order, moments[order]!, x, y, z, vectors, numbers);
        // ∂(R u^l) : M = (R′ − l R/r) (M : u^l) u + (l R/r) (M : u^(l−1))
        const perR = order / r;
        for (let n = 0; n < radial; n++) {
          const acrossN = value[n]! * perR;
          const alongN = slope[n]! - acrossN;
          const numberN = numbers[n]!;
          const vx = vectors[3 * n]!;
          const vy = vectors[3 * n + 1]!;
          const vz = vectors[3 * n + 2]!;
          for (let m = n; m < radial; m++, p++) {
            const acrossM = value[m]! * perR;
            const along = alongN * numbers[m]! +
              (slope[m]! - acrossM) * numberN;
            gradient[p] = along * x + acrossN * vectors[3 * m]! + acrossM * vx;
            gradient[width + p] = along * y +
              acrossN * vectors[3 * m + 1]! + acrossM * vy;
            gradient[2 * width + p] = along * z +
              acrossN * vectors[3 * m + 2]! + acrossM * vz;
          }
        }
      }

      const row = 3 * neighbors.index[k]! * width;
      for (let c = 0; c < 3 * width; c++) {
        const g = gradient[c]!;
        forces[row + c]! -= g;
        total[c]! += g;
      }
    }
    // Moving the atom itself moves all its neighbours the other way.
    for (let c = 0; c < 3 * width; c++) forces[3 * i * width + c]! += total[c]!;
  }
  return { energy, forces };
}

/** R_n(r) and its derivative for all n. */
function radialFunctions(
  r: number,
  cutoff: number,
  value: Float64Array,
  slope: Float64Array,
): void {
  const x = 2 * r / cutoff - 1;
  const dx = 2 / cutoff;
  const smooth = 0.5 * (1 + Math.cos(Math.PI * r / cutoff));
  const dSmooth = -0.5 * Math.PI / cutoff * Math.sin(Math.PI * r / cutoff);
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

/** Adds one neighbour in direction x, y, z to the moments of all orders. */
function addToMoments(
  moments: readonly Float64Array[],
  value: Float64Array,
  x: number,
  y: number,
  z: number,
): void {
  const [m0, m1, m2, m3] = moments as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const xx = x * x, xy = x * y, xz = x * z, yy = y * y, yz = y * z, zz = z * z;
  for (let n = 0; n < value.length; n++) {
    const R = value[n]!;
    m0[n]! += R;
    m1[3 * n]! += R * x;
    m1[3 * n + 1]! += R * y;
    m1[3 * n + 2]! += R * z;
    m2[6 * n]! += R * xx;
    m2[6 * n + 1]! += R * xy;
    m2[6 * n + 2]! += R * xz;
    m2[6 * n + 3]! += R * yy;
    m2[6 * n + 4]! += R * yz;
    m2[6 * n + 5]! += R * zz;
    m3[10 * n]! += R * xx * x;
    m3[10 * n + 1]! += R * xx * y;
    m3[10 * n + 2]! += R * xx * z;
    m3[10 * n + 3]! += R * xy * y;
    m3[10 * n + 4]! += R * xy * z;
    m3[10 * n + 5]! += R * xz * z;
    m3[10 * n + 6]! += R * yy * y;
    m3[10 * n + 7]! += R * yy * z;
    m3[10 * n + 8]! += R * yz * z;
    m3[10 * n + 9]! += R * zz * z;
  }
}

/** Adds the descriptors of one atom to `out`. */
function addDescriptors(
  moments: readonly Float64Array[],
  radial: number,
  out: Float64Array,
): void {
  for (let n = 0; n < radial; n++) out[n]! += moments[0]![n]!;
  let p = radial;
  for (let order = 0; order <= MAX_ORDER; order++) {
    const moment = moments[order]!;
    const multiplicity = MULTIPLICITY[order]!;
    const size = multiplicity.length;
    for (let n = 0; n < radial; n++) {
      for (let m = n; m < radial; m++, p++) {
        let sum = 0;
        for (let c = 0; c < size; c++) {
          sum += multiplicity[c]! * moment[n * size + c]! *
            moment[m * size + c]!;
        }
        out[p]! += sum;
      }
    }
  }
}

/** Contracts the moments of one order with the direction x, y, z. */
function contract(
  order: number,
  moment: Float64Array,
  x: number,
  y: number,
  z: number,
  vectors: Float64Array,
  numbers: Float64Array,
): void {
  const radial = numbers.length;
  if (order === 0) {
    vectors.fill(0);
    numbers.set(moment);
    return;
  }
  for (let n = 0; n < radial; n++) {
    let vx: number, vy: number, vz: number;
    if (order === 1) {
      vx = moment[3 * n]!;
      vy = moment[3 * n + 1]!;
      vz = moment[3 * n + 2]!;
    } else if (order === 2) {
      const m = 6 * n;
      vx = moment[m]! * x + moment[m + 1]! * y + moment[m + 2]! * z;
      vy = moment[m + 1]! * x + moment[m + 3]! * y + moment[m + 4]! * z;
      vz = moment[m + 2]! * x + moment[m + 4]! * y + moment[m + 5]! * z;
    } else {
      const m = 10 * n;
      const xx = x * x, yy = y * y, zz = z * z;
      const xy = 2 * x * y, xz = 2 * x * z, yz = 2 * y * z;
      const [xyz, xyy, xzz] = [moment[m + 4]!, moment[m + 3]!, moment[m + 5]!];
      const [xxy, xxz] = [moment[m + 1]!, moment[m + 2]!];
      const [yyz, yzz] = [moment[m + 7]!, moment[m + 8]!];
      vx = moment[m]! * xx + xyy * yy + xzz * zz + xxy * xy + xxz * xz +
        xyz * yz;
      vy = xxy * xx + moment[m + 6]! * yy + yzz * zz + xyy * xy + xyz * xz +
        yyz * yz;
      vz = xxz * xx + yyz * yy + moment[m + 9]! * zz + xyz * xy + xzz * xz +
        yzz * yz;
    }
    vectors[3 * n] = vx;
    vectors[3 * n + 1] = vy;
    vectors[3 * n + 2] = vz;
    numbers[n] = vx * x + vy * y + vz * z;
  }
}

function factorial(n: number): number {
  return n < 2 ? 1 : n * factorial(n - 1);
}
