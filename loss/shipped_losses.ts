/** The losses of this package that are one line of C++: definitions to use by name, or with other parameters. */
import type { ElementDefinition } from "./define_loss.ts";

/**
 * Huber loss: d²/2 up to an error of `delta`, linear with the same slope
 * beyond. Unit: the square of that of the predictions. Source: Huber 1964,
 * doi:10.1214/aoms/1177703732; as torch.nn.HuberLoss, whose default delta = 1
 * the loss named `"huber"` has.
 *
 * @example
 * ```ts
 * import { DDPLoss, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * const loss = new DDPLoss("huber", "mean", { parameters: { delta: 0.5 } });
 * using input = device.tensor(new Float32Array([0.2, 2]));
 * using target = device.zeros([2]);
 * using result = loss.valueAndGrad(input, target);
 * console.log(await result.grad.toList()); // [ 0.1, 0.25 ] to rounding
 * ```
 */
export const huber: ElementDefinition = {
  value: "abs(d) < delta ? T(0.5) * d * d : delta * (abs(d) - T(0.5) * delta)",
  // In this order of arguments NaN stays NaN, as in torch.
  grad: "max(min(d, delta), -delta)",
  parameters: { delta: 1 },
  domains: { delta: "> 0" },
};

/**
 * Smooth L1 loss: d²/(2 beta) up to an error of `beta`, |d| − beta/2 beyond.
 * Unit: that of the predictions. Source: Girshick 2015, arXiv:1504.08083; as
 * torch.nn.SmoothL1Loss, whose default beta = 1 the loss named `"smooth_l1"`
 * has.
 */
export const smoothL1: ElementDefinition = {
  value: "abs(d) < beta ? T(0.5) * d * d / beta : abs(d) - T(0.5) * beta",
  // 0 where d is, also where beta is: then it is the absolute error.
  grad: "d == T(0) ? T(0) : max(min(d / beta, T(1)), T(-1))",
  parameters: { beta: 1 },
  domains: { beta: ">= 0" },
};

/**
 * Logarithm of the hyperbolic cosine of the error: d²/2 near 0, |d| − log 2 far
 * from it, smooth everywhere. Source:
 * Green 1990, doi:10.1109/42.52985 (log cosh potential).
 */
export const logCosh: ElementDefinition = {
  // Near 0 without the cancellation of the form that does not overflow.
  value: "abs(d) < T(1) ? log1p(T(2) * sinh(d / T(2)) * sinh(d / T(2)))" +
    " : abs(d) + log1p(exp(T(-2) * abs(d))) - T(0.6931471805599453)",
  grad: "tanh(d)",
};
