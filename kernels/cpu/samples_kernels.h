/** The weights of rows per structure on the CPU. */
#ifndef ATOMLOSS_CPU_SAMPLES_KERNELS_H
#define ATOMLOSS_CPU_SAMPLES_KERNELS_H

#include <algorithm>

#include "cpu/loss_input.h"

namespace atomloss {

/** Whether the mask leaves an entry of row `row`. */
inline bool is_free(const al_loss_task& task, int64_t row,
                    int64_t entries_per_row) {
  if (task.mask == nullptr) return true;
  if (task.flags & AL_MASK_PER_ROW) return task.mask[row] != 0;
  const uint8_t* mask = task.mask + row * entries_per_row;
  return std::any_of(mask, mask + entries_per_row,
                     [](uint8_t entry) { return entry != 0; });
}

/** The loss of a row, of the entries that its mask leaves. */
template <class Loss, class S>
double row_loss(const al_loss_task& task, int64_t row) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const S* pred = static_cast<const S*>(task.pred) + row * task.cols;
  const S* target = static_cast<const S*>(task.target) + row * task.cols;
  const bool per_row = task.flags & AL_MASK_PER_ROW;
  double sum = 0;
  T squares = 0;
  for (int64_t j = 0; j < task.cols; ++j) {
    const T p = nan_to_num(load(pred[j]), kLargest);
    T t = load(target[j]);
    if (task.flags & AL_ZERO_NONFINITE && !is_finite(t, kLargest)) t = 0;
    if constexpr (Loss::kind == AL_PER_ROW) {
      squares += (p - t) * (p - t);
    } else {
      const bool on =
          !task.mask || per_row || task.mask[row * task.cols + j] != 0;
      if (on) sum += static_cast<double>(Loss::value(p, t, T(1)));
    }
  }
  if constexpr (Loss::kind == AL_PER_ROW)
    sum = static_cast<double>(Loss::value(squares));
  return sum;
}

/** Weighs the rows; counts the structures whose loss is not 0. */
template <class Loss, class S>
int64_t weigh_structures(const al_loss_task& task) {
  using T = compute_t<S>;
  const Input in = {task.dtype,        task.pred, task.target, task.natoms,
                    task.natoms_dtype, task.rows, task.cols};
  const int64_t entries_per_row = Loss::kind == AL_PER_ROW ? 1 : task.cols;
  T* weights = static_cast<T*>(task.row_weights);
  int64_t row = 0, samples = 0;
  for (int64_t i = 0; i < task.structures; ++i) {
    const int64_t atoms =
        std::clamp<int64_t>(in.natoms_at(i), 0, task.rows - row);
    const int64_t end = row + atoms;
    int64_t free_rows = 0;
    double loss = 0;
    for (int64_t j = row; j < end; ++j) {
      if (!is_free(task, j, entries_per_row)) continue;
      ++free_rows;
      loss += row_loss<Loss, S>(task, j);
    }
    const int64_t divisor = free_rows > 0 ? free_rows : atoms;
    const T weight = T(1) / static_cast<T>(std::max<int64_t>(divisor, 1));
    std::fill(weights + row, weights + end, weight);
    samples += loss != 0;
    row = end;
  }
  std::fill(weights + row, weights + task.rows, T(0));
  return samples;
}

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_SAMPLES_KERNELS_H */
