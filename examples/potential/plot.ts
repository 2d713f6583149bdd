/**
 * A picture of a trained potential: predicted against reference energies and
 * forces, and how the loss went down.
 *
 * @module
 */

import type { Predictions } from "./evaluate.ts";
import { atomCount, type Structure } from "./structure.ts";

/** A data set and what was predicted for it. */
export interface PlotSet {
  readonly name: string;
  readonly structures: readonly Structure[];
  readonly predictions: Predictions;
}

/** The loss after a number of steps. */
export interface LossPoint {
  readonly step: number;
  readonly loss: number;
}

/** More force components than this of a set are thinned out. */
const MAX_POINTS = 1_500;

/** Draws the picture as SVG. */
export async function drawPlot(
  sets: readonly PlotSet[],
  losses: readonly LossPoint[],
): Promise<string> {
  // Loaded here, so that who wants no plot does not wait for them.
  const vega = await import("vega");
  const { compile } = await import("vega-lite");

  const { spec } = compile({
    background: "white",
    config: { axis: { grid: false }, point: { size: 9, opacity: 0.6 } },
    hconcat: [
      parity("energy (eV/atom)", sets.flatMap(energyPoints)),
      parity("force component (eV/Å)", sets.flatMap(forcePoints)),
      {
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
      },
    ],
  });
  const view = new vega.View(vega.parse(spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

interface Point {
  readonly set: string;
  readonly reference: number;
  readonly predicted: number;
}

function energyPoints({ name, structures, predictions }: PlotSet): Point[] {
  return structures.map((structure, s) => ({
    set: name,
    reference: structure.energy / atomCount(structure),
    predicted: predictions.energies[s]! / atomCount(structure),
  }));
}

function forcePoints({ name, structures, predictions }: PlotSet): Point[] {
  const reference = structures.flatMap(({ forces }) => [...forces]);
  const every = Math.ceil(reference.length / MAX_POINTS);
  return reference.flatMap((force, k) =>
    k % every === 0
      ? [{ set: name, reference: force, predicted: predictions.forces[k]! }]
      : []
  );
}

/** Predicted against reference: perfect predictions are on the diagonal. */
// deno-lint-ignore explicit-function-return-type -- vega-lite's own type says less.
function parity(title: string, points: readonly Point[]) {
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
