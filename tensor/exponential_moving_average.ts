/** Exponential moving averages of parameters, to evaluate with. */
import { ArgumentError } from "../errors.ts";
import { capturing, refuseCapture } from "./capture.ts";
import { nativeOf } from "./device.ts";
import { checkNumber } from "./optimizer.ts";
import { ParameterList } from "./parameter_list.ts";
import { checkTraced, type Tensor } from "./tensor.ts";

/** Options of {@linkcode ExponentialMovingAverage}. */
export interface ExponentialMovingAverageOptions {
  /** How much of the average an update keeps. Default: 0.999. */
  decay?: number;
  /**
   * Begin with less: update n keeps min(decay, (1 + n) / (10 + n)), as the package
   * torch_ema does, by which MACE averages (with a decay of 0.99). Default: false:
   * as torch's AveragedModel, whose first update takes the parameters as they are.
   */
  useNumUpdates?: boolean;
}

/**
 * The exponential moving average of parameters, which generalises better than
 * their last values: `average = decay * average + (1 - decay) * parameter` with
 * every update. That of torch.optim.swa_utils.AveragedModel with
 * get_ema_multi_avg_fn, or of torch_ema with `useNumUpdates`; averages of
 * half-precision parameters are float32, in which they move. One launch for all
 * parameters.
 *
 * Sources: https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema,
 * https://github.com/fadel/pytorch_ema
 *
 * @example
 * ```ts
 * import { Device, ExponentialMovingAverage } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using weight = device.tensor(new Float64Array([0]));
 * using ema = new ExponentialMovingAverage([weight], { decay: 0.75 });
 * for (const x of [1, 2]) { // as an optimiser's steps may leave it
 *   weight.copy_(new Float64Array([x]));
 *   ema.update();
 * }
 * {
 *   using _averages = ema.averageParameters();
 *   console.log(await weight.toList()); // [ 1.25 ]: evaluate here
 * }
 * console.log(await weight.toList()); // [ 2 ]: and train on
 * ```
 */
export class ExponentialMovingAverage {
  /** Updates so far. */
  numUpdates = 0;
  /** How much of the average an update keeps. */
  readonly decay: number;
  readonly #useNumUpdates: boolean;
  readonly #parameters: ParameterList;
  readonly #averages: readonly Tensor[];
  #isSwapped = false;
  /** What a replay gives a recorded update. */
  readonly #numbers = {
    width: 1,
    next: (numbers: Float64Array, at: number): void => {
      numbers[at] = this.#nextWeight();
      this.numUpdates++;
    },
    undo: (): void => {
      this.numUpdates--;
    },
  };

  /**
   * Begins with the parameters as they are.
   *
   * @param params Tensors of floating dtypes on one device.
   * @throws {ArgumentError} if decay is not from 0 to below 1, there are no
   * parameters, or two share memory.
   */
  constructor(
    params: readonly Tensor[],
    { decay = 0.999, useNumUpdates = false }: ExponentialMovingAverageOptions =
      {},
  ) {
    refuseCapture("new ExponentialMovingAverage()", "make it before");
    this.decay = checkNumber(decay, "decay", 0, 1);
    this.#useNumUpdates = useNumUpdates;
    this.#parameters = new ParameterList(params);
    this.#averages = this.#parameters.addState();
    this.#average(1);
  }

  /**
   * What it keeps besides {@linkcode ExponentialMovingAverage.numUpdates}, for
   * checkpoints: the averages, in the order of the parameters, float32 for
   * half-precision ones. To go on from saved ones, `copy_` them here and set
   * `numUpdates`.
   */
  get state(): readonly Tensor[] {
    return this.#averages;
  }

  /**
   * Takes the parameters into the averages: to be called behind each step.
   *
   * @throws {ArgumentError} if the averages are in the place of the parameters.
   * @throws {DisposedError} if a parameter was disposed.
   */
  update(): void {
    this.#average(this.#nextWeight());
    if (capturing === undefined) this.numUpdates++;
    else capturing.varying.push(this.#numbers);
  }

  /** How much of the parameters the next update takes. */
  #nextWeight(): number {
    this.#checkNotSwapped();
    const n = this.numUpdates;
    if (!(Number.isSafeInteger(n) && n >= 0)) {
      throw new ArgumentError(`numUpdates is ${n}, expected an integer >= 0`);
    }
    const least = this.#useNumUpdates ? (2 + n) / (11 + n) : n === 0 ? 0 : 1;
    return 1 - Math.min(this.decay, least);
  }

  #average(weight: number): void {
    const { library, handle } = nativeOf(this.#parameters.device);
    this.#check(
      library.symbols.al_average_update(
        handle,
        this.#parameters.count,
        this.#parameters.table(),
        weight,
      ),
    );
  }

  /**
   * Puts the averages into the parameters' memory, until what it returns is
   * disposed: then the parameters are back, to the bit, whatever was written to
   * them meanwhile.
   *
   * @throws {ArgumentError} if they are there already.
   * @throws {DisposedError} if a parameter was disposed.
   * @throws {OutOfMemoryError} if there is no room for a copy of the parameters.
   */
  averageParameters(): Disposable {
    refuseCapture("averageParameters()", "call it between replays");
    this.#checkNotSwapped();
    this.#parameters.addState();
    try {
      this.#swap(true);
    } catch (error) {
      this.#parameters.dropState();
      throw error;
    }
    this.#isSwapped = true;
    let isOver = false;
    return {
      [Symbol.dispose]: (): void => {
        if (isOver) return;
        isOver = true;
        this.#restore();
      },
    };
  }

  #restore(): void {
    if (!this.#isSwapped) return;
    this.#isSwapped = false;
    try {
      this.#swap(false);
    } finally {
      this.#parameters.dropState();
    }
  }

  #swap(isIn: boolean): void {
    const { library, handle } = nativeOf(this.#parameters.device);
    this.#check(
      library.symbols.al_average_swap(
        handle,
        this.#parameters.count,
        this.#parameters.table(),
        Number(isIn),
      ),
    );
  }

  #check(status: number): void {
    checkTraced(this.#parameters.device, status, () => {
      const { tensors } = this.#parameters;
      return { reads: tensors, writes: tensors };
    });
  }

  #checkNotSwapped(): void {
    if (!this.#isSwapped) return;
    throw new ArgumentError(
      "the averages are in the place of the parameters: dispose what averageParameters() returned first",
    );
  }

  /** Frees the averages; the parameters stay, and are put back if need be. */
  [Symbol.dispose](): void {
    this.#restore();
    this.#parameters.dispose();
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}
