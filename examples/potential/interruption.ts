/**
 * Ctrl-C, and a launcher or a batch system that ends the job: the training stops
 * between two steps, so that its state can be written.
 *
 * Launchers send a signal to every replica. A replica that ended at once would
 * take the others with it in the middle of a step, and on a GPU leave them
 * waiting for it; so replica 0, which writes, stops first, and the others go on
 * until they miss it.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";

const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;
type Signal = keyof typeof EXIT_CODES;
const SIGNALS = Object.keys(EXIT_CODES) as Signal[];

/**
 * How long the others wait for replica 0, in ms. It may not have been told: then
 * they end, and it notices. Below the 3 s that launch.ts leaves them.
 */
const PATIENCE = 2_000;

/**
 * Until a signal that came while a collective held this process is told, in ms:
 * before launch.ts, noticing an end, sends one of its own (a second).
 */
const DELIVERY = 50;

/** The training was told to stop. */
export class Interrupted extends AtomlossError {
  /** What a shell expects of a program that this signal ends. */
  readonly exitCode: number;

  constructor(signal: Signal) {
    super(`stopped by ${signal}`);
    this.exitCode = EXIT_CODES[signal];
  }
}

/** Listens to the signals until it is disposed, or one has come: a second one ends the process. */
export class Interruption implements Disposable {
  /** The signal that has come. */
  #interrupted: Interrupted | undefined;
  #since = 0;
  readonly #active: boolean;
  readonly #isFirst: boolean;
  #listeners: (readonly [Signal, () => void])[] = [];

  /**
   * @param active Whether to listen: without, the signals end the process.
   * @param isFirst Whether this is replica 0.
   */
  constructor(active: boolean, isFirst: boolean) {
    this.#active = active;
    this.#isFirst = isFirst;
    for (const signal of active ? SIGNALS : []) {
      const listener = (): void => {
        this.#interrupted = new Interrupted(signal);
        this.#since = performance.now();
        this[Symbol.dispose]();
      };
      Deno.addSignalListener(signal, listener);
      this.#listeners.push([signal, listener]);
    }
  }

  /** Lets signals have their turn. Throws {@linkcode Interrupted} if it is time to stop. */
  async check(): Promise<void> {
    if (!this.#active) return;
    // A timer would take longer than a small step.
    await new Promise<void>((resolve) => setImmediate(resolve));
    const patience = this.#isFirst ? 0 : PATIENCE;
    if (
      this.#interrupted !== undefined &&
      performance.now() - this.#since >= patience
    ) throw this.#interrupted;
  }

  /** Why the training ends with an error: the signal, if it follows from that. */
  async reason(error: unknown): Promise<unknown> {
    // When replica 0 has stopped at a signal, it has come here too. Replica 0
    // itself stops for nobody: a signal that comes now is the consequence.
    if (this.#active && !this.#isFirst) {
      await new Promise((resolve) => setTimeout(resolve, DELIVERY));
    }
    return this.#interrupted ?? error;
  }

  /** Listens no more. */
  [Symbol.dispose](): void {
    for (const [signal, listener] of this.#listeners) {
      Deno.removeSignalListener(signal, listener);
    }
    this.#listeners = [];
  }
}
