/** What a reduced loss has to say of its input when its value is read: al_loss_result.nonfinite of kernels/atomloss.h. */
import { ArgumentError } from "../errors.ts";
import type { ResultListener } from "../tensor/tensor.ts";

/** Told how many entries of a loss's input were NaN or infinite, when its value is read. */
export type NonFiniteListener = (count: number) => void;

/** AL_BAD_NATOMS: what each task adds whose natoms were wrong. */
const BAD_NATOMS = 1n << 48n;

/**
 * What tells the listener, by default with a warning, of entries that were not
 * finite, and throws an {@linkcode ArgumentError} if natoms was wrong.
 */
export function remarksOn(
  loss: string,
  listener: NonFiniteListener = warnNonFinite(loss),
): ResultListener {
  return (remarks) => {
    if (remarks >= BAD_NATOMS) {
      throw new ArgumentError(
        `natoms of ${loss} does not describe its input: expected numbers >= 0 that add up to its rows`,
      );
    }
    if (remarks > 0n) listener(Number(remarks));
  };
}

/** The warning for non-finite inputs of a loss. */
function warnNonFinite(loss: string): NonFiniteListener {
  return (count) =>
    console.warn(
      `atomloss: Found nans or infs while computing loss: ${count} entries of the input of ` +
        `${loss} counted as 0 or as the largest finite number, without gradient`,
    );
}
