/**
 * What the labels of a structure weigh in a training: what its file says, times
 * what the command line says of its config type.
 *
 * @module
 */

import type { Options } from "./options.ts";
import { DataSetError, type Structure } from "./structure.ts";

/** Of structures without a config type. */
const DEFAULT_TYPE = "Default";

/**
 * The structures with weights that are to be trained with, as MACE has them:
 * `config_weight` times `config_energy_weight` and so on, times the config
 * type's. What the loss leaves out, the least squares leaves out as well.
 *
 * @throws {DataSetError} where a weight is no number from 0, or there is no
 * structure of a config type.
 */
export function weighted(
  structures: readonly Structure[],
  { configTypeWeights, energyWeight, stressWeight }: Pick<
    Options,
    "configTypeWeights" | "energyWeight" | "stressWeight"
  >,
): Structure[] {
  const types = new Set(structures.map(typeOf));
  for (const type of configTypeWeights.keys()) {
    if (type === DEFAULT_TYPE || types.has(type)) continue;
    throw new DataSetError(
      `--config-type-weights has ${JSON.stringify(type)}, but the structures ` +
        `to train on are of ${
          [...types].map((one) => JSON.stringify(one)).join(", ")
        }`,
    );
  }
  return structures.map((structure) => {
    const ofType = configTypeWeights.get(typeOf(structure)) ?? 1;
    const { energy, forces, stress } = structure.weights;
    for (const [name, weight] of Object.entries({ energy, forces, stress })) {
      if (weight >= 0 && weight < Infinity) continue;
      throw new DataSetError(
        `${structure.source}: config_weight times config_${name}_weight is ` +
          `${weight}, expected a number from 0`,
      );
    }
    return {
      ...structure,
      weights: {
        energy: energyWeight > 0 ? ofType * energy : 0,
        forces: ofType * forces,
        stress: stressWeight > 0 ? ofType * stress : 0,
      },
    };
  });
}

function typeOf({ configType = DEFAULT_TYPE }: Structure): string {
  return configType;
}
