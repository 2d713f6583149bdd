/**
 * One element of an optimiser's step, for host and device. The arithmetic, and
 * its order, is that of torch.optim. T is the compute type of loss_ops.h.
 */
#ifndef ATOMLOSS_OPTIMIZER_OPS_H
#define ATOMLOSS_OPTIMIZER_OPS_H

#include <cmath>

#include "loss_ops.h"

namespace atomloss {

/**
 * Adam (Kingma and Ba, 2015), and AdamW (Loshchilov and Hutter, 2019) where
 * decay is decoupled. The host prepares the numbers once per step.
 */
template <class T>
struct Adam {
  T beta2, eps, l2;
  T rest1, rest2;     /* 1 - beta, subtracted in double as torch does */
  T keep;             /* 1 - lr * weight_decay if decoupled, otherwise 1 */
  T step_size;        /* lr / (1 - beta1^step) */
  T correction2_sqrt; /* sqrt(1 - beta2^step) */

  static Adam prepare(int64_t step, double lr, double beta1, double beta2,
                      double eps, double weight_decay, bool decoupled) {
    const double correction1 = 1 - std::pow(beta1, static_cast<double>(step));
    const double correction2 = 1 - std::pow(beta2, static_cast<double>(step));
    return {T(beta2),
            T(eps),
            T(decoupled ? 0 : weight_decay),
            T(1 - beta1),
            T(1 - beta2),
            T(decoupled ? 1 - lr * weight_decay : 1),
            T(lr / correction1),
            T(std::sqrt(correction2))};
  }

  AL_HD void update(T& param, T grad, T& exp_avg, T& exp_avg_sq) const {
    const T kept = param * keep;
    const T g = grad + l2 * kept;
    exp_avg += (g - exp_avg) * rest1;
    exp_avg_sq = beta2 * exp_avg_sq + rest2 * g * g;
    const T denominator = std::sqrt(exp_avg_sq) / correction2_sqrt + eps;
    param = kept - step_size * exp_avg / denominator;
  }
};

/** Stochastic gradient descent with momentum, optionally Nesterov's. */
template <class T>
struct SGD {
  T lr, momentum, l2;
  bool first; /* the momentum buffer starts as the first gradient */
  bool nesterov;

  AL_HD void update(T& param, T grad) const {
    param -= lr * (grad + l2 * param);
  }

  AL_HD void update(T& param, T grad, T& buffer) const {
    const T g = grad + l2 * param;
    buffer = first ? g : momentum * buffer + g;
    param -= lr * (nesterov ? g + momentum * buffer : buffer);
  }
};

}  // namespace atomloss

#endif /* ATOMLOSS_OPTIMIZER_OPS_H */
