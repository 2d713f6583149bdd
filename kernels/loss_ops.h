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
 *   name          by which TypeScript asks for it
 *   kind          AL_PER_ELEMENT or AL_PER_ROW
 *   uses_natoms   whether natoms is read; otherwise the kernels pass 1
 * and, if it is per element,
 *   value(p, t, n)      the loss
 *   grad(p, t, n)       its derivative with respect to p
 * or, if it is per row, a function of s = sum over the row of (p - t)^2,
 *   value(s)            the loss
 *   slope(s)            such that the gradient is slope(s) * (p - t)
 *
 * T is float for float32, float16 and bfloat16, double for float64. No
 * branches: what is written here is vectorised by the host compiler.
 */
#ifndef ATOMLOSS_LOSS_OPS_H
#define ATOMLOSS_LOSS_OPS_H

#include <cmath>

#include "atomloss.h"

#ifdef __CUDACC__
#define AL_HD __host__ __device__ __forceinline__
#else
#define AL_HD inline __attribute__((always_inline))
#endif

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

/** NaN -> 0, infinity -> the largest finite number of its sign. */
template <class T>
AL_HD T nan_to_num(T x, T largest) {
  const T low = x < -largest ? -largest : x;
  const T both = low > largest ? largest : low;
  return x == x ? both : T(0);  // NOLINT(misc-redundant-expression): not NaN
}

/** Absolute error. Reference: torch.nn.L1Loss. */
struct MAE {
  static constexpr const char* name = "mae";
  static constexpr al_loss_kind kind = AL_PER_ELEMENT;
  static constexpr bool uses_natoms = false;
  template <class T>
  AL_HD static T value(T p, T t, T) {
    return std::fabs(p - t);
  }
  template <class T>
  AL_HD static T grad(T p, T t, T) {
    return sign(p - t);
  }
};

/** Squared error. Reference: torch.nn.MSELoss. */
struct MSE {
  static constexpr const char* name = "mse";
  static constexpr al_loss_kind kind = AL_PER_ELEMENT;
  static constexpr bool uses_natoms = false;
  template <class T>
  AL_HD static T value(T p, T t, T) {
    return (p - t) * (p - t);
  }
  template <class T>
  AL_HD static T grad(T p, T t, T) {
    return T(2) * (p - t);
  }
};

/** Absolute error per atom. Reference: fairchem's PerAtomMAELoss. */
struct PerAtomMAE {
  static constexpr const char* name = "per_atom_mae";
  static constexpr al_loss_kind kind = AL_PER_ELEMENT;
  static constexpr bool uses_natoms = true;
  template <class T>
  AL_HD static T value(T p, T t, T n) {
    return std::fabs(p / n - t / n);
  }
  template <class T>
  AL_HD static T grad(T p, T t, T n) {
    return sign(p / n - t / n) / n;
  }
};

/** Euclidean norm of the error of a row. Reference: fairchem's L2NormLoss. */
struct L2Norm {
  static constexpr const char* name = "l2norm";
  static constexpr al_loss_kind kind = AL_PER_ROW;
  static constexpr bool uses_natoms = false;
  template <class T>
  AL_HD static T value(T s) {
    return std::sqrt(s);
  }
  template <class T>
  AL_HD static T slope(T s) {
    return s == T(0) ? T(0) : T(1) / std::sqrt(s);
  }
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
#include "defined_losses.h"
#include "user_losses.h"

/** The losses of this library, in the order of their numbers. */
#define AL_BUILTIN_LOSSES(X) \
  X(MAE) X(MSE) X(PerAtomMAE) X(L2Norm) AL_DEFINED_LOSSES(X)

#endif /* ATOMLOSS_LOSS_OPS_H */
