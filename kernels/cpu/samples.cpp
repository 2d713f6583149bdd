/**
 * What must be known of tasks, over all replicas, before their losses can be
 * reduced: how many samples they have, or what their entries weigh together.
 */
#include "cpu/device.h"
#include "cpu/loss_kernels.h"
#include "shared/loss_table.h"

using namespace atomloss;

al_status al_count_samples(al_device* device, int32_t count,
                           const al_loss_task* tasks, double* counts) {
  AL_RECORD(device, al_count_samples, device, count, copies(tasks, count),
            counts);
  if (count < 0) return al_fail(AL_INVALID_ARGUMENT, "%d tasks", count);
  return al_guard([&]() -> al_status {
    for (int32_t i = 0; i < count; ++i) {
      const al_loss_task& task = tasks[i];
      const LossEntry& loss = loss_entry(task.loss);
      check_task(loss, task);
      loss.kernels_for(task.dtype).count(task, counts);
      counts += task.group_count;
    }
    return AL_OK;
  });
}
