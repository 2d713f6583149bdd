/** How many samples masked tasks have, and what their rows weigh. */
#include "cuda/loss_kernels.cuh"

namespace atomloss {
namespace {

void launch_count(al_device* device, const al_loss_task& task,
                  al_loss_kind kind, unsigned long long* count) {
  const int64_t per_row = kind == AL_PER_ROW ? 1 : task.cols;
  const bool one_per_row = kind == AL_PER_ROW || task.flags & AL_MASK_PER_ROW;
  const MaskToCount of = {task.mask,
                          one_per_row ? task.rows : task.rows * task.cols,
                          one_per_row ? per_row : 1};
  const int64_t tiles = task.mask ? divide_up(of.n, kThreads * 8) : 1;
  count_mask<<<device->grid(tiles), kThreads, 0, device->compute>>>(of, count);
  AL_CHECK(cudaGetLastError());
}

void launch_weigh(al_device* device, const al_loss_task& task,
                  const LossEntry& entry, unsigned long long* count) {
  const ScopedBlock scratch(
      device, (task.structures + 1) * static_cast<int64_t>(sizeof(int64_t)));
  auto* const offsets = static_cast<int64_t*>(scratch.memory());
  structure_offsets<<<1, kThreads, 0, device->compute>>>(task, offsets);
  AL_CHECK(cudaGetLastError());
  entry.kernels_for(task.dtype).weigh_structures(device, task, offsets, count);
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_count_samples(al_device* device, int32_t count,
                           const al_loss_task* tasks, int64_t* counts) {
  if (count < 0) return al_fail(AL_INVALID_ARGUMENT, "%d tasks", count);
  return al_guard([&]() -> al_status {
    device->use();
    AL_CHECK(cudaMemsetAsync(counts, 0,
                             static_cast<size_t>(count) * sizeof *counts,
                             device->compute));
    for (int32_t i = 0; i < count; ++i) {
      const al_loss_task& task = tasks[i];
      const LossEntry& entry = loss_entry(task.loss);
      check_task(entry, task);
      auto* const to = reinterpret_cast<unsigned long long*>(&counts[i]);
      if (task.flags & AL_PER_STRUCTURE)
        launch_weigh(device, task, entry, to);
      else
        launch_count(device, task, entry.kind, to);
    }
    return AL_OK;
  });
}
