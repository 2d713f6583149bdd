/**
 * A task of the fused pass as its kernels see it, and how its sum ends: each
 * block leaves a partial sum, the last one of the task adds them, in the order
 * of the blocks. No atomics on floating point: which block is last does not
 * change a bit of the result.
 */
#ifndef ATOMLOSS_CUDA_TASK_CUH
#define ATOMLOSS_CUDA_TASK_CUH

#include <cfloat>
#include <cub/block/block_reduce.cuh>

#include "scratch.cuh"
#include "shared/dispatch.h"
#include "shared/one_entry.h"

namespace atomloss {

/** Threads of a block of every reduction. */
constexpr int kThreads = 256;

/**
 * Blocks that a multiprocessor must be able to hold. Said so that ptxas takes
 * the registers it needs: left to itself it spills in order to fit more.
 */
constexpr int kMinBlocks = 2;

/**
 * Where the sum over the tasks of a call goes: with its last launch. A launch
 * counts its own tasks only, so that one that fails leaves nothing behind.
 */
struct Total {
  al_loss_result* result; /* NULL: not wanted, or not yet */
  int tasks;
  int together; /* of them in this launch */
};

/** The part of the grid that works on a task. */
struct Share {
  int task;        /* its number */
  int first_block; /* in the grid */
  int blocks;

  __device__ __forceinline__ int block() const {
    return static_cast<int>(blockIdx.x) - first_block;
  }
};

/* ---- input ---------------------------------------------------------------*/

/** The arrays of a task with their type. */
template <class S>
struct TaskView {
  using T = compute_t<S>;
  const S* pred;
  const S* target;
  S* grad; /* NULL: not wanted */
  int64_t rows;
  int64_t cols;
  const al_loss_task& task;

  __device__ __forceinline__ explicit TaskView(const al_loss_task& from)
      : pred(static_cast<const S*>(from.pred)),
        target(static_cast<const S*>(from.target)),
        grad(static_cast<S*>(from.grad)),
        rows(from.rows),
        cols(from.cols),
        task(from) {}

  __device__ __forceinline__ int64_t elements() const { return rows * cols; }

  /** Row of an element: most are so few that a division of 32 bits will do. */
  __device__ __forceinline__ int64_t row_of(int64_t element) const {
    if (cols == 1) return element;
    if ((element | cols) >> 32 == 0)
      return static_cast<uint32_t>(element) / static_cast<uint32_t>(cols);
    return element / cols;
  }

  /** target, or 0 where it is not finite and the task says so. */
  __device__ __forceinline__ T read_target(S stored) const {
    return Entries<S>{task}.target(stored);
  }
};

/** What the sum of a task is multiplied by; of groups each row has its own. */
__device__ __forceinline__ double factor_of(const al_loss_task& task) {
  return task.factors && !task.groups ? task.coefficient * *task.factors
                                      : task.coefficient;
}

/* ---- sum -----------------------------------------------------------------*/

__device__ __forceinline__ void write_value(bool as_double, double value,
                                            al_loss_result* result) {
  result->value = 0;
  if (as_double)
    result->value = value;
  else
    *reinterpret_cast<float*>(&result->value) = static_cast<float>(value);
}

/** Stores and loads past the cache of this multiprocessor: others look there.
 */
__device__ __forceinline__ void publish(al_loss_result* to,
                                        const al_loss_result& from) {
  __stcg(&to->value, from.value);
  __stcg(&to->inputs, from.inputs);
  __stcg(&to->targets, from.targets);
  __stcg(&to->factors, from.factors);
  __stcg(&to->natoms, from.natoms);
  __stcg(&to->groups, from.groups);
}

/** Adds what a thread has to say to what is said of its task: seldom anything.
 */
__device__ __forceinline__ void tell(const Told& told,
                                     unsigned long long* of_task) {
  if ((told.inputs | told.targets | told.factors | told.natoms) == 0) return;
  if (told.inputs) atomicAdd(&of_task[0], 1ull * told.inputs);
  if (told.targets) atomicAdd(&of_task[1], 1ull * told.targets);
  if (told.factors) atomicAdd(&of_task[2], 1ull * told.factors);
  if (told.natoms) atomicAdd(&of_task[3], 1ull * told.natoms);
  __threadfence();
}

/** Takes what was said, and leaves nothing for the next launch. */
__device__ __forceinline__ int64_t take(unsigned long long* said) {
  return static_cast<int64_t>(atomicExch(said, 0ull));
}

/**
 * Adds the threads' sums of all blocks of a task and writes its result; with
 * the last task, the total. To be called by every thread of the blocks, once,
 * at the end of the kernel.
 */
__device__ __forceinline__ void finish_task(double mine, const Told& told,
                                            const al_loss_task& task,
                                            const Share& share,
                                            const Scratch& scratch,
                                            const Total& total) {
  using Reduce = cub::BlockReduce<double, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ bool is_last;

  unsigned long long* const said = scratch.told + share.task * kTold;
  tell(told, said);
  double sum = Reduce(storage).Sum(mine);
  if (share.blocks > 1) {
    double* const slots = scratch.partials + share.first_block;
    if (threadIdx.x == 0) {
      __stcg(&slots[share.block()], sum);
      __threadfence();
      // Wraps to 0 with the last block: ready for the next launch.
      const auto last = static_cast<unsigned>(share.blocks - 1);
      is_last = atomicInc(&scratch.tickets[share.task], last) == last;
    }
    __syncthreads();
    if (!is_last) return;

    __threadfence();
    double others = 0;
    // Not unrolled: the loads in flight would take the registers of all.
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < share.blocks; i += kThreads)
      others += __ldcg(&slots[i]);
    sum = Reduce(storage).Sum(others);
  }
  if (threadIdx.x != 0) return;
  const bool as_double = task.value_dtype == AL_FLOAT64;
  double value = sum * factor_of(task);
  if (task.targets != AL_TARGETS_AS_THEY_ARE)
    value =
        nan_to_num(value, as_double ? DBL_MAX : static_cast<double>(FLT_MAX));
  al_loss_result result = {value,          take(&said[0]), take(&said[1]),
                           take(&said[2]), take(&said[3]), 0};
  if (task.wrong) {
    result.natoms += task.wrong[0];
    result.groups += task.wrong[1];
  }
  *task.result = result;
  write_value(as_double, value, task.result);
  if (total.tasks == 0) return;

  // Also for a later launch, which begins when this one is done.
  publish(&scratch.values[share.task], result);
  if (total.result == nullptr) return;
  __threadfence();
  const auto last = static_cast<unsigned>(total.together - 1);
  if (atomicInc(&scratch.tickets[kMaxTasks], last) != last) return;
  __threadfence();
  al_loss_result all = {};
#pragma unroll 1
  for (int i = 0; i < total.tasks; ++i) {
    const al_loss_result* one = &scratch.values[i];
    all.value += __ldcg(&one->value);
    all.inputs += __ldcg(&one->inputs);
    all.targets += __ldcg(&one->targets);
    all.factors += __ldcg(&one->factors);
    all.natoms += __ldcg(&one->natoms);
    all.groups += __ldcg(&one->groups);
  }
  *total.result = all;
}

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_TASK_CUH */
