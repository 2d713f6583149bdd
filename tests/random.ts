/** Seeded random numbers for tests: the same on every run. */

/** A generator of numbers in [0, 1): mulberry32. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** n numbers in [-1, 1). */
export function randomNumbers(
  n: number,
  seed: number,
): Float64Array<ArrayBuffer> {
  const next = seeded(seed);
  return Float64Array.from({ length: n }, () => 2 * next() - 1);
}
