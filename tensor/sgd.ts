/** Stochastic gradient descent. */
import { ArgumentError } from "../errors.ts";
import { checkNumber, Optimizer, type OptimizerOptions } from "./optimizer.ts";
import type { Tensor } from "./tensor.ts";

/** Options of {@linkcode SGD}; defaults as in torch. */
export interface SGDOptions extends OptimizerOptions {
  /** Momentum. Default: 0. */
  momentum?: number;
  /** L2 weight decay. Default: 0. */
  weightDecay?: number;
  /** Nesterov's momentum. Default: false. */
  nesterov?: boolean;
}

/**
 * Stochastic gradient descent, with momentum if asked; the arithmetic is
 * torch.optim's. One launch for all parameters, of any floating dtypes.
 *
 * Its {@linkcode Optimizer.state} is the momentum buffers, if there is momentum,
 * and with `masterWeights` the masters; float32 for half-precision parameters.
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
export class SGD extends Optimizer {
  /**
   * An optimiser of these parameters.
   *
   * @param params Tensors of floating dtypes on one device, updated in place.
   * @param options Hyperparameters.
   * @throws {ArgumentError} if a hyperparameter is out of range, there are no
   * parameters, or two share memory.
   */
  constructor(params: readonly Tensor[], options: SGDOptions = {}) {
    const { momentum = 0, weightDecay = 0, nesterov = false } = options;
    checkNumber(momentum, "momentum", 0);
    checkNumber(weightDecay, "weightDecay", 0);
    if (nesterov && momentum === 0) {
      throw new ArgumentError("nesterov needs a momentum above 0");
    }
    super(
      params,
      options,
      momentum === 0 ? 0 : 1,
      ({ native, count, table, step, lr, clip }) =>
        native.library.symbols.al_sgd_step(
          native.handle,
          count,
          table,
          step,
          lr,
          momentum,
          weightDecay,
          Number(nesterov),
          clip,
        ),
    );
  }
}
