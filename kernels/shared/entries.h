/**
 * What an entry of a task weighs and with which scale its loss sees it, by all
 * that a task may say of that: written once and compiled for the host and for
 * the device.
 */
#ifndef ATOMLOSS_ENTRIES_H
#define ATOMLOSS_ENTRIES_H

#include "loss_ops.h"
#include "shared/dispatch.h"
#include "shared/structures.h"

namespace atomloss {

/** What there is to say of the entries of a part of a task. */
struct Remarks {
  int64_t inputs = 0, targets = 0, factors = 0, natoms = 0, groups = 0;

  AL_HD void operator+=(const Remarks& other) {
    inputs += other.inputs;
    targets += other.targets;
    factors += other.factors;
    natoms += other.natoms;
    groups += other.groups;
  }
};

/** The place of a number of an al_spread. */
AL_HD int64_t place(const al_spread& spread, int64_t row, int64_t col) {
  return row * spread.row_stride + col * spread.col_stride;
}

/** Whether a task's entries are not all alike. */
AL_HD bool is_weighted(const al_loss_task& task) {
  return task.mask.values || task.weights.values || task.scale.values ||
         task.structure_weights || task.groups ||
         task.targets == AL_TARGETS_LABELS;
}

/** Whether no entry of a task counts, since it does not say which do. */
AL_HD bool is_wrong(const al_loss_task& task) {
  return task.wrong && (task.wrong[0] != 0 || task.wrong[1] != 0);
}

AL_HD Integers groups_of(const al_loss_task& task) {
  return {task.groups, task.groups_dtype == AL_INT64};
}

/**
 * What a loss sees of a pair. Where it is of the difference, that is scaled:
 * s p - s t would lose its digits.
 */
template <class Loss, class T>
AL_HD void scale_pair(T scale, T& p, T& t) {
  if constexpr (Loss::of_difference) {
    p = scale * (p - t);
    t = 0;
  } else {
    p *= scale;
    t *= scale;
  }
}

/** A task's entries; S is its dtype. */
template <class S>
struct Entries {
  using T = compute_t<S>;
  static constexpr T kLargest = Dtype<S>::largest;
  const al_loss_task& task;

  /** Whether the mask leaves an entry. */
  AL_HD bool on(int64_t row, int64_t col) const {
    const auto* mask = static_cast<const uint8_t*>(task.mask.values);
    return !mask || mask[place(task.mask, row, col)] != 0;
  }

  /** Whether a number of the target is a label. */
  AL_HD bool has_label(int64_t row, int64_t col) const {
    if (task.targets != AL_TARGETS_LABELS) return true;
    const T t = load(static_cast<const S*>(task.target)[row * task.cols + col]);
    return !is_nan(t);
  }

  /** Whether an element counts. */
  AL_HD bool element_counts(int64_t row, int64_t col) const {
    return on(row, col) && has_label(row, col);
  }

  /** Whether a row counts that is one entry. */
  AL_HD bool row_counts(int64_t row) const {
    if (!on(row, 0)) return false;
    for (int64_t col = 0; col < task.cols; ++col)
      if (!has_label(row, col)) return false;
    return true;
  }

  /** The weight that was given for an entry; 0 if it is not finite. */
  template <class Count>
  AL_HD T given_weight(int64_t row, int64_t col, Count& bad) const {
    return number(task.weights, row, col, bad);
  }

  /** The scale with which a loss sees a number; 0 if it is not finite. */
  template <class Count>
  AL_HD T scale(int64_t row, int64_t col, Count& bad) const {
    return number(task.scale, row, col, bad);
  }

  /** What every entry of a row is multiplied by besides. */
  AL_HD T row_factor(int64_t row) const {
    T factor = 1;
    if (task.structure_weights)
      factor = static_cast<const T*>(task.structure_weights)[row];
    if (task.groups) factor *= group_factor(row);
    return factor;
  }

  /** What a row is multiplied by for its group. */
  AL_HD T group_factor(int64_t row) const {
    return static_cast<T>(task.factors[groups_of(task)[row]]);
  }

  /** A number of pred as a loss sees it, before its scale. */
  AL_HD T pred(S stored) const { return nan_to_num(load(stored), kLargest); }

  /** The same of target. */
  AL_HD T target(S stored) const {
    const T t = load(stored);
    return task.targets != AL_TARGETS_AS_THEY_ARE && !is_finite(t, kLargest)
               ? T(0)
               : t;
  }

  /** What a loss sees of a number of pred and of target; gives the scale. */
  template <class Loss, class Count>
  AL_HD T seen(int64_t row, int64_t col, T& p, T& t, Count& bad) const {
    const int64_t i = row * task.cols + col;
    p = pred(static_cast<const S*>(task.pred)[i]);
    t = target(static_cast<const S*>(task.target)[i]);
    if (!task.scale.values) return 1;
    const T s = scale(row, col, bad);
    scale_pair<Loss>(s, p, t);
    return s;
  }

 private:
  template <class Count>
  AL_HD static T number(const al_spread& spread, int64_t row, int64_t col,
                        Count& bad) {
    if (!spread.values) return 1;
    const T x =
        spread.by_row
            ? static_cast<const T*>(spread.by_row)[row]
            : static_cast<const T*>(spread.values)[place(spread, row, col)];
    // Of the type that it is stored in, which half precision's is not.
    const bool ok = x - x == T(0);  // NOLINT(misc-redundant-expression)
    bad += !ok;
    return ok ? x : T(0);
  }
};

}  // namespace atomloss

#endif /* ATOMLOSS_ENTRIES_H */
