/**
 * Any tasks in one launch, their losses and dtypes told apart where they run.
 * To be included where AL_REDUCE_LOSSES(X) lists the losses, in the order of
 * their numbers: the table of kernels/shared/loss_table.h may have more.
 */
#ifndef ATOMLOSS_CUDA_REDUCE_TASKS_CUH
#define ATOMLOSS_CUDA_REDUCE_TASKS_CUH

#include "cuda/loss_kernels.cuh"

namespace atomloss {
namespace {

template <class S>
__device__ __forceinline__ double run_task(Body body, const al_loss_task& task,
                                           const Share& share, void* shared,
                                           Told& told) {
  int number = 0;
#define AL_CASE(Loss)        \
  if (task.loss == number++) \
    return run_body<Loss, S>(body, task, share, shared, told);
  AL_REDUCE_LOSSES(AL_CASE)
#undef AL_CASE
  return 0;
}

/** Tasks of one dtype: no more registers or shared memory than it needs. */
template <class S>
__global__ __launch_bounds__(kThreads, kMinBlocks) void reduce_tasks(
    const __grid_constant__ TaskTable table, Scratch scratch, Total total) {
  alignas(kPackBytes) __shared__ char shared[kSharedBytes<S>];
  int i;
  const Share share = share_of(table, i);
  const al_loss_task& task = table.tasks[i];
  Told told;
  const double mine = run_task<S>(table.body[i], task, share, shared, told);
  finish_task(mine, told, task, share, scratch, total);
}

/** Tasks of several dtypes. */
__global__ __launch_bounds__(kThreads, kMinBlocks) void reduce_mixed_tasks(
    const __grid_constant__ TaskTable table, Scratch scratch, Total total) {
  // Of the widest packs, those of 2-byte elements.
  alignas(kPackBytes) __shared__ char shared[kSharedBytes<float16>];
  int i;
  const Share share = share_of(table, i);
  const al_loss_task& task = table.tasks[i];
  const Body body = table.body[i];
  Told told;
  double mine = 0;
  if (task.dtype == AL_FLOAT32)
    mine = run_task<float>(body, task, share, shared, told);
  else if (task.dtype == AL_FLOAT64)
    mine = run_task<double>(body, task, share, shared, told);
  else if (task.dtype == AL_FLOAT16)
    mine = run_task<float16>(body, task, share, shared, told);
  else
    mine = run_task<bfloat16>(body, task, share, shared, told);
  finish_task(mine, told, task, share, scratch, total);
}

#ifdef __CUDACC__
void launch_tasks(al_device* device, const TaskTable& table,
                  const Total& total) {
  const int grid = table.first_block[table.count];
  bool mixed = false;
  for (int i = 1; i < table.count; ++i)
    mixed |= table.tasks[i].dtype != table.tasks[0].dtype;
  if (mixed) {
    launch_kernel(reduce_mixed_tasks, grid, kThreads, device->compute, table,
                  device->scratch, total);
  } else {
    with_float_type(table.tasks[0].dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      launch_kernel(reduce_tasks<S>, grid, kThreads, device->compute, table,
                    device->scratch, total);
      return static_cast<al_status>(AL_OK);
    });
  }
}

const MultiReduce multi_reduce = {launch_tasks,
                                  {
#define AL_NAME(Loss) Loss::name,
                                      AL_REDUCE_LOSSES(AL_NAME)
#undef AL_NAME
                                  }};
#endif

}  // namespace
}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_REDUCE_TASKS_CUH */
