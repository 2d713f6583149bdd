/** Losses of one entry in plain TypeScript, and the definitions of those that a user would write. */
import type { LossDefinition } from "../mod.ts";

type Numbers = readonly number[];
type Parameters = Readonly<Record<string, number>>;

/** Value and derivative for one prediction; n: atoms of its structure. */
type ElementLoss = (
  p: number,
  t: number,
  parameters: Parameters,
  n: number,
) => readonly [value: number, slope: number];

/** Value and derivatives for the predictions of one row. */
type RowLoss = (
  p: Numbers,
  t: Numbers,
  parameters: Parameters,
) => readonly [value: number, slopes: Numbers];

const dot = (a: Numbers, b: Numbers): number =>
  a.reduce((sum, x, i) => sum + x * b[i]!, 0);
const minus = (a: Numbers, b: Numbers): number[] => a.map((x, i) => x - b[i]!);
const times = (a: Numbers, f: number): number[] => a.map((x) => x * f);

function huber(d: number, delta: number): [number, number] {
  return Math.abs(d) < delta
    ? [d * d / 2, d]
    : [delta * (Math.abs(d) - delta / 2), delta * Math.sign(d)];
}

/** Losses with an entry per element, by name. */
export const ELEMENT_LOSSES: Readonly<Record<string, ElementLoss>> = {
  mae: (p, t) => [Math.abs(p - t), Math.sign(p - t)],
  mse: (p, t) => [(p - t) ** 2, 2 * (p - t)],
  per_atom_mae: (p, t, _, n) => [Math.abs(p - t) / n, Math.sign(p - t) / n],
  huber: (p, t, { delta = 1 }) => huber(p - t, delta),
  smooth_l1: (p, t, { beta = 1 }) => {
    const d = p - t;
    return Math.abs(d) < beta
      ? [d * d / 2 / beta, d / beta]
      : [Math.abs(d) - beta / 2, Math.sign(d)];
  },
};

/** Losses with an entry per row, by name. */
export const ROW_LOSSES: Readonly<Record<string, RowLoss>> = {
  l2norm: (p, t) => {
    const d = minus(p, t), r = Math.hypot(...d);
    return [r, times(d, r === 0 ? 0 : 1 / r)];
  },
  cross_entropy: (p, t) => {
    const most = Math.max(...p);
    const exp = p.map((x) => Math.exp(x - most));
    const all = exp.reduce((a, b) => a + b, 0);
    const mass = t.reduce((a, b) => a + b, 0);
    const logs = p.map((x) => x - most - Math.log(all));
    return [
      -dot(t, logs),
      exp.map((e, i) => mass * e / all - t[i]!),
    ];
  },
  plain_row_huber: (p, t, { delta = 0.25 }) => {
    const d = minus(p, t), r = Math.hypot(...d);
    const [value, slope] = huber(r, delta);
    return [value, times(d, r === 0 ? 0 : slope / r)];
  },
  plain_cosine: (p, t) => {
    const [a, b] = [Math.hypot(...p), Math.hypot(...t)];
    const d = minus(p, t), cosine = dot(p, t) / a / b;
    return [
      // Of equal vectors exactly 0.
      (dot(d, d) - (a - b) ** 2) / (2 * a * b),
      p.map((x, i) => cosine * x / a ** 2 - t[i]! / a / b),
    ];
  },
  plain_gaussian_nll: ([mean, variance], [t], { eps = 0.01 }) => {
    const v = Math.max(variance!, eps), d = mean! - t!;
    const slope = variance! < eps ? 0 : (1 - d * d / v) / v / 2;
    return [(Math.log(v) + d * d / v) / 2, [d / v, slope]];
  },
};

/** The losses named plain_… above, as a user defines them: by squares, by products, by columns. */
export const DEFINITIONS: Readonly<Record<string, LossDefinition>> = {
  plain_row_huber: {
    kind: "row",
    value: "r < delta ? T(0.5) * s : delta * (r - T(0.5) * delta)",
    grad: "r < delta ? T(1) : delta / r",
    parameters: { delta: 0.25 },
    domains: { delta: ["> 0", "<= 10"] },
  },
  plain_cosine: {
    kind: "row",
    // 1 − cos without its cancellation: (|p − t|² − (|p| − |t|)²) / (2 |p| |t|).
    value:
      "(s - (sqrt(pp) - sqrt(tt)) * (sqrt(pp) - sqrt(tt))) / (T(2) * sqrt(pp * tt))",
    gradP: "pt / (pp * sqrt(pp * tt))",
    gradT: "T(-1) / sqrt(pp * tt)",
  },
  plain_gaussian_nll: {
    kind: "columns",
    columns: 2,
    value:
      "T(0.5) * (log(max(p[1], eps)) + (p[0] - t[0]) * (p[0] - t[0]) / max(p[1], eps))",
    grad: [
      "(p[0] - t[0]) / max(p[1], eps)",
      "p[1] < eps ? T(0) : T(0.5) * (T(1) - (p[0] - t[0]) * (p[0] - t[0]) / max(p[1], eps)) / max(p[1], eps)",
    ],
    parameters: { eps: 0.01 },
    domains: { eps: "> 0" },
  },
};
