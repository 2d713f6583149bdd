/**
 * Ctrl-C, and a launcher that ends the job: the training stops between two
 * steps, so that its state can be written.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";

/** The training was told to stop. */
export class Interrupted extends AtomlossError {}

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/** Listens to the signals until it is disposed. */
export class Interruption implements Disposable {
  #signal: Deno.Signal | undefined;
  readonly #listeners: readonly (readonly [Deno.Signal, () => void])[];

  /** @param active Whether to listen: without, the signals end the process. */
  constructor(active: boolean) {
    this.#listeners = active
      ? SIGNALS.map((signal) =>
        [signal, (): void => {
          this.#signal = signal;
        }] as const
      )
      : [];
    for (const [signal, listener] of this.#listeners) {
      Deno.addSignalListener(signal, listener);
    }
  }

  /** Lets signals have their turn. Throws {@linkcode Interrupted} if there was one. */
  async check(): Promise<void> {
    if (this.#listeners.length === 0) return;
    await new Promise((resolve) => setTimeout(resolve));
    if (this.#signal !== undefined) {
      throw new Interrupted(`stopped by ${this.#signal}`);
    }
  }

  /** Listens no more. */
  [Symbol.dispose](): void {
    for (const [signal, listener] of this.#listeners) {
      Deno.removeSignalListener(signal, listener);
    }
  }
}
