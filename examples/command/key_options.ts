/**
 * The options that say by which keys a file has its labels.
 *
 * @module
 */

import type { KeyOptions } from "../extxyz/label_keys.ts";
import type { Arguments } from "./arguments.ts";

/** Their names, and what follows each. */
export const KEY_OPTIONS = {
  "energy-key": "value",
  "forces-key": "value",
  "stress-key": "value",
} as const;

/** The keys that were given. */
export function readKeys(
  options: Arguments["options"],
): Required<KeyOptions> {
  return {
    energyKey: options.get("energy-key")?.[0],
    forcesKey: options.get("forces-key")?.[0],
    stressKey: options.get("stress-key")?.[0],
  };
}
