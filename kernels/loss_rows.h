/**
 * What the losses of loss_ops.h are made of: their parameters, what most have
 * in common, and the rows of those per row.
 *
 * A row takes its numbers one by one, with add(j, p, t) for the column j; then
 * value(c) is its loss with the parameters c, and after differentiate(c, u)
 * grad(j, p, t) u times the derivative with respect to that p. merge(of) adds
 * the numbers that another row of the same sums has taken: of(x) is what that
 * has for this row's x. A row of columns keeps them all, and does not merge.
 */
#ifndef ATOMLOSS_LOSS_ROWS_H
#define ATOMLOSS_LOSS_ROWS_H

#include <cmath>

#include "atomloss.h"

#ifdef __CUDACC__
#define AL_HD __host__ __device__ __forceinline__
#else
#define AL_HD inline __attribute__((always_inline))
#endif

namespace atomloss {

/** A task's parameters in the type that its loss is computed in. */
template <class T>
struct Parameters {
  T values[AL_MAX_PARAMETERS];

  AL_HD explicit Parameters(const double (&from)[AL_MAX_PARAMETERS]) {
    for (int i = 0; i < AL_MAX_PARAMETERS; ++i)
      values[i] = static_cast<T>(from[i]);
  }
  AL_HD T operator[](int i) const { return values[i]; }
};

/** What the cut of a loss's work depends on. */
struct LossShape {
  al_loss_kind kind;
  bool of_squares;
  int32_t columns;
};

template <class Loss>
constexpr LossShape kShapeOf = {Loss::kind, Loss::of_squares, Loss::columns};

/** What most losses per element have in common. */
struct ElementLoss {
  static constexpr al_loss_kind kind = AL_PER_ELEMENT;
  static constexpr bool of_difference = true;
  static constexpr bool of_squares = false;
  static constexpr bool uses_natoms = false;
  static constexpr int columns = 0;
};

/** The same of losses per row. */
struct RowLoss {
  static constexpr al_loss_kind kind = AL_PER_ROW;
  static constexpr bool of_difference = true;
  static constexpr bool of_squares = false; /* its Row is a SquaresRow */
  static constexpr bool uses_natoms = false;
  static constexpr int columns = 0;
};

/**
 * Of a loss of s = the sum of (p - t)^2, by value(s, c), and slope(s, c) such
 * that the gradient is slope * (p - t).
 */
template <class Loss, class T>
struct SquaresRow {
  T s = 0, slope = 0;

  AL_HD void add(int64_t, T p, T t) { s += (p - t) * (p - t); }
  template <class F>
  AL_HD void merge(const F& of) {
    s += of(s);
  }
  AL_HD T value(const Parameters<T>& c) const { return Loss::value(s, c); }
  AL_HD void differentiate(const Parameters<T>& c, T upstream) {
    slope = upstream * Loss::slope(s, c);
  }
  AL_HD T grad(int64_t, T p, T t) const { return slope * (p - t); }
};

/**
 * Of a loss of that and the sums of p^2, p t and t^2: value(s, pp, pt, tt, c),
 * and grad_p and grad_t such that the gradient is grad_p * p + grad_t * t.
 */
template <class Loss, class T>
struct ProductsRow {
  T s = 0, pp = 0, pt = 0, tt = 0, grad_p = 0, grad_t = 0;

  AL_HD void add(int64_t, T p, T t) {
    s += (p - t) * (p - t);
    pp += p * p;
    pt += p * t;
    tt += t * t;
  }
  template <class F>
  AL_HD void merge(const F& of) {
    s += of(s);
    pp += of(pp);
    pt += of(pt);
    tt += of(tt);
  }
  AL_HD T value(const Parameters<T>& c) const {
    return Loss::value(s, pp, pt, tt, c);
  }
  AL_HD void differentiate(const Parameters<T>& c, T upstream) {
    grad_p = upstream * Loss::grad_p(s, pp, pt, tt, c);
    grad_t = upstream * Loss::grad_t(s, pp, pt, tt, c);
  }
  AL_HD T grad(int64_t, T p, T t) const { return grad_p * p + grad_t * t; }
};

/** Of a loss of rows of Loss::columns: value(p, t, c) and grad(j, p, t, c). */
template <class Loss, class T>
struct ColumnsRow {
  T p[Loss::columns] = {}, t[Loss::columns] = {}, slope[Loss::columns] = {};

  AL_HD void add(int64_t j, T p_j, T t_j) {
    p[j] = p_j;
    t[j] = t_j;
  }
  AL_HD T value(const Parameters<T>& c) const { return Loss::value(p, t, c); }
  AL_HD void differentiate(const Parameters<T>& c, T upstream) {
    for (int j = 0; j < Loss::columns; ++j)
      slope[j] = upstream * Loss::grad(j, p, t, c);
  }
  AL_HD T grad(int64_t j, T, T) const { return slope[j]; }
};

/** Of cross-entropy: all relative to the largest p, so that none overflows. */
template <class T>
struct SoftmaxRow {
  T largest = -INFINITY;
  T exponentials = 0; /* sum of exp(p - largest) */
  T targets = 0;      /* sum of t */
  T products = 0;     /* sum of t (p - largest) */
  T factor = 0;       /* of the gradient */

  AL_HD void add(int64_t, T p, T t) {
    raise(p);
    exponentials += std::exp(p - largest);
    targets += t;
    // A probability of 0 has no part in it, however far its p is.
    if (t != T(0)) products += t * (p - largest);
  }
  template <class F>
  AL_HD void merge(const F& of) {
    SoftmaxRow other;
    other.largest = of(largest);
    other.exponentials = of(exponentials);
    other.targets = of(targets);
    other.products = of(products);
    raise(other.largest);
    other.raise(largest);
    exponentials += other.exponentials;
    targets += other.targets;
    products += other.products;
  }
  AL_HD T value(const Parameters<T>&) const {
    return targets * std::log(exponentials) - products;
  }
  AL_HD void differentiate(const Parameters<T>&, T upstream) {
    factor = upstream;
  }
  AL_HD T grad(int64_t, T p, T t) const {
    return factor * (std::exp(p - largest) / exponentials * targets - t);
  }

 private:
  AL_HD void raise(T to) {
    if (!(to > largest)) return;
    exponentials *= std::exp(largest - to);
    if (targets != T(0)) products += targets * (largest - to);
    largest = to;
  }
};

}  // namespace atomloss

#endif /* ATOMLOSS_LOSS_ROWS_H */
