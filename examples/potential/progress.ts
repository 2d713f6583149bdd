/**
 * A progress bar, of rank 0 alone: on a terminal it moves, elsewhere it is a
 * line now and then.
 *
 * @module
 */

// Without @types/cli-progress: that would put the types of Node beside those of
// Deno, for the whole program.
import { Presets, SingleBar } from "cli-progress";

/** Milliseconds between the lines where there is no terminal. */
const LINE_INTERVAL = 5_000;

/** A running progress bar; disposing it ends it. */
export class Progress implements Disposable {
  readonly #bar: SingleBar | undefined;

  /**
   * @param label What is going on.
   * @param total How much there is to do.
   * @param shown Whether to show it: true on one replica.
   */
  constructor(label: string, total: number, shown: boolean) {
    if (!shown) return;
    this.#bar = new SingleBar({
      format: `${label.padEnd(12)} {bar} {percentage}% {value}/{total} {note}`,
      barsize: 24,
      noTTYOutput: true,
      notTTYSchedule: LINE_INTERVAL,
    }, Presets.rect);
    this.#bar.start(total, 0, { note: "" });
  }

  /** Shows how much is done, and lets timers and signals have their turn. */
  async update(done: number, note = ""): Promise<void> {
    this.#bar?.update(done, { note });
    await new Promise((resolve) => setTimeout(resolve));
  }

  /** Leaves the bar as it is and ends it. */
  [Symbol.dispose](): void {
    this.#bar?.stop();
  }
}
