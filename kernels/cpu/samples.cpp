/**
 * How many samples a masked task has, and what its rows weigh: what must be
 * known, over all replicas, before its loss can be reduced.
 */
#include <atomic>

#include "cpu/loss_kernels.h"
#include "loss_table.h"

namespace atomloss {
namespace {

/** Entries of a mask that are not 0. */
int64_t count_on(const uint8_t* mask, int64_t n) {
  std::atomic<int64_t> on{0};
  for_blocks(n, kBlock, n, [&](int64_t, int64_t begin, int64_t end) {
    int32_t some = 0;  // of a block; in 32 bits 4 times as many at once
    for (int64_t i = begin; i < end; ++i) some += mask[i] != 0;
    on += some;
  });
  return on;
}

/** Entries of the unreduced loss that the mask leaves. */
int64_t count_entries(const al_loss_task& task, int64_t entries_per_row) {
  if (task.mask == nullptr) return task.rows * entries_per_row;
  const bool per_row = task.flags & AL_MASK_PER_ROW;
  const int64_t n = per_row ? task.rows : task.rows * entries_per_row;
  const int64_t on = count_on(task.mask, n);
  return per_row ? on * entries_per_row : on;
}

int64_t count_task(const al_loss_task& task) {
  const LossEntry& loss = loss_entry(task.loss);
  check_task(loss, task);
  if (!(task.flags & AL_PER_STRUCTURE))
    return count_entries(task, loss.kind == AL_PER_ROW ? 1 : task.cols);
  return loss.kernels_for(task.dtype).weigh_structures(task);
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_count_samples(al_device*, int32_t count, const al_loss_task* tasks,
                           int64_t* counts) {
  if (count < 0) return al_fail(AL_INVALID_ARGUMENT, "%d tasks", count);
  return al_guard([&]() -> al_status {
    for (int32_t i = 0; i < count; ++i) counts[i] = count_task(tasks[i]);
    return AL_OK;
  });
}
