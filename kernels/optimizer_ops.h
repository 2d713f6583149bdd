/**
 * What optimisers do to one element of a parameter, for host and device. The
 * arithmetic, and its order, is that of torch.optim. T is the compute type of
 * loss_ops.h; the numbers of a rule are prepared by the host, once per step.
 *
 * A rule has
 *   kStates        how many states it reads and writes
 *   kUsesGrad      whether it reads the gradient
 *   kWritesParam   whether it writes the parameter
 *   update(e)      the step of one element
 */
#ifndef ATOMLOSS_OPTIMIZER_OPS_H
#define ATOMLOSS_OPTIMIZER_OPS_H

#include <cmath>

#include "loss_ops.h"

namespace atomloss {

/** An element of a parameter, of its gradient, and of its states. */
template <class T>
struct Element {
  T param;
  T grad;
  T states[AL_MAX_STATES];
};

/**
 * Adam (Kingma and Ba, 2015), and AdamW (Loshchilov and Hutter, 2019) where
 * decay is decoupled; with kAMSGrad the largest second moment so far counts
 * (Reddi, Kale and Kumar, 2018).
 */
template <bool kAMSGrad>
struct Adam {
  static constexpr int kStates = kAMSGrad ? 3 : 2;
  static constexpr bool kUsesGrad = true;
  static constexpr bool kWritesParam = true;

  double beta2, eps, l2;
  double rest1, rest2;     /* 1 - beta */
  double keep;             /* 1 - lr * weight_decay if decoupled, otherwise 1 */
  double step_size;        /* lr / (1 - beta1^step) */
  double correction2_sqrt; /* sqrt(1 - beta2^step) */

  Adam(int64_t step, double lr, double beta1, double beta2_, double eps_,
       double weight_decay, bool decoupled)
      : beta2(beta2_),
        eps(eps_),
        l2(decoupled ? 0 : weight_decay),
        rest1(1 - beta1),
        rest2(1 - beta2_),
        keep(decoupled ? 1 - lr * weight_decay : 1),
        step_size(lr / (1 - std::pow(beta1, static_cast<double>(step)))),
        correction2_sqrt(
            std::sqrt(1 - std::pow(beta2_, static_cast<double>(step)))) {}

  template <class T>
  AL_HD void update(Element<T>& e) const {
    const T kept = e.param * T(keep);
    const T g = e.grad + T(l2) * kept;
    const T exp_avg = e.states[0] + (g - e.states[0]) * T(rest1);
    T square = T(beta2) * e.states[1] + T(rest2) * g * g;
    e.states[0] = exp_avg;
    e.states[1] = square;
    if constexpr (kAMSGrad) {
      // Written so that a NaN stays one, as in torch.maximum.
      const T largest = e.states[2];
      square = largest > square || largest != largest ? largest : square;
      e.states[2] = square;
    }
    const T denominator = std::sqrt(square) / T(correction2_sqrt) + T(eps);
    e.param = kept - T(step_size) * exp_avg / denominator;
  }
};

/** Stochastic gradient descent; with momentum, optionally Nesterov's. */
template <bool kMomentum>
struct SGD {
  static constexpr int kStates = kMomentum ? 1 : 0;
  static constexpr bool kUsesGrad = true;
  static constexpr bool kWritesParam = true;

  double lr, momentum, l2;
  bool first; /* the momentum buffer starts as the first gradient */
  bool nesterov;

  template <class T>
  AL_HD void update(Element<T>& e) const {
    const T g = e.grad + T(l2) * e.param;
    T slope = g;
    if constexpr (kMomentum) {
      T& buffer = e.states[0];
      buffer = first ? g : T(momentum) * buffer + g;
      slope = nesterov ? g + T(momentum) * buffer : buffer;
    }
    e.param -= T(lr) * slope;
  }
};

}  // namespace atomloss

#endif /* ATOMLOSS_OPTIMIZER_OPS_H */
