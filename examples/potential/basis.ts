/**
 * The functions that a potential is linear in: which they are, of which elements.
 *
 * Around an atom, with u the direction and r the distance of a neighbour, the
 * neighbours' moments are the tensors
 *
 *     M_ql = Σ_neighbours c_q(element) R_q(r) u⊗…⊗u   (l times, l = 0 to 4)
 *
 * The functions are the radial functions of every neighbour's element (two
 * bodies), and contractions of two to four moments (three to five bodies), which
 * no rotation changes: the atomic cluster expansion (R. Drautz, Phys. Rev. B 99,
 * 014104, 2019) in the moments of A. V. Shapeev (Multiscale Model. Simul. 14,
 * 1153, 2016). Each element has parameters of its own for the atoms in the
 * middle, and a constant.
 *
 * Up to three elements have moments of their own (c_q is 1 for one of them);
 * of more there are three mixtures. The functions of one atom are computed in a
 * time that does not depend on the elements, the parameters are about 360 for
 * each of one to three elements, and 150 for each of four to ten.
 *
 * @module
 */

import { SYMBOLS } from "../extxyz/elements.ts";
import { DataSetError } from "./structure.ts";
import { componentsOf, type Tape, TapeWriter, type TensorOf } from "./tape.ts";

/** Highest rank of the moments. */
export const MAX_RANK = 4;
/** More elements than this are refused: the functions do not tell them apart. */
export const MAX_ELEMENTS = 10;
const MAX_KINDS = 3;

/** How many moments of each rank there are, and how many of them are multiplied. */
interface Sizes {
  /** Radial functions of the pair terms. */
  readonly pair: number;
  /** Moments of rank 0, 1, … */
  readonly moments: readonly number[];
  /** Moments in products of three: all, those with one of rank 3, with one of rank 4. */
  readonly triple: readonly [number, number, number];
  /** In three-body terms times a moment of rank 0. */
  readonly scaled: number;
  /** In products of four. */
  readonly quadruple: number;
}

const SIZES: readonly Sizes[] = [
  {
    pair: 10,
    moments: [6, 6, 5, 4, 4],
    triple: [4, 3, 2],
    scaled: 3,
    quadruple: 2,
  },
  {
    pair: 10,
    moments: [8, 8, 6, 4, 4],
    triple: [4, 2, 2],
    scaled: 3,
    quadruple: 2,
  },
  {
    pair: 10,
    moments: [9, 9, 6, 6, 3],
    triple: [3, 3, 3],
    scaled: 3,
    quadruple: 2,
  },
];
const MANY_ELEMENTS: Sizes = {
  pair: 6,
  moments: [6, 6, 6, 3],
  triple: [0, 0, 0],
  scaled: 3,
  quadruple: 0,
};

/** The functions of a potential. */
export interface Basis {
  /** Atomic numbers, in ascending order. */
  readonly elements: readonly number[];
  /** Distance in Å beyond which atoms do not see each other. */
  readonly cutoff: number;
  /** Radial functions of the pair terms of each element. */
  readonly pair: number;
  /** Mixtures of elements that there are moments of. */
  readonly kinds: number;
  /** `[elements, kinds]`: how much of an element is in a mixture. */
  readonly mixture: Float64Array;
  /** Where the components of the moments of each rank begin on the tape. */
  readonly moments: readonly (readonly number[])[];
  readonly tape: Tape;
  /** Which numbers of the tape are functions. */
  readonly invariants: Int32Array;
  /** Functions of an atom of one element. */
  readonly functions: number;
  /** All parameters: a constant of each element, then its functions. */
  readonly size: number;
}

/**
 * The functions for some elements.
 *
 * @throws {DataSetError} where there are more than ten.
 */
export function makeBasis(elements: readonly number[], cutoff: number): Basis {
  const count = elements.length;
  if (count > MAX_ELEMENTS) {
    throw new DataSetError(
      `${count} elements (${elements.map((z) => SYMBOLS[z]).join(", ")}): ` +
        `this potential carries ${MAX_ELEMENTS} at most`,
    );
  }
  const kinds = Math.min(count, MAX_KINDS);
  const sizes = SIZES[count - 1] ?? MANY_ELEMENTS;
  const mixture = Float64Array.from({ length: count * kinds }, (_, k) => {
    const [element, kind] = [Math.floor(k / kinds), k % kinds];
    return count <= MAX_KINDS
      ? Number(element === kind)
      : Math.cos(Math.PI * kind * (element + 0.5) / count);
  });

  let inputs = 0;
  const moments = sizes.moments.map((number, rank) =>
    Array.from({ length: number }, () => {
      const at = inputs;
      inputs += componentsOf(rank).length;
      return at;
    })
  );
  const writer = new TapeWriter(inputs);
  const invariants = writeInvariants(writer, moments, sizes);
  const functions = sizes.pair * count + invariants.length;
  return {
    elements,
    cutoff,
    pair: sizes.pair,
    kinds,
    mixture,
    moments,
    tape: writer.tape(),
    invariants: Int32Array.from(invariants),
    functions,
    size: count * (1 + functions),
  };
}

/** The place of the element whose atoms have a function. */
export function elementOf(p: number, { elements, functions }: Basis): number {
  const count = elements.length;
  return p < count ? p : Math.floor((p - count) / functions);
}

/** Writes the products of two, three and four moments that are functions. */
function writeInvariants(
  writer: TapeWriter,
  moments: readonly (readonly number[])[],
  { triple, scaled, quadruple }: Sizes,
): number[] {
  const invariants: number[] = [];
  const all = (rank: number, most = Infinity): TensorOf[] =>
    (moments[rank] ?? []).slice(0, most).map((at) => ({ rank, at }));
  const add = (a: TensorOf, b: TensorOf, contracted: number): TensorOf => {
    const invariant = writer.product(a, b, contracted);
    invariants.push(invariant.at);
    return invariant;
  };

  // Three bodies: M_ql : M_pl.
  const squares = moments.map((_, rank) =>
    pairs(all(rank)).map(([a, b, i, j]) => ({ i, j, of: add(a, b, rank) }))
  );

  // Four bodies: three moments that share indices, each of them with both others.
  const [most, mostThird, mostFourth] = triple;
  const vectors = pairs(all(1, most)).map(([a, b]) => writer.product(a, b, 0));
  const matrices = pairs(all(2, most)).map(([a, b, i, j]) => ({
    i,
    j,
    of: writer.product(a, b, 1),
  }));
  for (const b of all(2, most)) for (const a of vectors) add(a, b, 2);
  for (const [k, b] of all(2, most).entries()) {
    for (const { j, of } of matrices) if (k >= j) add(of, b, 2);
  }
  for (const c of all(3, mostThird)) {
    for (const a of all(1, mostThird)) {
      const matrix = writer.product(c, a, 1);
      for (const b of all(2, mostThird)) add(matrix, b, 2);
    }
  }
  for (const [a, b] of pairs(all(2, mostFourth))) {
    const product = writer.product(a, b, 0);
    for (const d of all(4, mostFourth)) add(product, d, 4);
  }
  // … and three-body terms times a number.
  for (const [rank, ofRank] of squares.entries()) {
    for (const { j, of } of ofRank) {
      for (const [k, a] of all(0, scaled).entries()) {
        if (j < scaled && (rank > 0 || k >= j)) add(of, a, 0);
      }
    }
  }

  // Five bodies: products of two such matrices, and of two three-body terms.
  const few = <T extends { i: number; j: number }>(of: readonly T[]): T[] =>
    of.filter(({ j }) => j < quadruple);
  const four = [
    ...pairs(all(1, quadruple)).map(([, , i, j]) =>
      vectors[index(i, j, most)]!
    ),
    ...few(matrices).map(({ of }) => of),
  ];
  for (const [a, b] of pairs(four)) add(a, b, 2);
  const three = squares.slice(0, 4).flatMap((ofRank) =>
    few(ofRank).map(({ of }) => of)
  );
  for (const [a, b] of pairs(three)) add(a, b, 0);
  return invariants;
}

/** All pairs of a list, each once, also of one with itself, and their places. */
function pairs<T>(list: readonly T[]): [T, T, number, number][] {
  return list.flatMap((a, i) =>
    list.slice(i).map((b, k): [T, T, number, number] => [a, b, i, i + k])
  );
}

/** The place of a pair among the pairs of a list of this length. */
function index(i: number, j: number, length: number): number {
  return i * length - i * (i - 1) / 2 + j - i;
}
