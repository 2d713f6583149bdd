/** Adam and SGD, in one native call for all parameters. */
import { ArgumentError } from "../errors.ts";
import { nativeOf } from "./device.ts";
import { ParameterList } from "./parameter_list.ts";
import type { Tensor } from "./tensor.ts";

/** Options of {@linkcode Adam}; defaults as in torch. */
export interface AdamOptions {
  /** Learning rate. Default: 1e-3. */
  lr?: number;
  /** Decay of the two moment estimates. Default: [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Added to the denominator. Default: 1e-8. */
  eps?: number;
  /** Weight decay. Default: 0. */
  weightDecay?: number;
  /** Decouple the weight decay from the gradient (AdamW). Default: false. */
  decoupled?: boolean;
}

/** Options of {@linkcode SGD}; defaults as in torch. */
export interface SGDOptions {
  /** Learning rate. Default: 1e-3. */
  lr?: number;
  /** Momentum. Default: 0. */
  momentum?: number;
  /** L2 weight decay. Default: 0. */
  weightDecay?: number;
  /** Nesterov's momentum. Default: false. */
  nesterov?: boolean;
}

/** The number of a step behind so many. Throws if that is none. */
function nextStep(steps: number): number {
  if (Number.isSafeInteger(steps) && steps >= 0) return steps + 1;
  throw new ArgumentError(`steps is ${steps}, expected an integer >= 0`);
}

/** Throws unless low <= value < high. */
function checkNumber(
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

/**
 * Adam (Kingma and Ba, arXiv:1412.6980), or AdamW (Loshchilov and Hutter,
 * arXiv:1711.05101) with `decoupled`; the arithmetic is torch.optim's. Its
 * state is float32 for half-precision parameters.
 *
 * @example
 * ```ts
 * import { Adam, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using weight = device.tensor(new Float32Array([1, -1]));
 * using grad = device.tensor(new Float32Array([0.5, 0]));
 * using adam = new Adam([weight], { lr: 0.1 });
 * adam.step([grad]);
 * console.log(await weight.toList()); // [ 0.9, -1 ] to rounding
 * ```
 */
export class Adam {
  /** Learning rate; may be set between steps (schedules). */
  lr: number;
  /** Steps taken so far. */
  steps = 0;
  readonly #parameters: ParameterList;
  readonly #options: Required<Omit<AdamOptions, "lr">>;

  /**
   * An optimiser of these parameters.
   *
   * @param params Tensors of a floating dtype on one device, updated in place.
   * @param options Hyperparameters.
   * @throws {ArgumentError} if a hyperparameter is out of range.
   */
  constructor(params: readonly Tensor[], options: AdamOptions = {}) {
    this.lr = checkNumber(options.lr ?? 1e-3, "lr", 0);
    this.#parameters = new ParameterList(params);
    const {
      betas = [0.9, 0.999],
      eps = 1e-8,
      weightDecay = 0,
      decoupled = false,
    } = options;
    checkNumber(betas[0], "betas[0]", 0, 1);
    checkNumber(betas[1], "betas[1]", 0, 1);
    checkNumber(eps, "eps", 0);
    checkNumber(weightDecay, "weightDecay", 0);
    this.#options = { betas, eps, weightDecay, decoupled };
    this.#parameters.addState();
    this.#parameters.addState();
  }

  /**
   * What it keeps between steps besides {@linkcode Adam.steps}, for
   * checkpoints: the means of the gradients, then those of their squares. To go
   * on from saved ones, `copy_` them here and set `steps`.
   */
  get state(): readonly Tensor[] {
    return this.#parameters.states;
  }

  /**
   * Updates every parameter, in place.
   *
   * @param grads One gradient per parameter, in their order, each with the
   * shape, dtype and device of its parameter.
   * @throws {ArgumentError} if there are not as many gradients as parameters.
   * @throws {ShapeError | DTypeError | DeviceError} if one does not fit.
   */
  step(grads: readonly Tensor[]): void {
    checkNumber(this.lr, "lr", 0);
    const step = nextStep(this.steps);
    const table = this.#parameters.table(grads);
    const { betas, eps, weightDecay, decoupled } = this.#options;
    const { device, size } = this.#parameters;
    const { library, handle } = nativeOf(device);
    library.check(
      library.symbols.al_adam_step(
        handle,
        size,
        table,
        BigInt(step),
        this.lr,
        betas[0],
        betas[1],
        eps,
        weightDecay,
        Number(decoupled),
        0,
      ),
    );
    this.steps = step;
  }

  /** Frees the optimiser's own state; the parameters stay. */
  [Symbol.dispose](): void {
    for (const state of this.state) state.dispose();
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}

/**
 * Stochastic gradient descent, with momentum if asked; the arithmetic is
 * torch.optim's.
 *
 * @example
 * ```ts
 * import { Device, SGD } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using weight = device.tensor(new Float32Array([1, -1]));
 * using grad = device.tensor(new Float32Array([0.5, 0]));
 * using sgd = new SGD([weight], { lr: 0.5 });
 * sgd.step([grad]);
 * console.log(await weight.toList()); // [ 0.75, -1 ]
 * ```
 */
export class SGD {
  /** Learning rate; may be set between steps (schedules). */
  lr: number;
  /** Steps taken so far. */
  steps = 0;
  readonly #parameters: ParameterList;
  readonly #options: Required<Omit<SGDOptions, "lr">>;

  /**
   * An optimiser of these parameters.
   *
   * @param params Tensors of a floating dtype on one device, updated in place.
   * @param options Hyperparameters.
   * @throws {ArgumentError} if a hyperparameter is out of range.
   */
  constructor(params: readonly Tensor[], options: SGDOptions = {}) {
    this.lr = checkNumber(options.lr ?? 1e-3, "lr", 0);
    this.#parameters = new ParameterList(params);
    const { momentum = 0, weightDecay = 0, nesterov = false } = options;
    checkNumber(momentum, "momentum", 0);
    checkNumber(weightDecay, "weightDecay", 0);
    if (nesterov && momentum === 0) {
      throw new ArgumentError("nesterov needs a momentum above 0");
    }
    this.#options = { momentum, weightDecay, nesterov };
    if (momentum !== 0) this.#parameters.addState();
  }

  /**
   * Updates every parameter, in place.
   *
   * @param grads One gradient per parameter, in their order, each with the
   * shape, dtype and device of its parameter.
   * @throws {ArgumentError} if there are not as many gradients as parameters.
   * @throws {ShapeError | DTypeError | DeviceError} if one does not fit.
   */
  step(grads: readonly Tensor[]): void {
    checkNumber(this.lr, "lr", 0);
    const step = nextStep(this.steps);
    const table = this.#parameters.table(grads);
    const { momentum, weightDecay, nesterov } = this.#options;
    const { device, size } = this.#parameters;
    const { library, handle } = nativeOf(device);
    library.check(
      library.symbols.al_sgd_step(
        handle,
        size,
        table,
        BigInt(step),
        this.lr,
        momentum,
        weightDecay,
        Number(nesterov),
      ),
    );
    this.steps = step;
  }

  /**
   * What it keeps between steps besides {@linkcode SGD.steps}, for checkpoints:
   * the momentum buffers. To go on from saved ones, `copy_` them here and set
   * `steps`.
   */
  get state(): readonly Tensor[] {
    return this.#parameters.states;
  }

  /** Frees the optimiser's own state; the parameters stay. */
  [Symbol.dispose](): void {
    for (const state of this.state) state.dispose();
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}
