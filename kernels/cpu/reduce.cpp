/** The fused pass over any number of tasks: all their blocks in one loop. */
#include <limits>
#include <vector>

#include "cpu/device.h"
#include "cpu/loss_kernels.h"
#include "shared/loss_table.h"

namespace atomloss {
namespace {

void make_plan(const al_loss_task& task, Plan& plan) {
  plan.task = &task;
  // Of several groups each row has its own.
  plan.factor =
      factor_of(task.coefficient, task.groups ? nullptr : task.factors);
  const LossEntry& loss = loss_entry(task.loss);
  check_task(loss, task);
  loss.kernels_for(task.dtype).plan(plan);
}

/** The value of a task from its sum. */
double value_of(const Plan& plan, double sum) {
  const double value = sum * plan.factor;
  return plan.task->targets != AL_TARGETS_AS_THEY_ARE
             ? nan_to_num(value, plan.task->value_dtype == AL_FLOAT64
                                     ? std::numeric_limits<double>::max()
                                     : std::numeric_limits<float>::max())
             : value;
}

/** What there is to say of a task before its entries are looked at. */
Remarks first_remarks(const al_loss_task& task) {
  Remarks remarks;
  if (task.wrong) {
    remarks.natoms = task.wrong[0];
    remarks.groups = task.wrong[1];
  }
  return remarks;
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_loss_reduce(al_device* device, int32_t count,
                         const al_loss_task* tasks, al_loss_result* total) {
  AL_RECORD(device, al_loss_reduce, device, count, copies(tasks, count), total);
  if (count < 0) return al_fail(AL_INVALID_ARGUMENT, "%d tasks", count);
  return al_guard([&]() -> al_status {
    std::vector<Plan> plans(static_cast<size_t>(count));
    int64_t blocks = 0, elements = 0;
    for (int32_t i = 0; i < count; ++i) {
      make_plan(tasks[i], plans[i]);
      plans[i].first_block = blocks;
      blocks += plans[i].blocks();
      elements += plans[i].elements();
    }
    std::vector<Partial> partials(static_cast<size_t>(blocks));
    for_blocks(blocks, 1, elements, [&](int64_t, int64_t block, int64_t) {
      // The last task that begins at or before this block, and is not empty.
      const Plan* plan = &plans[count - 1];
      while (plan->first_block > block) --plan;
      const int64_t begin = (block - plan->first_block) * plan->block_items;
      const int64_t end = std::min(begin + plan->block_items, plan->items);
      partials[block] = plan->run(*plan, begin, end);
    });
    Partial all = {0, {}};
    for (const Plan& plan : plans) {
      Partial sum = {0, first_remarks(*plan.task)};
      for (int64_t i = 0; i < plan.blocks(); ++i) {
        const Partial& partial = partials[plan.first_block + i];
        sum.sum += partial.sum;
        sum.remarks += partial.remarks;
      }
      const double value = value_of(plan, sum.sum);
      write_result(plan.task->value_dtype, value, sum.remarks,
                   plan.task->result);
      all.sum += value;
      all.remarks += sum.remarks;
    }
    if (total) write_result(AL_FLOAT64, all.sum, all.remarks, total);
    return AL_OK;
  });
}
