/** The losses of the ABI: which kernels a call launches, and with what grid. */
#include <algorithm>
#include <cstring>
#include <mutex>

#include "cuda/loss_kernels.cuh"

namespace atomloss {
namespace {

std::mutex multi_mutex;
const MultiReduce* multi = nullptr; /* NULL: the one of this library */

const MultiReduce& current_multi_reduce() {
  std::lock_guard<std::mutex> lock(multi_mutex);
  return multi ? *multi : builtin_multi_reduce();
}

/** The entry of a task's loss; the task has been checked against it. */
const LossEntry& checked_entry(const al_loss_task& task) {
  const LossEntry& entry = loss_entry(task.loss);
  check_task(entry, task);
  entry.kernels_for(task.dtype);
  return entry;
}

int element_bytes(int32_t dtype) {
  return dtype == AL_FLOAT64 ? 8 : dtype == AL_FLOAT32 ? 4 : 2;
}

/** Whether this launch knows a loss under its number. */
bool knows(const MultiReduce& launch, int32_t loss) {
  return static_cast<size_t>(loss) < launch.names.size() &&
         strcmp(launch.names[loss], loss_entry(loss).name) == 0;
}

/**
 * Shares the grid out by work: as many blocks as a task has tiles, or its part
 * of the most that the device is given.
 */
void share_grid(const al_device* device, TaskTable& table) {
  int64_t tiles[kLaunchTasks];
  int64_t all = 0;
  for (int i = 0; i < table.count; ++i) {
    const al_loss_task& task = table.tasks[i];
    const Work work =
        work_of(task, loss_entry(task.loss).shape, element_bytes(task.dtype));
    table.body[i] = work.body;
    tiles[i] = std::max<int64_t>(work.tiles, 1);
    all += tiles[i];
  }
  const int64_t most = device->grid(all);
  table.first_block[0] = 0;
  for (int i = 0; i < table.count; ++i) {
    const double part = static_cast<double>(tiles[i]) /
                        static_cast<double>(all) * static_cast<double>(most);
    const int blocks = most == all ? static_cast<int>(tiles[i])
                                   : std::max(1, static_cast<int>(part));
    table.first_block[i + 1] = table.first_block[i] + blocks;
  }
}

void reduce_together(al_device* device, const MultiReduce& launch,
                     int32_t count, const al_loss_task* tasks,
                     al_loss_result* total) {
  for (int32_t first = 0; first < count; first += kLaunchTasks) {
    TaskTable table = {};
    table.count = std::min<int32_t>(kLaunchTasks, count - first);
    table.first_task = first;
    std::copy(tasks + first, tasks + first + table.count, table.tasks);
    share_grid(device, table);
    const bool is_last = first + table.count == count;
    launch.launch(device, table,
                  {is_last ? total : nullptr, count, table.count});
  }
}

}  // namespace

void use_multi_reduce(const MultiReduce& launch) {
  std::lock_guard<std::mutex> lock(multi_mutex);
  multi = &launch;
}

}  // namespace atomloss

using namespace atomloss;

namespace {

/** The arguments that forward and backward begin with. */
al_loss_task make_task(int32_t loss, int32_t dtype, const void* pred,
                       const void* target, const void* natoms,
                       int32_t natoms_dtype, int64_t rows, int64_t cols,
                       const double* parameters, void* grad) {
  al_loss_task task = {};
  task.pred = pred;
  task.target = target;
  task.natoms = natoms;
  task.natoms_dtype = natoms_dtype;
  task.grad = grad;
  task.rows = rows;
  task.cols = cols;
  task.loss = loss;
  task.dtype = dtype;
  task.group_count = 1;
  std::copy(parameters, parameters + AL_MAX_PARAMETERS, task.parameters);
  return task;
}

}  // namespace

al_status al_loss_forward(al_device* device, int32_t loss, int32_t dtype,
                          const void* pred, const void* target,
                          const void* natoms, int32_t natoms_dtype,
                          int64_t rows, int64_t cols, const double* parameters,
                          void* out) {
  AL_RECORD(device, al_loss_forward, device, loss, dtype, pred, target, natoms,
            natoms_dtype, rows, cols, copies(parameters, AL_MAX_PARAMETERS),
            out);
  return al_guard([&]() -> al_status {
    const al_loss_task task =
        make_task(loss, dtype, pred, target, natoms, natoms_dtype, rows, cols,
                  parameters, nullptr);
    const LossEntry& entry = checked_entry(task);
    const CurrentDevice current(device->ordinal);
    entry.kernels_for(dtype).forward(device, task, out);
    return AL_OK;
  });
}

al_status al_loss_backward(al_device* device, int32_t loss, int32_t dtype,
                           const void* pred, const void* target,
                           const void* natoms, int32_t natoms_dtype,
                           int64_t rows, int64_t cols, const double* parameters,
                           const void* grad_output, void* grad) {
  AL_RECORD(device, al_loss_backward, device, loss, dtype, pred, target, natoms,
            natoms_dtype, rows, cols, copies(parameters, AL_MAX_PARAMETERS),
            grad_output, grad);
  return al_guard([&]() -> al_status {
    const al_loss_task task =
        make_task(loss, dtype, pred, target, natoms, natoms_dtype, rows, cols,
                  parameters, grad);
    const LossEntry& entry = checked_entry(task);
    const CurrentDevice current(device->ordinal);
    entry.kernels_for(dtype).backward(device, task, grad_output);
    return AL_OK;
  });
}

al_status al_loss_reduce(al_device* device, int32_t count,
                         const al_loss_task* tasks, al_loss_result* total) {
  AL_RECORD(device, al_loss_reduce, device, count, copies(tasks, count), total);
  if (count < 0 || count > kMaxTasks)
    return al_fail(AL_INVALID_ARGUMENT, "%d tasks, expected at most %d", count,
                   kMaxTasks);
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    if (count == 0) {
      if (total)
        AL_CHECK(cudaMemsetAsync(total, 0, sizeof *total, device->compute));
      return AL_OK;
    }
    const MultiReduce& launch = current_multi_reduce();
    bool together = count > 1;
    for (int32_t i = 0; i < count; ++i) {
      checked_entry(tasks[i]);
      together &= knows(launch, tasks[i].loss);
    }
    if (together) {
      reduce_together(device, launch, count, tasks, total);
      return AL_OK;
    }
    // One task, or a loss that no launch knows: a worker of this process may
    // have defined others under the same numbers.
    for (int32_t i = 0; i < count; ++i)
      loss_entry(tasks[i].loss)
          .kernels_for(tasks[i].dtype)
          .reduce(device, tasks[i], i,
                  {i == count - 1 ? total : nullptr, count, 1});
    return AL_OK;
  });
}
