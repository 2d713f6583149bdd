/** Adam, AdamW and AMSGrad. */
import { checkNumber, Optimizer, type OptimizerOptions } from "./optimizer.ts";
import type { Tensor } from "./tensor.ts";

/** Options of {@linkcode Adam}; defaults as in torch. */
export interface AdamOptions extends OptimizerOptions {
  /** Decay of the two moment estimates. Default: [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Added to the denominator. Default: 1e-8. */
  eps?: number;
  /** Weight decay. Default: 0. */
  weightDecay?: number;
  /** Decouple the weight decay from the gradient (AdamW). Default: false. */
  decoupled?: boolean;
  /** Divide by the largest second moment so far (AMSGrad). Default: false. */
  amsgrad?: boolean;
}

/**
 * Adam (Kingma and Ba, arXiv:1412.6980); AdamW (Loshchilov and Hutter,
 * arXiv:1711.05101) with `decoupled`; AMSGrad (Reddi, Kale and Kumar,
 * arXiv:1904.09237) with `amsgrad`. The arithmetic is torch.optim's. One launch
 * for all parameters, of any floating dtypes.
 *
 * Its {@linkcode Optimizer.state} is the means of the gradients, those of their
 * squares, with `amsgrad` the largest of these, and with `masterWeights` the
 * masters; float32 for half-precision parameters.
 *
 * @example
 * ```ts
 * import { Adam, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using weight = device.tensor(new Float32Array([1, -1]));
 * using grad = device.tensor(new Float32Array([0.5, 0]));
 * using adam = new Adam([weight], { lr: 0.1 });
 * adam.step([grad], { maxNorm: 10 });
 * console.log(await weight.toList()); // [ 0.9, -1 ] to rounding
 * console.log(await adam.gradNorm!.item()); // 0.5
 * ```
 */
export class Adam extends Optimizer {
  /**
   * An optimiser of these parameters.
   *
   * @param params Tensors of floating dtypes on one device, updated in place.
   * @param options Hyperparameters.
   * @throws {ArgumentError} if a hyperparameter is out of range, there are no
   * parameters, or two share memory.
   */
  constructor(params: readonly Tensor[], options: AdamOptions = {}) {
    const {
      betas = [0.9, 0.999],
      eps = 1e-8,
      weightDecay = 0,
      decoupled = false,
      amsgrad = false,
    } = options;
    checkNumber(betas[0], "betas[0]", 0, 1);
    checkNumber(betas[1], "betas[1]", 0, 1);
    checkNumber(eps, "eps", 0);
    checkNumber(weightDecay, "weightDecay", 0);
    const [beta1, beta2] = betas;
    super(
      params,
      options,
      amsgrad ? 3 : 2,
      ({ native, count, table, step, lr, clip }) =>
        native.library.symbols.al_adam_step(
          native.handle,
          count,
          table,
          step,
          lr,
          beta1,
          beta2,
          eps,
          weightDecay,
          Number(decoupled),
          Number(amsgrad),
          clip,
        ),
    );
  }
}
