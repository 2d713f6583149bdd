/** What the tensors of a device hold, so that a program that forgets to dispose is told in time. */

/** From so many bytes on it is looked whether they are much. */
const FIRST_LOOK = 2 ** 26;

/** By how much they have to grow until the next look. */
const GROWTH = 1.25;

function formatBytes(bytes: number): string {
  const [unit, size] = bytes < 2 ** 30
    ? ["MB", 2 ** 20] as const
    : ["GB", 2 ** 30] as const;
  return `${(bytes / size).toFixed(1)} ${unit}`;
}

/**
 * Tensors that are neither disposed nor collected as garbage. Finalizers run
 * between two tasks of the event loop, and the collector does not see what is
 * behind a tensor: a loop that never disposes would grow until it is killed.
 */
export class HeldMemory {
  readonly #device: string;
  #tensors = 0;
  #bytes = 0;
  #nextLook = FIRST_LOOK;

  /** @param device Its name, for messages. */
  constructor(device: string) {
    this.#device = device;
  }

  /**
   * Accounts for a new tensor's block, and warns, once, where all of them hold
   * more than is left.
   *
   * @param free What the device has left, in bytes; asked seldom.
   */
  add(bytes: number, free: () => number): void {
    this.#tensors++;
    this.#bytes += bytes;
    if (this.#bytes < this.#nextLook) return;
    const left = free();
    if (this.#bytes <= left) {
      this.#nextLook = this.#bytes * GROWTH;
      return;
    }
    this.#nextLook = Infinity;
    console.warn(
      `atomloss: ${this}, and ${formatBytes(left)} are left. ${DISPOSE}`,
    );
  }

  /** A block was given back. */
  remove(bytes: number): void {
    this.#tensors--;
    this.#bytes -= bytes;
  }

  /** What to do where there is no memory left. */
  get advice(): string {
    return `${this}. ${DISPOSE}`;
  }

  /** `12 tensors hold 3.2 GB of cpu`. */
  toString(): string {
    return `${this.#tensors} tensors hold ${
      formatBytes(this.#bytes)
    } of ${this.#device}`;
  }
}

const DISPOSE =
  "If they are not all needed, declare them with `using` instead " +
  "of `const`, or dispose() them: garbage is collected late, and in a loop " +
  "without await never";
