/**
 * The last state of a training that is known to be good, for when a replica is
 * lost. On a GPU the steps run ahead of the host: when it is told that a
 * collective has failed, parameters may have been stepped with its result, and
 * cannot be read any more. A copy made before can.
 *
 * @module
 */

import type { Training } from "./checkpoint.ts";

/** A copy of what a training changes, on its device. */
export class GoodState {
  readonly #training: Training;
  #copy: (Training & Disposable) | undefined;

  constructor(training: Training) {
    this.#training = training;
  }

  /** What was kept last. */
  get kept(): Training | undefined {
    return this.#copy;
  }

  /**
   * Keeps the state that the training has now. Enqueued; to be called when the
   * device has done all steps so far, because something of the next was read.
   */
  keep(): void {
    const { parameters, adam, losses } = this.#training;
    using made = new DisposableStack();
    const copies = [parameters, ...adam.state].map((tensor) => {
      const { device, shape, dtype } = tensor;
      return made.use(device.empty(shape, dtype)).copy_(tensor);
    });
    const owned = made.move();
    this[Symbol.dispose]();
    this.#copy = {
      ...this.#training,
      parameters: copies[0]!,
      adam: { steps: adam.steps, state: copies.slice(1) },
      losses: [...losses],
      [Symbol.dispose]: () => owned.dispose(),
    };
  }

  /** Gives the memory of the copy back. */
  [Symbol.dispose](): void {
    this.#copy?.[Symbol.dispose]();
  }
}
