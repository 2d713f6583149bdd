/** Work that a few may do at a time. */

/** Time after which work that has not ended counts no more, in ms. */
const TURN_TIME = 1_000;

/** Lets so many work at a time, the others in their order. */
export class Turns {
  #free: number;
  readonly #queue: (() => void)[] = [];

  constructor(atATime: number) {
    this.#free = atATime;
  }

  /** Does the work when it is its turn. Work that hangs holds nobody else up. */
  async take(work: () => Promise<void>): Promise<void> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((next) => this.#queue.push(next));
    let isHeld = true;
    const pass = (): void => {
      if (!isHeld) return;
      isHeld = false;
      const next = this.#queue.shift();
      if (next === undefined) this.#free++;
      else next();
    };
    const timer = setTimeout(pass, TURN_TIME);
    try {
      await work();
    } finally {
      clearTimeout(timer);
      pass();
    }
  }
}
