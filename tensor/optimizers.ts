/** Adam and SGD, in one native call per dtype for all parameters. */
import { ArgumentError, DTypeError } from "../errors.ts";
import { nativeOf } from "./device.ts";
import { type DType, dtypeCode, isFloating } from "./dtype.ts";
import { checkDevice, checkLike, checkTensor, Tensor } from "./tensor.ts";

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

/** Addresses of tensors, as the C ABI takes a list of them. */
function pointers(tensors: readonly Tensor[]): BigUint64Array<ArrayBuffer> {
  return BigUint64Array.from(
    tensors,
    (tensor) => Deno.UnsafePointer.value(tensor.pointer),
  );
}

/** Parameters of one dtype: what one native call updates. */
class ParameterGroup {
  readonly params: Tensor[] = [];
  /** Where in the optimiser's list each parameter is. */
  readonly indices: number[] = [];
  readonly dtype: DType;

  constructor(dtype: DType) {
    this.dtype = dtype;
  }

  /** One state tensor per parameter, zeros; float32 for half precision. */
  states(): Tensor[] {
    const dtype = this.dtype === "float64" ? "float64" : "float32";
    return this.params.map((p) => Tensor.zeros(p.device, p.shape, dtype));
  }

  get sizes(): BigInt64Array<ArrayBuffer> {
    return BigInt64Array.from(this.params, (p) => BigInt(p.size));
  }
}

/** An optimiser's parameters, checked and grouped by dtype. */
class ParameterList {
  readonly groups: readonly ParameterGroup[];
  readonly #params: readonly Tensor[];

  constructor(params: readonly Tensor[]) {
    const groups = new Map<DType, ParameterGroup>();
    params.forEach((param, i) => {
      checkTensor(param, `parameter ${i}`);
      checkDevice(params[0]!, param, `parameter ${i}`);
      if (!isFloating(param.dtype)) {
        throw new DTypeError(
          `parameter ${i} has dtype ${param.dtype}, expected a floating dtype`,
        );
      }
      let group = groups.get(param.dtype);
      if (group === undefined) {
        group = new ParameterGroup(param.dtype);
        groups.set(param.dtype, group);
      }
      group.params.push(param);
      group.indices.push(i);
    });
    this.#params = [...params];
    this.groups = [...groups.values()];
  }

  /** Addresses of the gradients, checked, for each group. */
  gradients(grads: readonly Tensor[]): BigUint64Array<ArrayBuffer>[] {
    if (grads.length !== this.#params.length) {
      throw new ArgumentError(
        `step needs ${this.#params.length} gradients, one per parameter, and got ${grads.length}`,
      );
    }
    this.#params.forEach((param, i) => {
      param.pointer; // throws if it was disposed, before anything is changed
      checkLike(param, grads[i]!, `gradient ${i}`);
    });
    return this.groups.map((group) =>
      pointers(group.indices.map((i) => grads[i]!))
    );
  }
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
  readonly #expAvgs: Tensor[][];
  readonly #expAvgSqs: Tensor[][];

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
    this.#expAvgs = this.#parameters.groups.map((group) => group.states());
    this.#expAvgSqs = this.#parameters.groups.map((group) => group.states());
  }

  /**
   * What it keeps between steps besides {@linkcode Adam.steps}, for
   * checkpoints: the means of the gradients, then those of their squares. To go
   * on from saved ones, `copy_` them here and set `steps`.
   */
  get state(): readonly Tensor[] {
    return [...this.#expAvgs, ...this.#expAvgSqs].flat();
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
    const gradients = this.#parameters.gradients(grads);
    checkNumber(this.lr, "lr", 0);
    this.steps++;
    this.#parameters.groups.forEach((group, index) =>
      this.#update(group, index, gradients[index]!)
    );
  }

  #update(
    group: ParameterGroup,
    index: number,
    grads: BigUint64Array<ArrayBuffer>,
  ): void {
    const { library, handle } = nativeOf(group.params[0]!.device);
    const { betas, eps, weightDecay, decoupled } = this.#options;
    library.check(
      library.symbols.al_adam_step(
        handle,
        dtypeCode(group.dtype),
        group.params.length,
        pointers(group.params),
        grads,
        pointers(this.#expAvgs[index]!),
        pointers(this.#expAvgSqs[index]!),
        group.sizes,
        BigInt(this.steps),
        this.lr,
        betas[0],
        betas[1],
        eps,
        weightDecay,
        Number(decoupled),
      ),
    );
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
  readonly #momentumBuffers: Tensor[][];

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
    this.#momentumBuffers = momentum === 0
      ? []
      : this.#parameters.groups.map((group) => group.states());
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
    const gradients = this.#parameters.gradients(grads);
    checkNumber(this.lr, "lr", 0);
    this.steps++;
    this.#parameters.groups.forEach((group, index) =>
      this.#update(group, index, gradients[index]!)
    );
  }

  #update(
    group: ParameterGroup,
    index: number,
    grads: BigUint64Array<ArrayBuffer>,
  ): void {
    const { library, handle } = nativeOf(group.params[0]!.device);
    const { momentum, weightDecay, nesterov } = this.#options;
    const buffers = this.#momentumBuffers[index];
    library.check(
      library.symbols.al_sgd_step(
        handle,
        dtypeCode(group.dtype),
        group.params.length,
        pointers(group.params),
        grads,
        buffers === undefined ? null : pointers(buffers),
        group.sizes,
        BigInt(this.steps),
        this.lr,
        momentum,
        weightDecay,
        Number(nesterov),
      ),
    );
  }

  /**
   * What it keeps between steps besides {@linkcode SGD.steps}, for checkpoints:
   * the momentum buffers. To go on from saved ones, `copy_` them here and set
   * `steps`.
   */
  get state(): readonly Tensor[] {
    return this.#momentumBuffers.flat();
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
