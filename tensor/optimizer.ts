/** What optimisers have in common: a list of parameters, steps, and a state to go on from. */
import { ArgumentError } from "../errors.ts";
import type { NativeHandle } from "../ffi/native_handle.ts";
import { capturing, outsideCapture, refuseCapture } from "./capture.ts";
import { type ClipOptions, GradientClip } from "./clip_grad_norm.ts";
import { nativeOf } from "./device.ts";
import { ParameterList } from "./parameter_list.ts";
import { checkTraced, Tensor } from "./tensor.ts";

/** Options of every optimiser. */
export interface OptimizerOptions {
  /** Learning rate. Default: 1e-3. */
  lr?: number;
  /**
   * Keep a float32 copy of each half-precision parameter, which is stepped in its
   * place and rounded to it. Without, a step that is smaller than half the
   * distance to the next number is lost: of a bfloat16 weight of 1 all below 2e-3.
   * Default: false.
   */
  masterWeights?: boolean;
}

/** Options of one step. */
export interface StepOptions extends ClipOptions {
  /**
   * Clip the gradients to this norm first, as {@linkcode clipGradNorm} does, but
   * without writing them. Default: no clipping.
   */
  maxNorm?: number;
}

/** Throws unless low <= value < high. */
export function checkNumber(
  value: number,
  name: string,
  low: number,
  high = Infinity,
): number {
  if (!(value >= low && value < high)) {
    throw new ArgumentError(
      `${name} is ${value}, expected a number from ${low} ${
        high === Infinity ? "up" : `to below ${high}`
      }`,
    );
  }
  return value;
}

/** What a native step takes besides the hyperparameters of its optimiser. */
export interface NativeStep {
  readonly native: NativeHandle;
  readonly count: number;
  readonly table: BigUint64Array<ArrayBuffer>;
  /** Its number, from 1. */
  readonly step: bigint;
  readonly lr: number;
  readonly clip: Uint8Array<ArrayBuffer> | null;
}

/** Updates parameters by their gradients: the parent of Adam and SGD. */
export abstract class Optimizer {
  /** Learning rate; may be set between steps, and between replays (schedules). */
  lr: number;
  /** Steps taken so far. */
  steps = 0;
  readonly #parameters: ParameterList;
  readonly #enqueue: (step: NativeStep) => number;
  #clip: GradientClip | undefined;
  /** What a replay gives a recorded step. */
  readonly #numbers = {
    width: 2,
    next: (numbers: Float64Array, at: number): void => {
      this.#checkNumbers();
      numbers[at] = ++this.steps;
      numbers[at + 1] = this.lr;
    },
    undo: (): void => {
      this.steps--;
    },
  };

  /**
   * @ignore
   * @param params Tensors of floating dtypes on one device, updated in place.
   * @param states How many states are kept of each.
   * @param enqueue Enqueues a step; returns the status.
   */
  protected constructor(
    params: readonly Tensor[],
    { lr = 1e-3, masterWeights = false }: OptimizerOptions,
    states: number,
    enqueue: (step: NativeStep) => number,
  ) {
    refuseCapture("new Adam() or SGD()", "make the optimiser before");
    this.#enqueue = enqueue;
    this.lr = checkNumber(lr, "lr", 0);
    this.#parameters = new ParameterList(params);
    for (let i = 0; i < states; i++) this.#parameters.addState();
    if (masterWeights) this.#parameters.addMasters();
  }

  #checkNumbers(): void {
    checkNumber(this.lr, "lr", 0);
    if (!(Number.isSafeInteger(this.steps) && this.steps >= 0)) {
      throw new ArgumentError(
        `steps is ${this.steps}, expected an integer >= 0`,
      );
    }
  }

  /**
   * The norm of all gradients of the last step that had `maxNorm`, before
   * clipping: a float64 scalar, which the next such step writes again. undefined
   * before the first.
   */
  get gradNorm(): Tensor | undefined {
    return this.#clip?.norm;
  }

  /**
   * What it keeps between steps besides {@linkcode Optimizer.steps}, for
   * checkpoints: a list of tensors, always in the same order. To go on from saved
   * ones, `copy_` them here, set `steps`, and `copy_` the parameters.
   */
  get state(): readonly Tensor[] {
    return this.#parameters.states;
  }

  /**
   * Updates every parameter, in place: all of them, or, if it throws, none. A
   * parameter that was written to since the last step (`copy_`, a broadcast) is
   * stepped from what it is, also if it has a master weight.
   *
   * @param grads One gradient per parameter, in their order, each with the
   * shape, dtype and device of its parameter.
   * @param options `maxNorm` clips the gradients on the way. With
   * `errorIfNonfinite` a step whose norm is not finite changes nothing, but counts
   * in {@linkcode Optimizer.steps}, and reading {@linkcode Optimizer.gradNorm}
   * throws.
   * @throws {ArgumentError} if there are not as many gradients as parameters, or a
   * number is out of range.
   * @throws {ShapeError | DTypeError | DeviceError | DisposedError} if one does not fit.
   */
  step(grads: readonly Tensor[], options: StepOptions = {}): void {
    this.#checkNumbers();
    const parameters = this.#parameters;
    const table = parameters.tableWith(grads);
    const native = nativeOf(parameters.device);
    let clip: Uint8Array<ArrayBuffer> | null = null;
    if (options.maxNorm !== undefined) {
      this.#clip ??= new GradientClip(
        outsideCapture(() => Tensor.empty(parameters.device, [], "float64")),
      );
      clip = this.#clip
        .measure(parameters, grads, table, options.maxNorm, options);
    }
    checkTraced(
      parameters.device,
      this.#enqueue({
        native,
        count: parameters.count,
        table,
        step: BigInt(this.steps + 1),
        lr: this.lr,
        clip,
      }),
      () => {
        const { tensors } = parameters;
        const norm = clip && this.gradNorm;
        return { reads: [...tensors, ...grads, norm], writes: tensors };
      },
    );
    if (capturing === undefined) this.steps++;
    else capturing.varying.push(this.#numbers);
  }

  /** Frees the optimiser's own state; the parameters stay. */
  [Symbol.dispose](): void {
    this.#parameters.dispose();
    this.#clip?.norm.dispose();
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}
