/** The samples of a task on the CPU, and what its rows and structures weigh. */
#ifndef ATOMLOSS_CPU_SAMPLES_KERNELS_H
#define ATOMLOSS_CPU_SAMPLES_KERNELS_H

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/loss_input.h"
#include "cpu/parallel.h"
#include "cpu/structure_offsets.h"

namespace atomloss {

/** Structures that a thread takes at a time. */
constexpr int64_t kStructures = 16;

/* ---- entries -------------------------------------------------------------*/

/** Rows that go through the vector loops at a time. */
constexpr int kRows = 192;

/** Groups of which each thread may have several sums at hand. */
constexpr int kFewGroups = 64;

/** Sums of a group that take turns: one would wait for itself. */
constexpr int kTurns = 4;

/** f(groups) with the integers as they are stored. */
template <class F>
void with_groups(const al_loss_task& task, F&& f) {
  if (task.groups_dtype == AL_INT64)
    f(static_cast<const int64_t*>(task.groups));
  else
    f(static_cast<const int32_t*>(task.groups));
}

/** f(columns) with a constant for the columns of forces. */
template <class F>
void with_columns(int64_t cols, F&& f) {
  if (cols == 3)
    f(std::integral_constant<int64_t, 3>());
  else
    f(cols);
}

/** on[i] = 0 where a row has not the labels of columns [first, end). */
template <class S>
AL_HD void drop_missing(const S* target, int64_t cols, int rows, int64_t first,
                        int64_t end, compute_t<S>* on) {
  using T = compute_t<S>;
  for (int i = 0; i < rows; ++i) {
    bool missing = false;
    for (int64_t j = first; j < end; ++j)
      missing |= is_nan(T(load(target[i * cols + j])));
    on[i] = missing ? T(0) : on[i];
  }
}

/** f(stride) with a constant for numbers one behind the other. */
template <class F>
void with_stride(int64_t stride, F&& f) {
  if (stride == 1)
    f(std::integral_constant<int64_t, 1>());
  else
    f(stride);
}

/**
 * samples[i] = the weight of the entry in column col of row + i, or of that
 * whole row where it is one entry; 1 where entries are counted, 0 for one that
 * does not count.
 */
template <class Loss, class S>
void read_samples(const al_loss_task& task, int64_t row, int rows, int64_t col,
                  compute_t<S>* samples) {
  using T = compute_t<S>;
  constexpr bool kPerRow = Loss::kind == AL_PER_ROW;
  std::fill_n(samples, rows, T(1));
  const al_spread& weights = task.weights;
  if (task.samples == AL_WEIGHTS && weights.values) {
    const T* const of =
        weights.by_row
            ? static_cast<const T*>(weights.by_row) + row
            : static_cast<const T*>(weights.values) + place(weights, row, col);
    with_stride(weights.by_row ? 1 : weights.row_stride, [&](auto stride) {
      // The fused pass tells of those that are not finite.
      for (int i = 0; i < rows; ++i) {
        const T weight = of[i * stride];
        samples[i] = is_finite(weight, Dtype<T>::largest) ? weight : T(0);
      }
    });
  }
  if (task.mask.values) {
    const auto* const mask = static_cast<const uint8_t*>(task.mask.values) +
                             place(task.mask, row, col);
    with_stride(task.mask.row_stride, [&](auto stride) {
      for (int i = 0; i < rows; ++i)
        samples[i] = mask[i * stride] ? samples[i] : T(0);
    });
  }
  if (task.targets == AL_TARGETS_LABELS)
    with_columns(task.cols, [&](auto cols) {
      drop_missing(static_cast<const S*>(task.target) + row * cols, cols, rows,
                   kPerRow ? 0 : col, kPerRow ? cols : col + 1, samples);
    });
}

/** Adds the samples of some rows to those of their groups, in a fixed order. */
template <class T>
void add_samples(const al_loss_task& task, int64_t row, int rows,
                 const T* samples, double* lanes, double* counts) {
  if (!task.groups) {
    for (int i = 0; i < rows; ++i) lanes[i] += static_cast<double>(samples[i]);
    return;
  }
  with_groups(task, [&](const auto* groups) {
    if (task.group_count <= kFewGroups)
      for (int i = 0; i < rows; ++i)
        lanes[i % kTurns * kFewGroups + groups[row + i]] +=
            static_cast<double>(samples[i]);
    else
      for (int i = 0; i < rows; ++i)
        counts[groups[row + i]] += static_cast<double>(samples[i]);
  });
}

/** The samples of rows [begin, end), added to those of their groups. */
template <class Loss, class S>
void count_rows(const al_loss_task& task, int64_t begin, int64_t end,
                double* counts) {
  constexpr int kLanes = kTurns * kFewGroups;
  static_assert(kLanes >= kRows);
  alignas(64) compute_t<S> samples[kRows];
  alignas(64) double lanes[kLanes] = {};
  const int64_t cols = Loss::kind == AL_PER_ROW ? 1 : task.cols;
  for (int64_t row = begin; row < end; row += kRows) {
    const int rows = static_cast<int>(std::min<int64_t>(kRows, end - row));
    for (int64_t col = 0; col < cols; ++col) {
      read_samples<Loss, S>(task, row, rows, col, samples);
      add_samples(task, row, rows, samples, lanes, counts);
    }
  }
  for (int i = 0; i < kLanes; ++i) {
    const int group = i % kFewGroups;
    counts[task.groups && group < task.group_count ? group : 0] += lanes[i];
  }
}

/** Elements that a mask leaves, or whose target is a label: as fast as memory.
 */
template <class S>
int64_t count_elements(const al_loss_task& task, int64_t begin, int64_t end) {
  const auto* mask = static_cast<const uint8_t*>(task.mask.values);
  const S* target = static_cast<const S*>(task.target);
  int32_t on = 0;  // of a block; in 32 bits more of them at once
  if (task.targets == AL_TARGETS_LABELS) {
    for (int64_t i = begin; i < end; ++i) {
      const compute_t<S> t = load(target[i]);
      on += !is_nan(t);
    }
  } else {
    for (int64_t i = begin; i < end; ++i) on += mask[i] != 0;
  }
  return on;
}

/** The entries that count, or their weights, by group. */
template <class Loss, class S>
void count_entries(const al_loss_task& task, double* counts) {
  const bool labels = task.targets == AL_TARGETS_LABELS;
  const bool per_row = Loss::kind == AL_PER_ROW;
  const int64_t rows = task.rows, elements = rows * task.cols;
  if (!task.groups && task.samples == AL_ENTRIES) {
    if (!task.mask.values && !labels) {
      counts[0] = static_cast<double>(per_row ? rows : elements);
      return;
    }
    const bool by_row = task.mask.values && task.mask.col_stride == 0;
    const bool simple = !task.mask.values ? !per_row : !labels;
    if (simple) {
      const int64_t n = by_row ? rows : elements;
      std::atomic<int64_t> on{0};
      for_blocks(n, kBlock, n, [&](int64_t, int64_t begin, int64_t end) {
        on += count_elements<S>(task, begin, end);
      });
      const int64_t each = by_row && !per_row ? task.cols : 1;
      counts[0] = static_cast<double>(on * each);
      return;
    }
  }
  // Sums of weights in a fixed order: a block's have a place of their own.
  const int64_t block =
      std::max<int64_t>(1, kBlock / std::max<int64_t>(1, task.cols));
  const int64_t blocks = (rows + block - 1) / block;
  const auto groups = static_cast<size_t>(task.group_count);
  std::vector<double> sums(static_cast<size_t>(blocks) * groups);
  for_blocks(rows, block, elements, [&](int64_t i, int64_t begin, int64_t end) {
    count_rows<Loss, S>(task, begin, end,
                        &sums[static_cast<size_t>(i) * groups]);
  });
  for (size_t i = 0; i < sums.size(); ++i) counts[i % groups] += sums[i];
}

/* ---- structures ----------------------------------------------------------*/

/** Whether a row has an entry that counts. */
template <class Loss, class S>
bool has_entry(const Entries<S>& entries, int64_t row) {
  if constexpr (Loss::kind == AL_PER_ROW) return entries.row_counts(row);
  const int64_t cols = entries.task.cols;
  for (int64_t col = 0; col < cols; ++col)
    if (entries.element_counts(row, col)) return true;
  return false;
}

/** Whether a row has an entry that counts and whose loss is not 0. */
template <class Loss, class S>
bool row_loses(const Entries<S>& entries, const Parameters<compute_t<S>>& c,
               int64_t row) {
  using T = compute_t<S>;
  const int64_t cols = entries.task.cols;
  int64_t told = 0;  // by the fused pass
  T p, t;
  if constexpr (Loss::kind == AL_PER_ROW) {
    if (!entries.row_counts(row)) return false;
    typename Loss::template Row<T> sums;
    for (int64_t col = 0; col < cols; ++col) {
      entries.template seen<Loss>(row, col, p, t, told);
      sums.add(col, p, t);
    }
    return sums.value(c) != T(0);
  } else {
    for (int64_t col = 0; col < cols; ++col) {
      if (!entries.element_counts(row, col)) continue;
      entries.template seen<Loss>(row, col, p, t, told);
      if (Loss::value(p, t, T(1), c) != T(0)) return true;
    }
    return false;
  }
}

/** Weighs the rows by their structures, which are counted. */
template <class Loss, class S>
void weigh_structures(const al_loss_task& task,
                      const std::vector<int64_t>& offsets, double* counts) {
  using T = compute_t<S>;
  const Entries<S> entries = {task};
  const Parameters<T> c(task.parameters);
  const bool all = task.samples == AL_STRUCTURES;
  const bool selective =
      task.mask.values || task.targets == AL_TARGETS_LABELS || task.cols == 0;
  T* const weights = static_cast<T*>(task.structure_weights);
  std::atomic<int64_t> samples{0};
  const auto weigh = [&](int64_t structure) {
    const int64_t first = offsets[structure], end = offsets[structure + 1];
    int64_t counting = end - first;
    if (selective) {
      counting = 0;
      for (int64_t row = first; row < end; ++row)
        counting += has_entry<Loss, S>(entries, row);
    }
    std::fill(weights + first, weights + end,
              T(1) / static_cast<T>(std::max<int64_t>(counting, 1)));
    int64_t row = first;
    while (!all && row < end && !row_loses<Loss, S>(entries, c, row)) ++row;
    samples += all || row < end;
  };
  for_blocks(task.structures, kStructures, task.rows,
             [&](int64_t, int64_t begin, int64_t end) {
               for (int64_t i = begin; i < end; ++i) weigh(i);
             });
  counts[0] = static_cast<double>(samples);
}

/** Writes the number of each row of what was given per structure. */
template <class T>
void spread_structures(const al_spread& spread,
                       const std::vector<int64_t>& offsets) {
  if (!spread.by_row) return;
  T* const to = static_cast<T*>(spread.by_row);
  for (size_t i = 0; i + 1 < offsets.size(); ++i)
    std::fill(to + offsets[i], to + offsets[i + 1],
              static_cast<const T*>(spread.values)[i]);
}

/* ---- tasks ---------------------------------------------------------------*/

/** Rows of a group that there is not. */
inline int64_t count_wrong_groups(const al_loss_task& task) {
  if (!task.groups) return 0;
  const int32_t count = task.group_count;
  std::atomic<int64_t> wrong{0};
  with_groups(task, [&](const auto* groups) {
    for_blocks(task.rows, kBlock, task.rows,
               [&](int64_t, int64_t begin, int64_t end) {
                 int32_t some = 0;  // of a block
                 for (int64_t row = begin; row < end; ++row)
                   some += (groups[row] < 0) | (groups[row] >= count);
                 wrong += some;
               });
  });
  return wrong;
}

/** The samples of a task's groups; what it needs written besides. */
template <class Loss, class S>
void count_samples(const al_loss_task& task, double* counts) {
  std::fill_n(counts, task.group_count, 0.0);
  const bool weighs =
      task.samples == AL_STRUCTURES || task.samples == AL_STRUCTURES_WITH_LOSS;
  const bool spreads = task.weights.by_row || task.scale.by_row;
  std::vector<int64_t> offsets;
  if (weighs || spreads)
    offsets = structure_offsets(natoms_of(task), task.structures, task.rows);
  if (task.wrong) {
    task.wrong[0] = (weighs || spreads) && offsets.back() != task.rows;
    task.wrong[1] = count_wrong_groups(task);
    if (is_wrong(task)) return;
  }
  if (spreads) {
    spread_structures<compute_t<S>>(task.weights, offsets);
    spread_structures<compute_t<S>>(task.scale, offsets);
  }
  if (weighs)
    weigh_structures<Loss, S>(task, offsets, counts);
  else
    count_entries<Loss, S>(task, counts);
}

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_SAMPLES_KERNELS_H */
