/**
 * What a training depends on, as texts and numbers to compare: a checkpoint is
 * gone on from with the same, or it would become another training's.
 *
 * @module
 */

import type { ProcessGroup } from "../../mod.ts";
import type { Options } from "./options.ts";
import type { Structure } from "./structure.ts";

/** Values by the names that the command line has for them. */
export type Settings = Readonly<Record<string, string | number>>;

/**
 * What every step depends on. Of data it is the numbers that count, and not
 * where they are: files may be moved, but not be edited.
 */
export async function decisiveSettings(
  options: Options,
  data: { trainSet: readonly Structure[]; testSet: readonly Structure[] },
): Promise<Settings> {
  return {
    "SHA-256 of the structures to train on": await digest(data.trainSet),
    // Their number decides how the order of the batches is drawn.
    "SHA-256 of the structures to test on": await digest(data.testSet),
    "--cutoff": options.cutoff,
    "--steps": options.steps, // on which the learning rate depends
    "--batch": options.batch,
    "--lr": options.lr,
    "--energy-loss": options.energyLoss,
    "--energy-weight": options.energyWeight,
    "--force-loss": options.forceLoss,
    "--stress-weight": options.stressWeight,
    "--config-type-weights": textOf(options.configTypeWeights),
    "--e0s": textOf(options.e0s),
    "--seed": options.seed,
    "--dtype": options.dtype,
  };
}

function textOf(numbers: ReadonlyMap<string | number, number>): string {
  return JSON.stringify(Object.fromEntries([...numbers].toSorted()));
}

/** What sums are divided by: with another division they are the same to rounding. */
export function divisionSettings(
  { microBatch }: Options,
  { worldSize, device }: ProcessGroup,
): Settings {
  return {
    "the number of replicas": worldSize,
    "the device": device.name.replace(/:.*/, ""),
    "--micro-batch": microBatch ?? "the whole batch",
  };
}

/** A number of 256 bits that all that is known of the structures is mixed into. */
async function digest(structures: readonly Structure[]): Promise<string> {
  const parts = structures.flatMap((structure) => {
    const { numbers, periodic, energy, weights } = structure;
    const { lattice, positions, forces, stress } = structure;
    const head = [
      numbers.length,
      ...periodic.map(Number),
      energy,
      ...[weights.energy, weights.forces, weights.stress],
    ];
    return [
      Float64Array.from(head),
      numbers,
      lattice,
      positions,
      forces,
      stress,
    ];
  });
  const all = await new Blob(parts.map((part) => Float64Array.from(part)))
    .arrayBuffer();
  return new Uint8Array(await crypto.subtle.digest("SHA-256", all)).toHex();
}
