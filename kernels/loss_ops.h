/**
 * The loss functions: value and gradient of one element or one row, written
 * once and compiled for the host and for the device.
 *
 * To add a loss, write a struct here and name it in AL_BUILTIN_LOSSES; the
 * kernels of both libraries are instantiated from that list. (In TypeScript it
 * needs one more line, in loss/losses.ts.) What fits one line needs no struct:
 * see loss/shipped_losses.ts and defineLoss().
 *
 * A struct has
 *   name           by which TypeScript asks for it
 *   kind           AL_PER_ELEMENT or AL_PER_ROW
 *   of_difference  whether it depends on p - t alone
 *   uses_natoms    whether natoms is read; otherwise the kernels pass 1
 * and, if it is per element,
 *   value(p, t, n, c)  the loss, with the parameters c
 *   grad(p, t, n, c)   its derivative with respect to p
 * or, if it is per row,
 *   columns            those that a row must have; 0: any number
 *   Row<T>             what a row is, number by number: see loss_rows.h, also
 *                      for the functions that the struct needs besides
 *
 * T is float for float32, float16 and bfloat16, double for float64. No
 * branches: what is written here is vectorised by the host compiler.
 */
#ifndef ATOMLOSS_LOSS_OPS_H
#define ATOMLOSS_LOSS_OPS_H

#include <cmath>

#include "loss_rows.h"

namespace atomloss {

/** -1, 0 or 1; 0 for NaN, as torch.sign. */
template <class T>
AL_HD T sign(T x) {
  return static_cast<T>(x > T(0)) - static_cast<T>(x < T(0));
}

/** False for NaN and infinities. largest is the dtype's largest finite. */
template <class T>
AL_HD bool is_finite(T x, T largest) {
  return std::fabs(x) <= largest;
}

/** Of numbers of every type; std::isnan is no function of the device. */
template <class T>
AL_HD bool is_nan(T x) {
  return x != x;  // NOLINT(misc-redundant-expression): only a NaN is
}

/** NaN -> 0, infinity -> the largest finite number of its sign. */
template <class T>
AL_HD T nan_to_num(T x, T largest) {
  const T low = x < -largest ? -largest : x;
  const T both = low > largest ? largest : low;
  return is_nan(x) ? T(0) : both;
}

/** Absolute error. Reference: torch.nn.L1Loss. */
struct MAE : ElementLoss {
  static constexpr const char* name = "mae";
  template <class T>
  AL_HD static T value(T p, T t, T, const Parameters<T>&) {
    return std::fabs(p - t);
  }
  template <class T>
  AL_HD static T grad(T p, T t, T, const Parameters<T>&) {
    return sign(p - t);
  }
};

/** Squared error. Reference: torch.nn.MSELoss. */
struct MSE : ElementLoss {
  static constexpr const char* name = "mse";
  template <class T>
  AL_HD static T value(T p, T t, T, const Parameters<T>&) {
    return (p - t) * (p - t);
  }
  template <class T>
  AL_HD static T grad(T p, T t, T, const Parameters<T>&) {
    return T(2) * (p - t);
  }
};

/** Absolute error per atom. Reference: fairchem's PerAtomMAELoss. */
struct PerAtomMAE : ElementLoss {
  static constexpr const char* name = "per_atom_mae";
  static constexpr bool uses_natoms = true;
  template <class T>
  AL_HD static T value(T p, T t, T n, const Parameters<T>&) {
    return std::fabs(p / n - t / n);
  }
  template <class T>
  AL_HD static T grad(T p, T t, T n, const Parameters<T>&) {
    return sign(p / n - t / n) / n;
  }
};

/** Euclidean norm of the error of a row. Reference: fairchem's L2NormLoss. */
struct L2Norm : RowLoss {
  static constexpr const char* name = "l2norm";
  static constexpr bool of_squares = true;
  template <class T>
  using Row = SquaresRow<L2Norm, T>;
  template <class T>
  AL_HD static T value(T s, const Parameters<T>&) {
    return std::sqrt(s);
  }
  template <class T>
  AL_HD static T slope(T s, const Parameters<T>&) {
    return s == T(0) ? T(0) : T(1) / std::sqrt(s);
  }
};

/**
 * Cross-entropy of a row of probabilities t and a row of logits p,
 * -sum t log softmax(p). Reference: torch.nn.CrossEntropyLoss.
 */
struct CrossEntropy : RowLoss {
  static constexpr const char* name = "cross_entropy";
  static constexpr bool of_difference = false;
  template <class T>
  using Row = SoftmaxRow<T>;
};

/** Names that the text of a defined loss may use, for float and double. */
namespace loss_math {

template <class T>
AL_HD T abs(T x) {
  return std::fabs(x);
}
template <class A, class B>
AL_HD auto min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
AL_HD auto max(A a, B b) {
  return a < b ? b : a;
}
using std::cosh;
using std::erf;
using std::exp;
using std::expm1;
using std::log;
using std::log1p;
using std::pow;
using std::sinh;
using std::sqrt;
using std::tanh;

}  // namespace loss_math

}  // namespace atomloss

// Losses from one line each: those of this package, and those of its user.
#include "defined/defined_losses.h"
#include "defined/user_losses.h"

/** The losses of this library, in the order of their numbers. */
#define AL_BUILTIN_LOSSES(X) \
  X(MAE) X(MSE) X(PerAtomMAE) X(L2Norm) X(CrossEntropy) AL_DEFINED_LOSSES(X)

#endif /* ATOMLOSS_LOSS_OPS_H */
