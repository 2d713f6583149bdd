/** What a reduced loss has to say of its input when its value is read. */
import { ArgumentError } from "../errors.ts";
import type { Remarks, ResultListener } from "../tensor/tensor.ts";

/**
 * Told how many numbers of a loss's input, target, weights and scale were NaN or
 * infinite where they counted, when its value is read.
 */
export type NonFiniteListener = (count: number) => void;

/** What becomes of targets that are not finite, where a loss has masks. */
export const COUNTED_AS_0 =
  "counted as 0: with ignoreNaN: true an entry whose label is missing, NaN, does not count at all";

/**
 * What tells the listener, by default with a warning, of numbers that were not
 * finite, and throws an {@linkcode ArgumentError} if natoms or groups were wrong.
 *
 * @param targets What became of targets that were not finite.
 */
export function remarksOn(
  loss: string,
  targets: string,
  listener?: NonFiniteListener,
): ResultListener {
  return (remarks) => {
    const { inputs, targets: missing, factors, natoms, groups } = remarks;
    if (natoms > 0) {
      throw new ArgumentError(
        `natoms of ${loss} does not describe its input (${natoms} of its numbers, or their sum): expected numbers ` +
          ">= 0 that add up to its rows, or of a loss that reads natoms, numbers >= 1",
      );
    }
    if (groups > 0) {
      throw new ArgumentError(
        `groups of ${loss} has ${groups} numbers without a weight, expected numbers from 0 on, fewer than groupWeights has`,
      );
    }
    const count = inputs + missing + factors;
    if (count === 0) return;
    if (listener !== undefined) listener(count);
    else warn(loss, targets, remarks);
  };
}

function warn(
  loss: string,
  fate: string,
  { inputs, targets, factors }: Remarks,
): void {
  const said: string[] = [];
  if (inputs > 0) {
    said.push(
      `${inputs} entries of the input of ${loss} counted as 0 or as the largest finite number, without gradient`,
    );
  }
  if (targets > 0) {
    said.push(`${targets} entries of the target of ${loss} ${fate}`);
  }
  if (factors > 0) {
    said.push(`${factors} weights or scales of ${loss} counted as 0`);
  }
  console.warn(
    `atomloss: Found nans or infs while computing loss: ${said.join("; ")}`,
  );
}
