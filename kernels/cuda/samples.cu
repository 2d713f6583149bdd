/** How many samples masked tasks have, and what their rows weigh. */
#include <algorithm>

#include "cuda/loss_kernels.cuh"

namespace atomloss {
namespace {

/** Blocks that one mask is given at most, per multiprocessor. */
constexpr int kMaskBlocks = 8;

/** Counts masks, as many together as a launch takes. */
class MaskCounter {
 public:
  explicit MaskCounter(al_device* device) : device_(device) {}

  void add(const al_loss_task& task, al_loss_kind kind,
           unsigned long long* count) {
    const int64_t entries = kind == AL_PER_ROW ? 1 : task.cols;
    const bool per_row = kind == AL_PER_ROW || task.flags & AL_MASK_PER_ROW;
    const int64_t n = per_row ? task.rows : task.rows * entries;
    table_.of[masks_++] = {task.mask, n, per_row ? entries : 1, count};
    if (task.mask) tiles_ = std::max(tiles_, divide_up(n, kThreads * 8));
    if (masks_ == kMasks) launch();
  }

  void launch() {
    if (masks_ == 0) return;
    const int64_t most = int64_t{device_->processors} * kMaskBlocks;
    const dim3 grid(static_cast<unsigned>(std::min(tiles_, most)),
                    static_cast<unsigned>(masks_));
    launch_kernel(count_masks, grid, kThreads, device_->compute, table_);
    masks_ = 0;
    tiles_ = 1;
  }

 private:
  al_device* device_;
  MaskTable table_ = {};
  int masks_ = 0;
  int64_t tiles_ = 1;
};

void launch_weigh(al_device* device, const al_loss_task& task,
                  const LossEntry& entry, unsigned long long* count) {
  const ScopedBlock scratch(
      device, (task.structures + 1) * static_cast<int64_t>(sizeof(int64_t)));
  auto* const offsets = static_cast<int64_t*>(scratch.memory());
  launch_kernel(structure_offsets, 1, kThreads, device->compute, task, offsets);
  entry.kernels_for(task.dtype).weigh_structures(device, task, offsets, count);
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_count_samples(al_device* device, int32_t count,
                           const al_loss_task* tasks, int64_t* counts) {
  if (count < 0) return al_fail(AL_INVALID_ARGUMENT, "%d tasks", count);
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    AL_CHECK(cudaMemsetAsync(counts, 0,
                             static_cast<size_t>(count) * sizeof *counts,
                             device->compute));
    MaskCounter masks(device);
    for (int32_t i = 0; i < count; ++i) {
      const al_loss_task& task = tasks[i];
      const LossEntry& entry = loss_entry(task.loss);
      check_task(entry, task);
      auto* const to = reinterpret_cast<unsigned long long*>(&counts[i]);
      if (task.flags & AL_PER_STRUCTURE)
        launch_weigh(device, task, entry, to);
      else
        masks.add(task, entry.kind, to);
    }
    masks.launch();
    return AL_OK;
  });
}
