/**
 * What optimisers do to one element of a parameter, and the norm of all
 * gradients, for host and device. The arithmetic, and its order, is that of
 * torch. T is the compute type of loss_ops.h; the numbers of a rule are
 * prepared by the host, once per step.
 *
 * A rule has
 *   kStates        how many states it reads and writes
 *   kUsesGrad      whether it reads the gradient
 *   kWritesParam   whether it writes the parameter
 *   update(e)      the step of one element
 */
#ifndef ATOMLOSS_OPTIMIZER_OPS_H
#define ATOMLOSS_OPTIMIZER_OPS_H

#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#include "loss_ops.h"

namespace atomloss {

/** An element of a parameter, of its gradient, and of its states. */
template <class T>
struct Element {
  T param;
  T grad;
  T states[AL_MAX_STATES];
};

/** Of a step of Adam. */
struct AdamNumbers {
  double beta2, eps, l2;
  double rest1, rest2;     /* 1 - beta */
  double keep;             /* 1 - lr * weight_decay if decoupled, otherwise 1 */
  double step_size;        /* lr / (1 - beta1^step) */
  double correction2_sqrt; /* sqrt(1 - beta2^step) */

  AdamNumbers(int64_t step, double lr, double beta1, double beta2_, double eps_,
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

  AdamNumbers n;

  template <class T>
  AL_HD void update(Element<T>& e) const {
    const T kept = e.param * T(n.keep);
    const T g = e.grad + T(n.l2) * kept;
    const T exp_avg = e.states[0] + (g - e.states[0]) * T(n.rest1);
    T square = T(n.beta2) * e.states[1] + T(n.rest2) * g * g;
    e.states[0] = exp_avg;
    e.states[1] = square;
    if constexpr (kAMSGrad) {
      // A NaN in either stays one, as in torch.maximum.
      const T largest = e.states[2];
      // NOLINTNEXTLINE(misc-redundant-expression): only a NaN is not itself
      square = largest > square || largest != largest ? largest : square;
      e.states[2] = square;
    }
    const T denominator = std::sqrt(square) / T(n.correction2_sqrt) + T(n.eps);
    e.param = kept - T(n.step_size) * exp_avg / denominator;
  }
};

/** Of a step of SGD. */
struct SGDNumbers {
  double lr, momentum, l2;
  bool first; /* the momentum buffer starts as the first gradient */
  bool nesterov;
};

/** Stochastic gradient descent; with momentum, optionally Nesterov's. */
template <bool kMomentum>
struct SGD {
  static constexpr int kStates = kMomentum ? 1 : 0;
  static constexpr bool kUsesGrad = true;
  static constexpr bool kWritesParam = true;

  SGDNumbers n;

  template <class T>
  AL_HD void update(Element<T>& e) const {
    const T g = e.grad + T(n.l2) * e.param;
    T slope = g;
    if constexpr (kMomentum) {
      const T buffer = n.first ? g : T(n.momentum) * e.states[0] + g;
      e.states[0] = buffer;
      slope = n.nesterov ? g + T(n.momentum) * buffer : buffer;
    }
    e.param -= T(n.lr) * slope;
  }
};

/** Gradients that are clipped in their own memory: see gradients(). */
struct ClipInPlace {
  static constexpr int kStates = 0;
  static constexpr bool kUsesGrad = true;
  static constexpr bool kWritesParam = true;

  template <class T>
  AL_HD void update(Element<T>& e) const {
    e.param = e.grad;
  }
};

/** An exponential moving average, as torch.lerp computes it. */
struct Average {
  static constexpr int kStates = 1;
  static constexpr bool kUsesGrad = false;
  static constexpr bool kWritesParam = false;

  double weight; /* of the parameter: 1 - decay */

  template <class T>
  AL_HD void update(Element<T>& e) const {
    const T average = e.states[0];
    const T difference = e.param - average;
    // From the nearer end: with weight 1 it is the parameter to the bit.
    e.states[0] = weight < 0.5 ? average + T(weight) * difference
                               : e.param - T(1 - weight) * difference;
  }
};

/** The average in the place of the parameter, which goes to the other state. */
struct SwapIn {
  static constexpr int kStates = 2;
  static constexpr bool kUsesGrad = false;
  static constexpr bool kWritesParam = true;

  template <class T>
  AL_HD void update(Element<T>& e) const {
    e.states[1] = e.param;
    e.param = e.states[0];
  }
};

/** The parameter as it was before SwapIn. */
struct SwapOut {
  static constexpr int kStates = 2;
  static constexpr bool kUsesGrad = false;
  static constexpr bool kWritesParam = true;

  template <class T>
  AL_HD void update(Element<T>& e) const {
    e.param = e.states[1];
  }
};

/* ---- norm of the gradients -----------------------------------------------*/

/** (sum |x|^p)^(1/p), of p = infinity the largest |x|, in double. */
struct Norm {
  double p;

  /** A sum with one more element. */
  AL_HD double add(double sum, double x) const {
    const double size = std::fabs(x);
    if (p == 2) return sum + x * x;
    if (p == 1) return sum + size;
    return p == INFINITY ? join(sum, size) : sum + std::pow(size, p);
  }
  /** Of two sums. */
  AL_HD double join(double a, double b) const {
    if (p != INFINITY) return a + b;
    return a > b || a != a ? a : b;  // a NaN stays
  }
  AL_HD double root(double sum) const {
    if (p == 2) return std::sqrt(sum);
    return p == 1 || p == INFINITY ? sum : std::pow(sum, 1 / p);
  }
  AL_HD static al_loss_result result(double norm) {
    return {norm, norm <= DBL_MAX ? 0 : 1, 0, 0, 0, 0};
  }
};

/** What gradients are multiplied by; that of torch.nn.utils.clip_grad_norm_. */
struct Clip {
  const al_loss_result* norm; /* NULL: 1 */
  double max_norm;
  bool skip_nonfinite;

  /** Whether there is no step to be made. */
  AL_HD bool skips() const {
    return norm && skip_nonfinite && norm->inputs != 0;
  }
  AL_HD double factor() const {
    if (!norm) return 1;
    const double factor = max_norm / (norm->value + 1e-6);
    return factor > 1 ? 1 : factor;  // a NaN stays
  }
};

/** Of the ABI's; NULL: none. */
inline Clip clip_of(const al_clip* clip) {
  if (!clip) return {nullptr, 0, false};
  return {clip->norm, clip->max_norm, clip->skip_nonfinite != 0};
}

/** The gradients in the place of the parameters, to be changed themselves. */
inline std::vector<al_parameter> gradients(int32_t count,
                                           const al_parameter* parameters) {
  std::vector<al_parameter> grads(static_cast<size_t>(count < 0 ? 0 : count));
  for (size_t i = 0; i < grads.size(); ++i) {
    grads[i].param = grads[i].grad = parameters[i].grad;
    grads[i].size = parameters[i].size;
    grads[i].dtype = parameters[i].dtype;
  }
  return grads;
}

/* ---- master weights ------------------------------------------------------*/

/**
 * Whether two numbers of half precision have the same bits. The step of a
 * parameter begins at its master, unless the parameter is not that rounded:
 * then somebody has written to it since, and its step begins at what it is.
 */
template <class S>
AL_HD bool same_bits(S a, S b) {
  static_assert(sizeof(S) == 2, "of half precision");
  uint16_t x, y;
  memcpy(&x, &a, sizeof x);
  memcpy(&y, &b, sizeof y);
  return x == y;
}

}  // namespace atomloss

#endif /* ATOMLOSS_OPTIMIZER_OPS_H */
