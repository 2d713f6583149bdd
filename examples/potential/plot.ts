/**
 * A picture of a potential: predicted against reference energies, forces and
 * stresses, and how the loss went down.
 *
 * @module
 */

import type { ParityPoint, ParityPoints } from "./parity.ts";
import { ResultError } from "./results.ts";

/** The loss after a number of steps. */
export interface LossPoint {
  readonly step: number;
  readonly loss: number;
}

/** What predictions are compared with labels of. */
const QUANTITIES = [
  ["energies", "energy (eV/atom)"],
  ["forces", "force component (eV/Å)"],
  ["stresses", "stress component (meV/Å³)"],
] as const;

/**
 * Draws the picture as SVG.
 *
 * @param sets The points of each data set, by its name.
 * @param losses Of a training; none where nothing was trained.
 * @throws {ResultError} where there is nothing to draw.
 */
export async function drawPlot(
  sets: Readonly<Record<string, ParityPoints>>,
  losses: readonly LossPoint[] = [],
): Promise<string> {
  // Loaded here, so that who wants no plot does not wait for them.
  const vega = await import("vega");
  const { compile } = await import("vega-lite");

  const parities = QUANTITIES.flatMap(([quantity, title]) => {
    const points = Object.entries(sets).flatMap(([set, one]) =>
      one[quantity].points.map((point) => ({ set, ...point }))
    );
    return points.length > 0 ? [parity(title, points)] : [];
  });
  if (parities.length === 0) {
    throw new ResultError("there is no label to plot predictions against");
  }
  const { spec } = compile({
    background: "white",
    // Descriptions of every point would be most of the file.
    config: {
      aria: false,
      axis: { grid: false },
      point: { size: 9, opacity: 0.6 },
    },
    hconcat: [...parities, ...losses.length > 0 ? [lossCurve(losses)] : []],
  });
  const view = new vega.View(vega.parse(spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

/** The loss over the steps. */
// deno-lint-ignore explicit-function-return-type -- vega-lite's own type says less.
function lossCurve(losses: readonly LossPoint[]) {
  return {
    title: "loss of a batch",
    width: 260,
    height: 260,
    data: { values: losses.map((point) => ({ ...point })) },
    mark: { type: "line" as const },
    encoding: {
      x: { field: "step", type: "quantitative" as const },
      y: {
        field: "loss",
        type: "quantitative" as const,
        scale: { type: "log" as const, nice: false },
        title: null,
      },
    },
  };
}

/** Predicted against reference: perfect predictions are on the diagonal. */
// deno-lint-ignore explicit-function-return-type -- vega-lite's own type says less.
function parity(
  title: string,
  points: readonly (ParityPoint & { set: string })[],
) {
  const all = points.flatMap((p) => [p.reference, p.predicted]);
  const low = all.reduce((a, b) => Math.min(a, b));
  const high = all.reduce((a, b) => Math.max(a, b));
  const scale = { domain: [low, high], nice: true };
  const x = {
    field: "reference",
    type: "quantitative" as const,
    scale,
  };
  const y = {
    field: "predicted",
    type: "quantitative" as const,
    scale,
  };
  return {
    title,
    width: 260,
    height: 260,
    layer: [
      {
        data: {
          values: [low, high].map((v) => ({ reference: v, predicted: v })),
        },
        mark: { type: "line" as const, color: "gray", strokeWidth: 1 },
        encoding: { x, y },
      },
      {
        data: { values: points.map((point) => ({ ...point })) },
        mark: { type: "point" as const, filled: true },
        encoding: {
          x,
          y,
          color: { field: "set", type: "nominal" as const, title: null },
        },
      },
    ],
  };
}
