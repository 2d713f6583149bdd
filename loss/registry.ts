/** Losses by name. */
import { ArgumentError, UnknownLossError } from "../errors.ts";
import type { Loss } from "./loss.ts";

const factories = new Map<string, () => Loss>();

/**
 * Makes a loss available by name wherever a loss is asked for.
 *
 * @param name A name that is not taken.
 * @param factory Makes the loss.
 * @throws {ArgumentError} if the name is taken.
 *
 * @example
 * ```ts
 * import { MSELoss, registerLoss } from "@atomloss/atomloss";
 *
 * registerLoss("squared_error", () => new MSELoss());
 * ```
 */
export function registerLoss(name: string, factory: () => Loss): void {
  if (factories.has(name)) {
    throw new ArgumentError(`a loss '${name}' is registered already`);
  }
  factories.set(name, factory);
}

/** Whether a loss has this name. */
export function hasLoss(name: string): boolean {
  return factories.has(name);
}

/** The loss of this name. Throws {@linkcode UnknownLossError} if there is none. */
export function lossNamed(name: string): Loss {
  const factory = factories.get(name);
  if (factory === undefined) {
    throw new UnknownLossError(
      `loss '${name}' is unknown: expected one of ${
        [...factories.keys()].join(", ")
      }, or a Loss object`,
    );
  }
  return factory();
}
