/** What must be known of tasks before their losses can be reduced. */
#include <algorithm>
#include <vector>

#include "cuda/loss_kernels.cuh"

namespace atomloss {
namespace {

/** Blocks that one task is given at most, per multiprocessor. */
constexpr int kTaskBlocks = 8;

bool weighs(const al_loss_task& task) {
  return task.samples == AL_STRUCTURES ||
         task.samples == AL_STRUCTURES_WITH_LOSS;
}

bool spreads(const al_loss_task& task) {
  return task.weights.by_row || task.scale.by_row;
}

/** Launches over tasks, as many together as a kernel takes. */
template <class Wanted, class Launch>
void for_tables(const std::vector<TaskToCount>& tasks, const Wanted& wanted,
                const Launch& launch) {
  CountTable table = {};
  for (const TaskToCount& of : tasks) {
    if (!wanted(of.task)) continue;
    table.of[table.count++] = of;
    if (table.count == kCountTasks) {
      launch(table);
      table.count = 0;
    }
  }
  if (table.count > 0) launch(table);
}

/** A row of blocks for each task, as many as the largest has use for. */
dim3 grid_of(const al_device* device, const CountTable& table) {
  int64_t tiles = 1;
  for (int i = 0; i < table.count; ++i) {
    const al_loss_task& task = table.of[i].task;
    tiles = std::max(tiles, divide_up(task.rows * task.cols, kThreads * 8));
  }
  // All blocks of the launch have a slot of the scratch memory.
  const int64_t most =
      std::min<int64_t>(int64_t{device->processors} * kTaskBlocks,
                        device->grid(INT32_MAX) / table.count);
  return dim3(
      static_cast<unsigned>(std::max<int64_t>(1, std::min(tiles, most))),
      static_cast<unsigned>(table.count));
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_count_samples(al_device* device, int32_t count,
                           const al_loss_task* tasks, double* counts) {
  AL_RECORD(device, al_count_samples, device, count, copies(tasks, count),
            counts);
  if (count < 0 || count > kMaxTasks)
    return al_fail(AL_INVALID_ARGUMENT, "%d tasks, expected at most %d", count,
                   kMaxTasks);
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    std::vector<TaskToCount> list;
    int64_t offsets = 0, groups = 0;
    for (int32_t i = 0; i < count; ++i) {
      const LossEntry& entry = loss_entry(tasks[i].loss);
      check_task(entry, tasks[i]);
      entry.kernels_for(tasks[i].dtype);
      list.push_back({tasks[i], entry.shape.kind, counts + groups, nullptr});
      groups += tasks[i].group_count;
      if (weighs(tasks[i]) || spreads(tasks[i]))
        offsets += tasks[i].structures + 1;
    }
    AL_CHECK(cudaMemsetAsync(counts, 0,
                             static_cast<size_t>(groups) * sizeof *counts,
                             device->compute));
    ScopedBlock scratch;
    if (offsets > 0)
      scratch =
          ScopedBlock(device, offsets * static_cast<int64_t>(sizeof(int64_t)));
    auto* next = static_cast<int64_t*>(scratch.memory());
    for (TaskToCount& of : list) {
      if (!weighs(of.task) && !spreads(of.task)) continue;
      of.offsets = next;
      next += of.task.structures + 1;
    }
    for_tables(
        list, [](const al_loss_task& task) { return task.wrong != nullptr; },
        [&](const CountTable& table) {
          launch_kernel(structure_offsets, static_cast<unsigned>(table.count),
                        kThreads, device->compute, table);
        });
    for_tables(list, spreads, [&](const CountTable& table) {
      launch_kernel(spread_structures, grid_of(device, table), kThreads,
                    device->compute, table);
    });
    for (const TaskToCount& of : list)
      if (weighs(of.task))
        loss_entry(of.task.loss)
            .kernels_for(of.task.dtype)
            .weigh_structures(device, of.task, of.offsets, of.counts);
    for_tables(
        list, [](const al_loss_task& task) { return !weighs(task); },
        [&](const CountTable& table) {
          launch_kernel(count_entries, grid_of(device, table), kThreads,
                        device->compute, table, device->scratch);
        });
    return AL_OK;
  });
}
