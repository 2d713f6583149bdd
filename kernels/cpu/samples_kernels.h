/** The weights of rows per structure on the CPU. */
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

/** Rows in [first, end) of which the mask leaves an entry. */
inline int64_t count_free_rows(const al_loss_task& task, bool per_row,
                               int64_t first, int64_t end) {
  if (task.mask == nullptr) return end - first;
  int64_t on = 0;
  if (per_row) {
    for (int64_t row = first; row < end; ++row) on += task.mask[row] != 0;
    return on;
  }
  for (int64_t row = first; row < end; ++row) {
    const uint8_t* mask = task.mask + row * task.cols;
    on += std::any_of(mask, mask + task.cols,
                      [](uint8_t entry) { return entry != 0; });
  }
  return on;
}

/** Whether an entry of a row that the mask leaves has a loss that is not 0. */
template <class Loss, class S>
bool row_loses(const al_loss_task& task, bool per_row, int64_t row) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  if (task.mask && per_row && !task.mask[row]) return false;
  T squares = 0;
  for (int64_t i = row * task.cols; i < (row + 1) * task.cols; ++i) {
    if (task.mask && !per_row && !task.mask[i]) continue;
    const T p = nan_to_num(load(static_cast<const S*>(task.pred)[i]), kLargest);
    const T t = read_target(load(static_cast<const S*>(task.target)[i]),
                            kLargest, task.flags & AL_ZERO_NONFINITE);
    if constexpr (Loss::kind == AL_PER_ROW) {
      squares += (p - t) * (p - t);
    } else if (Loss::value(p, t, T(1)) != T(0)) {
      return true;
    }
  }
  if constexpr (Loss::kind == AL_PER_ROW)
    return Loss::value(squares) != T(0);
  else
    return false;
}

/** Weighs the rows; counts the structures with a loss that is not 0. */
template <class Loss, class S>
int64_t weigh_structures(const al_loss_task& task) {
  using T = compute_t<S>;
  T* const weights = static_cast<T*>(task.row_weights);
  const std::vector<int64_t> offsets =
      structure_offsets(natoms_of(task), task.structures, task.rows);
  const bool bad_natoms = offsets.back() != task.rows;
  weights[task.rows] = T(bad_natoms);
  if (bad_natoms) {
    std::fill(weights, weights + task.rows, T(0));
    return 0;
  }
  std::atomic<int64_t> samples{0};
  const bool per_row = Loss::kind == AL_PER_ROW || task.flags & AL_MASK_PER_ROW;
  const auto weigh = [&](int64_t structure) {
    const int64_t first = offsets[structure], end = offsets[structure + 1];
    const int64_t free_rows = count_free_rows(task, per_row, first, end);
    const int64_t divisor = free_rows > 0 ? free_rows : end - first;
    const T weight = T(1) / static_cast<T>(std::max<int64_t>(divisor, 1));
    std::fill(weights + first, weights + end, weight);
    int64_t row = first;
    while (row < end && !row_loses<Loss, S>(task, per_row, row)) ++row;
    samples += row < end;
  };
  for_blocks(task.structures, kStructures, task.rows,
             [&](int64_t, int64_t begin, int64_t end) {
               for (int64_t i = begin; i < end; ++i) weigh(i);
             });
  return samples;
}

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_SAMPLES_KERNELS_H */
