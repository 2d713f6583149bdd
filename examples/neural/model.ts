/**
 * A neural potential in jax-js. Every atom sees moments of the directions to its
 * neighbours, up to rank 3, under radial functions that are learned: the moment
 * tensors of Shapeev (2016). Their norms do not change when the atoms are
 * rotated, and a network makes an energy of them. Forces are −dE/dx.
 *
 * Arrays of jax-js count their references: a function takes those that it is
 * given, and `.ref` is one more.
 *
 * @module
 */

import { grad, jit, jvp, nn, numpy as np, vjp } from "@jax-js/jax";

/** How far an atom sees, Å. */
export const CUTOFF = 5;
/** Sine waves that the radial functions are made of. */
const WAVES = 8;
/** Radial functions. */
const CHANNELS = 16;
const RANK = 3;
const HIDDEN = 32;
/** Invariants of an atom: in each channel the density and the norm of each rank. */
export const FEATURES = CHANNELS * (RANK + 2);
/**
 * Energies change much with the radial functions. An optimiser's steps are as
 * large for all parameters, so these are made larger, and count less.
 */
const RADIAL_SCALE = 0.1;

/** What is learned; Z elements. */
export type Parameters = {
  /** `[Z × WAVES, CHANNELS]` */
  radial: np.Array;
  /** `[Z × FEATURES, 1]`, behind the whitening. */
  linear: np.Array;
  /** `[Z × FEATURES, HIDDEN]`, `[HIDDEN, HIDDEN]`, `[HIDDEN, 1]`: the network. */
  w1: np.Array;
  w2: np.Array;
  w3: np.Array;
};

/** Structures without their positions: S of them, N atoms with up to K neighbours. */
export type Geometry = {
  /** `[N, K, Z]`: 1 for each neighbour's element. */
  species: np.Array;
  /** `[N, Z]`: 1 for each atom's element. */
  elements: np.Array;
  /** `[S, N]`: 1 for each atom of a structure. */
  members: np.Array;
};

/** Of which size the invariants are, as the training starts. */
export type Scaling = {
  /** `[Z, FEATURES]`: mean, and one over the standard deviation. */
  mean: np.Array;
  scale: np.Array;
  /** `[Z × FEATURES, Z × FEATURES]`: makes the linear parameters independent. */
  whitening: np.Array;
};

/** The shapes of the parameters for so many elements. */
export function parameterShapes(
  elements: number,
): Record<keyof Parameters, [number, number]> {
  const width = elements * FEATURES;
  return {
    radial: [elements * WAVES, CHANNELS],
    linear: [width, 1],
    w1: [width, HIDDEN],
    w2: [HIDDEN, HIDDEN],
    w3: [HIDDEN, 1],
  };
}

/** The parameters before the training, drawn from uniform numbers from −1 to 1. */
export function firstParameters(
  elements: number,
  uniform: () => number,
): Record<keyof Parameters, Float32Array<ArrayBuffer>> {
  const draw = (name: keyof Parameters): Float32Array<ArrayBuffer> => {
    const [rows, columns] = parameterShapes(elements)[name];
    // Nothing comes out of the network yet: the linear part is fitted alone.
    const bound = name === "w3" || name === "linear"
      ? 0
      : Math.sqrt(3 / rows) / (name === "radial" ? RADIAL_SCALE : 1);
    return Float32Array.from(
      { length: rows * columns },
      () => bound * uniform(),
    );
  };
  return {
    radial: draw("radial"),
    linear: draw("linear"),
    w1: draw("w1"),
    w2: draw("w2"),
    w3: draw("w3"),
  };
}

/** The same arrays once more. */
export function refs<T extends Record<string, np.Array>>(arrays: T): T {
  for (const array of Object.values(arrays)) array.ref;
  return arrays;
}

/** The monomials of a direction, 1, x, y, z, xx, xy, …, each as its factors. */
const MONOMIALS: number[][] = [[]];
for (const factors of MONOMIALS) {
  if (factors.length === RANK) break;
  for (let a = factors.at(-1) ?? 0; a < 3; a++) MONOMIALS.push([...factors, a]);
}

/** `[1, RANK + 1, M]`: adds squared moments up to the norm of each rank. */
const NORMS = np.array([
  Array.from(
    { length: RANK + 1 },
    (_, rank) =>
      MONOMIALS.map((factors) => factors.length === rank ? orders(factors) : 0),
  ),
]);

/** In how many orders the factors can stand: xy is an entry of its tensor, and yx. */
function orders(factors: readonly number[]): number {
  if (factors.length === 0) return 1;
  return [0, 1, 2].reduce((sum, a) => {
    const at = factors.indexOf(a);
    return at < 0 ? sum : sum + orders(factors.toSpliced(at, 1));
  }, 0);
}

/**
 * The invariants of every atom, `[N, FEATURES]`.
 *
 * @param edges `[N, K, 3]`: from every atom to its neighbours, Å; where it has
 * fewer, anything but 0: what has no element does not count.
 */
export function invariants(
  radial: np.Array,
  edges: np.Array,
  species: np.Array,
): np.Array {
  const [n, k, z] = species.shape as [number, number, number];
  const r = np.sqrt(np.square(edges.ref).sum(2)).reshape([n, k, 1]);
  const directions = edges.div(r.ref);
  const axes = [0, 1, 2].map((a) => directions.ref.slice([], [], a));
  directions.dispose();
  const one = np.onesLike(axes[0]!.ref);
  const monomials = np.stack(
    MONOMIALS.map((factors) =>
      factors.reduce((x, a) => x.mul(axes[a]!.ref), one.ref)
    ),
    1,
  );
  for (const x of [...axes, one]) x.dispose();

  const cut = np.square(np.cos(r.ref.mul(Math.PI / 2 / CUTOFF)));
  const waves = np.linspace(1, WAVES, WAVES).mul(Math.PI / CUTOFF);
  const sines = np.sin(r.ref.mul(waves)).mul(cut.div(r).mul(RADIAL_SCALE));
  const basis = species.reshape([n, k, z, 1]).mul(
    sines.reshape([n, k, 1, WAVES]),
  ).reshape([n, k, z * WAVES]);

  // First over the neighbours: what is learned comes behind the longest sums.
  const sums = np.matmul(monomials, basis); // [N, M, Z × WAVES]
  const density = np.matmul(sums.ref.slice([], 0, []), radial.ref);
  const moments = np.matmul(sums, radial); // [N, M, CHANNELS]
  const norms = np.matmul(NORMS.ref, np.square(moments));
  return np.concatenate([density, norms.reshape([n, -1])], 1);
}

/** What the network takes, `[N, Z × FEATURES]`: invariants in the columns of the element. */
export function inputs(
  radial: np.Array,
  edges: np.Array,
  { species, elements, mean, scale }:
    & Pick<Geometry, "species" | "elements">
    & Pick<Scaling, "mean" | "scale">,
): np.Array {
  const [n, z] = elements.shape as [number, number];
  const scaled = invariants(radial, edges, species)
    .sub(np.matmul(elements.ref, mean))
    .mul(np.matmul(elements.ref, scale));
  return scaled.reshape([n, 1, FEATURES]).mul(elements.reshape([n, z, 1]))
    .reshape([n, z * FEATURES]);
}

/** The energies of the structures, `[S, 1]`, without those of free atoms, eV. */
function energies(
  { radial, linear, w1, w2, w3 }: Parameters,
  edges: np.Array,
  { members, whitening, ...rest }: Geometry & Scaling,
): np.Array {
  const x = inputs(radial, edges, rest);
  const hidden = nn.silu(np.matmul(nn.silu(np.matmul(x.ref, w1)), w2));
  const atoms = np.matmul(x, np.matmul(whitening, linear))
    .add(np.matmul(hidden, w3));
  return np.matmul(members, atoms);
}

/** Energies, `[S, 1]`, and their gradient with respect to the edges, `[N, K, 3]`. */
export const predict = jit(
  (
    parameters: Parameters,
    edges: np.Array,
    geometry: Geometry & Scaling,
  ): [np.Array, np.Array] => {
    const [e, pull] = vjp(
      (edges: np.Array) => energies(parameters, edges, geometry),
      [edges],
    );
    const [gradient] = pull(np.onesLike(e.ref));
    return [e, gradient];
  },
);

/**
 * The gradient of a loss with respect to the parameters, from its gradients with
 * respect to energies and forces: the latter is a direction to move the atoms
 * in, and what it weighs the forces with is how the energies fall along it.
 *
 * @param gradEnergies `[S, 1]`
 * @param direction `[N, K, 3]`: minus what the edges change by.
 */
export const backward = jit(
  (
    parameters: Parameters,
    edges: np.Array,
    geometry: Geometry & Scaling,
    gradEnergies: np.Array,
    direction: np.Array,
  ): Parameters =>
    grad((parameters: Parameters) => {
      const [e, slope] = jvp(
        (edges: np.Array) => energies(parameters, edges, geometry),
        [edges],
        [direction],
      );
      return e.mul(gradEnergies).sum().add(slope.sum());
    })(parameters),
);
