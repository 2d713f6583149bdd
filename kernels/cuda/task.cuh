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

#include "dispatch.h"
#include "loss_ops.h"
#include "scratch.cuh"
#include "structures.h"

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

  /** Row of an element. */
  __device__ __forceinline__ int64_t row_of(int64_t element) const {
    return cols == 1 ? element : element / cols;
  }

  /** Atoms of a row, where the loss reads them; otherwise 1. */
  template <class Loss>
  __device__ __forceinline__ T natoms_at(int64_t element) const {
    if constexpr (!Loss::uses_natoms) return T(1);
    const int64_t row = row_of(element);
    return task.natoms_dtype == AL_INT64
               ? static_cast<T>(static_cast<const int64_t*>(task.natoms)[row])
               : static_cast<T>(static_cast<const int32_t*>(task.natoms)[row]);
  }

  /** target, or 0 where it is not finite and the task says so. */
  __device__ __forceinline__ T read_target(S stored) const {
    const T t = load(stored);
    const bool zero =
        task.flags & AL_ZERO_NONFINITE && !is_finite(t, Dtype<S>::largest);
    return zero ? T(0) : t;
  }

  /** Weight of a row: 0 where its mask is 0. */
  __device__ __forceinline__ T row_weight(int64_t row) const {
    if (task.mask && task.flags & AL_MASK_PER_ROW && !task.mask[row]) return 0;
    return task.row_weights ? static_cast<const T*>(task.row_weights)[row]
                            : T(1);
  }

  /** The same for an element, where the mask may have an entry for each. */
  __device__ __forceinline__ T element_weight(int64_t element) const {
    const bool per_row = task.flags & AL_MASK_PER_ROW;
    if (task.mask && !per_row && !task.mask[element]) return 0;
    if (!per_row && !task.row_weights) return 1;
    return row_weight(row_of(element));
  }
};

/** 1 / n to some 20 bits. */
__device__ __forceinline__ double approximate_reciprocal(double n) {
#ifdef __CUDACC__
  double r;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(r) : "d"(n));
  return r;
#else  // tests/cuda_emulation
  return 1.0f / static_cast<float>(n);
#endif
}

/**
 * scale, or scale / *normalizer. By Newton's iteration from the hardware's
 * approximation: the compiler's division of doubles is a call, around which
 * the kernels would spill registers.
 */
__device__ __forceinline__ double factor_of(const al_loss_task& task) {
  if (task.normalizer == nullptr) return task.scale;
  const double n = *task.normalizer;
  double r = approximate_reciprocal(n);
  for (int i = 0; i < 3; ++i) r = fma(r, fma(-n, r, 1.0), r);
  if (n == 0) r = INFINITY;  // of which the iteration makes NaN
  return task.scale * r;
}

/* ---- sum -----------------------------------------------------------------*/

struct AddPartials {
  __device__ __forceinline__ Partial operator()(const Partial& a,
                                                const Partial& b) const {
    return {a.sum + b.sum, a.nonfinite + b.nonfinite};
  }
};

__device__ __forceinline__ void write_result(bool as_double, Partial value,
                                             al_loss_result* result) {
  result->value = 0;
  if (as_double)
    result->value = value.sum;
  else
    *reinterpret_cast<float*>(&result->value) = static_cast<float>(value.sum);
  result->nonfinite = value.nonfinite;
}

/** Stores and loads past the cache of this multiprocessor: others look there.
 */
__device__ __forceinline__ void publish(Partial* slot, const Partial& value) {
  __stcg(&slot->sum, value.sum);
  __stcg(&slot->nonfinite, value.nonfinite);
}
__device__ __forceinline__ Partial published(const Partial* slot) {
  return {__ldcg(&slot->sum), __ldcg(&slot->nonfinite)};
}

/**
 * Adds the threads' partial sums of all blocks of a task and writes its result;
 * with the last task, the total. To be called by every thread of the blocks,
 * once, at the end of the kernel.
 */
__device__ __forceinline__ void finish_task(Partial mine,
                                            const al_loss_task& task,
                                            const Share& share,
                                            const Scratch& scratch,
                                            const Total& total) {
  using Reduce = cub::BlockReduce<Partial, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ bool is_last;

  Partial* const slots = scratch.partials + share.first_block;
  const Partial block = Reduce(storage).Reduce(mine, AddPartials());
  if (threadIdx.x == 0) {
    publish(&slots[share.block()], block);
    __threadfence();
    // Wraps to 0 with the last block: ready for the next launch.
    const auto last = static_cast<unsigned>(share.blocks - 1);
    is_last = atomicInc(&scratch.tickets[share.task], last) == last;
  }
  __syncthreads();
  if (!is_last) return;

  __threadfence();
  Partial sum = {0, 0};
  for (int i = static_cast<int>(threadIdx.x); i < share.blocks; i += kThreads)
    sum = AddPartials()(sum, published(&slots[i]));
  Partial value = Reduce(storage).Reduce(sum, AddPartials());
  if (threadIdx.x != 0) return;
  value.sum *= factor_of(task);
  value.nonfinite += natoms_verdict(task);
  const bool as_double = task.value_dtype == AL_FLOAT64;
  if (task.flags & AL_ZERO_NONFINITE)
    value.sum = nan_to_num(value.sum,
                           as_double ? DBL_MAX : static_cast<double>(FLT_MAX));
  write_result(as_double, value, task.result);
  // Also for a later launch, which begins when this one is done.
  publish(&scratch.values[share.task], value);
  if (total.result == nullptr) return;

  __threadfence();
  const auto last = static_cast<unsigned>(total.together - 1);
  if (atomicInc(&scratch.tickets[kMaxTasks], last) != last) return;
  __threadfence();
  Partial all = {0, 0};
  for (int i = 0; i < total.tasks; ++i)
    all = AddPartials()(all, published(&scratch.values[i]));
  write_result(true, all, total.result);
}

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_TASK_CUH */
