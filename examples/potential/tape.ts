/**
 * Rotational invariants as a tape of products.
 *
 * A symmetric tensor of rank l is kept as its (l + 1)(l + 2)/2 components. Two of
 * them are multiplied, some of their indices contracted and the result made
 * symmetric; what is contracted to rank 0 is an invariant. All of that are sums
 * of products of two numbers, and so one loop computes any invariant, another its
 * derivative: the scheme of moment tensor potentials (A. V. Shapeev, Multiscale
 * Model. Simul. 14, 1153, 2016).
 *
 * @module
 */

/** A symmetric tensor whose components are at `at` and behind it. */
export interface TensorOf {
  readonly rank: number;
  readonly at: number;
}

/** The numbers `value[k] = Σ_t factor[t] · value[left[t]] · value[right[t]]`. */
export interface Tape {
  /** Numbers that are given: the components of the moments. */
  readonly inputs: number;
  /** All numbers; each is computed from ones before it. */
  readonly size: number;
  /** The products of number `inputs + k` are from `start[k]` to `start[k + 1]`. */
  readonly start: Int32Array;
  readonly left: Int32Array;
  readonly right: Int32Array;
  readonly factor: Float64Array;
}

/** Components of a symmetric tensor by rank, as exponents of x, y and z. */
export function componentsOf(rank: number): [number, number, number][] {
  const all: [number, number, number][] = [];
  for (let x = rank; x >= 0; x--) {
    for (let y = rank - x; y >= 0; y--) all.push([x, y, rank - x - y]);
  }
  return all;
}

/** Writes a tape. */
export class TapeWriter {
  readonly inputs: number;
  readonly #start = [0];
  readonly #left: number[] = [];
  readonly #right: number[] = [];
  readonly #factor: number[] = [];

  /** @param inputs How many numbers are given. */
  constructor(inputs: number) {
    this.inputs = inputs;
  }

  /**
   * The product of two tensors of which so many pairs of indices are contracted,
   * made symmetric.
   */
  product(a: TensorOf, b: TensorOf, contracted: number): TensorOf {
    const rank = a.rank + b.rank - 2 * contracted;
    const components = componentsOf(rank);
    const places = new Map(components.map((c, k) => [c.join(), k]));
    const ofA = new Map(componentsOf(a.rank).map((c, k) => [c.join(), k]));
    const ofB = new Map(componentsOf(b.rank).map((c, k) => [c.join(), k]));
    const sums = components.map(() => new Map<string, number>());
    const ways = components.map(() => 0);

    // Every value of the indices that stay and of those that are contracted.
    const indices = rank + contracted;
    for (let code = 0; code < 3 ** indices; code++) {
      const [free, inA, inB] = [[0, 0, 0], [0, 0, 0], [0, 0, 0]];
      for (let k = 0, rest = code; k < indices; k++) {
        const axis = rest % 3;
        rest = (rest - axis) / 3;
        if (k < rank) free[axis]!++;
        if (k < a.rank - contracted || k >= rank) inA[axis]!++;
        if (k >= a.rank - contracted) inB[axis]!++;
      }
      const k = places.get(free.join())!;
      const factors = [
        a.at + ofA.get(inA.join())!,
        b.at + ofB.get(inB.join())!,
      ];
      if (a.at === b.at) factors.sort((i, j) => i - j); // to meet twice what is the same
      const term = factors.join();
      sums[k]!.set(term, (sums[k]!.get(term) ?? 0) + 1);
      ways[k]!++;
    }

    const at = this.inputs + this.#start.length - 1;
    sums.forEach((terms, k) => {
      const contractions = 3 ** contracted;
      for (const [term, count] of terms) {
        const [i, j] = term.split(",").map(Number) as [number, number];
        this.#left.push(i);
        this.#right.push(j);
        this.#factor.push(count * contractions / ways[k]!);
      }
      this.#start.push(this.#left.length);
    });
    return { rank, at };
  }

  /** What was written. */
  tape(): Tape {
    return {
      inputs: this.inputs,
      size: this.inputs + this.#start.length - 1,
      start: Int32Array.from(this.#start),
      left: Int32Array.from(this.#left),
      right: Int32Array.from(this.#right),
      factor: Float64Array.from(this.#factor),
    };
  }
}
