/**
 * One entry of the fused pass, whatever it holds and whatever its task says of
 * it: written once and compiled for the host, where it is what the fast loops
 * fall back on, and for the device.
 */
#ifndef ATOMLOSS_ONE_ENTRY_H
#define ATOMLOSS_ONE_ENTRY_H

#include "shared/entries.h"

#ifdef __CUDACC__
#define AL_UNROLL _Pragma("unroll")
#else
#define AL_UNROLL
#endif

namespace atomloss {

/**
 * Adds the weighted loss of an element to sum, and to told what there is to
 * say; gives its gradient.
 */
template <class Loss, class S, class Told>
AL_HD S one_element(const Entries<S>& entries,
                    const Parameters<compute_t<S>>& c, compute_t<S> factor,
                    int64_t row, int64_t col, double& sum, Told& told) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const al_loss_task& task = entries.task;
  if (!entries.element_counts(row, col)) return store<S>(T(0));
  const T w =
      entries.given_weight(row, col, told.factors) * entries.row_factor(row);
  if (w == T(0)) return store<S>(T(0));
  T atoms = 1;
  if constexpr (Loss::uses_natoms) {
    const int64_t given = natoms_of(task)[row];
    if (given < 1) {
      ++told.natoms;
      return store<S>(T(0));
    }
    atoms = static_cast<T>(given);
  }
  const int64_t i = row * task.cols + col;
  const S pred = static_cast<const S*>(task.pred)[i];
  const S target = static_cast<const S*>(task.target)[i];
  const bool ok = is_finite(load(pred), kLargest);
  told.inputs += !ok;
  told.targets += !is_finite(load(target), kLargest);
  T p = entries.pred(pred), t = entries.target(target), scale = 1;
  if (task.scale.values) {
    scale = entries.scale(row, col, told.factors);
    scale_pair<Loss>(scale, p, t);
  }
  sum += static_cast<double>(w * Loss::value(p, t, atoms, c));
  return store<S>(ok ? factor * w * Loss::grad(p, t, atoms, c) * scale : T(0));
}

/** The same of a row that is one entry; its gradient goes to grad, if wanted.
 */
template <class Loss, class S, class Told>
AL_HD void one_row(const Entries<S>& entries, const Parameters<compute_t<S>>& c,
                   compute_t<S> factor, int64_t row, S* grad, double& sum,
                   Told& told) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const al_loss_task& task = entries.task;
  const int64_t cols = Loss::columns > 0 ? Loss::columns : task.cols;
  const int64_t first = row * cols;
  const S* const pred = static_cast<const S*>(task.pred) + first;
  const S* const target = static_cast<const S*>(task.target) + first;
  const T w =
      entries.row_counts(row)
          ? entries.given_weight(row, 0, told.factors) * entries.row_factor(row)
          : T(0);
  if (w == T(0)) {
    if (grad)
      for (int64_t j = 0; j < cols; ++j) grad[first + j] = store<S>(T(0));
    return;
  }
  typename Loss::template Row<T> sums;
  AL_UNROLL
  for (int64_t j = 0; j < cols; ++j) {
    T p, t;
    entries.template seen<Loss>(row, j, p, t, told.factors);
    sums.add(j, p, t);
    told.inputs += !is_finite(load(pred[j]), kLargest);
    told.targets += !is_finite(load(target[j]), kLargest);
  }
  sum += static_cast<double>(w * sums.value(c));
  if (!grad) return;
  sums.differentiate(c, factor * w);
  AL_UNROLL
  for (int64_t j = 0; j < cols; ++j) {
    int64_t told_already = 0;
    T p, t;
    const T scale = entries.template seen<Loss>(row, j, p, t, told_already);
    const bool ok = is_finite(load(pred[j]), kLargest);
    grad[first + j] = store<S>(ok ? sums.grad(j, p, t) * scale : T(0));
  }
}

}  // namespace atomloss

#endif /* ATOMLOSS_ONE_ENTRY_H */
