/**
 * How many samples a masked task has, and what its rows weigh: what must be
 * known, over all replicas, before its loss can be reduced.
 */
#include <cmath>
#include <limits>
#include <vector>

#include "loss_input.h"
#include "parallel.h"

namespace atomloss {
namespace {

/** Whether the mask leaves an entry of row `row`. */
bool is_free(const al_loss_task& task, int64_t row, int64_t entries_per_row) {
  if (task.mask == nullptr) return true;
  if (task.flags & AL_MASK_PER_ROW) return task.mask[row] != 0;
  const uint8_t* mask = task.mask + row * entries_per_row;
  return std::any_of(mask, mask + entries_per_row,
                     [](uint8_t entry) { return entry != 0; });
}

/** Entries of the unreduced loss that the mask leaves. */
int64_t count_entries(const al_loss_task& task, int64_t entries_per_row) {
  if (task.mask == nullptr) return task.rows * entries_per_row;
  const bool per_row = task.flags & AL_MASK_PER_ROW;
  const int64_t n = per_row ? task.rows : task.rows * entries_per_row;
  int64_t on = 0;
  for (int64_t i = 0; i < n; ++i) on += task.mask[i] != 0;
  return per_row ? on * entries_per_row : on;
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

al_status count_task(const al_loss_task& task, int64_t* count) {
  return with_loss(task.loss, [&](auto op) {
    using Loss = decltype(op);
    if (!(task.flags & AL_PER_STRUCTURE)) {
      *count = count_entries(task, Loss::kind == AL_PER_ROW ? 1 : task.cols);
      return static_cast<al_status>(AL_OK);
    }
    if (Loss::uses_natoms)
      return al_fail(AL_INVALID_ARGUMENT,
                     "a loss that reads natoms has no rows per structure");
    return with_float_type(task.dtype, [&](auto type) {
      *count = weigh_structures<Loss, typename decltype(type)::type>(task);
      return static_cast<al_status>(AL_OK);
    });
  });
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_count_samples(al_device*, int32_t count, const al_loss_task* tasks,
                           int64_t* counts) {
  return al_guard([&]() -> al_status {
    for (int32_t i = 0; i < count; ++i)
      if (al_status bad = count_task(tasks[i], &counts[i])) return bad;
    return AL_OK;
  });
}
