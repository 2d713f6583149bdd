/**
 * How a reduction over the whole grid ends: each block leaves a partial sum,
 * the last one to finish adds them, in the order of the blocks. No atomics on
 * floating point: which block is last does not change a bit of the result.
 */
#ifndef ATOMLOSS_CUDA_BLOCK_SUM_CUH
#define ATOMLOSS_CUDA_BLOCK_SUM_CUH

#include <cub/block/block_reduce.cuh>

#include "atomloss.h"

namespace atomloss {

/** What a block leaves for the last one. */
struct Partial {
  double sum;
  long long nonfinite;
};

/** Threads of a block of every reduction. */
constexpr int kThreads = 256;

/**
 * Blocks that a multiprocessor must be able to hold. Said so that ptxas takes
 * the registers it needs: left to itself it spills in order to fit more.
 */
constexpr int kMinBlocks = 2;

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

/** Where the result goes, and what it is multiplied by. */
struct Output {
  al_loss_result* result;
  Partial* partials;
  unsigned* ticket;
  double scale;
  const double* normalizer;
  bool value_64; /* value as double; otherwise as float */

  /**
   * scale, or scale / *normalizer. By Newton's iteration from the hardware's
   * approximation: the compiler's division of doubles is a call, around which
   * the kernels would spill registers. A normalizer of 0 gives NaN.
   */
  __device__ __forceinline__ double factor() const {
    if (normalizer == nullptr) return scale;
    const double n = *normalizer;
    double r = approximate_reciprocal(n);
    for (int i = 0; i < 3; ++i) r = fma(r, fma(-n, r, 1.0), r);
    return scale * r;
  }
};

struct AddPartials {
  __device__ __forceinline__ Partial operator()(const Partial& a,
                                                const Partial& b) const {
    return {a.sum + b.sum, a.nonfinite + b.nonfinite};
  }
};

/**
 * Adds the threads' partial sums of all blocks and writes the result. To be
 * called by every thread of the grid, once, at the end of the kernel.
 */
__device__ __forceinline__ void finish_sum(Partial mine, const Output& out) {
  using Reduce = cub::BlockReduce<Partial, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ bool is_last;

  const Partial block = Reduce(storage).Reduce(mine, AddPartials());
  if (threadIdx.x == 0) {
    // .cg: to where the last block, on another multiprocessor, will look.
    __stcg(&out.partials[blockIdx.x].sum, block.sum);
    __stcg(&out.partials[blockIdx.x].nonfinite, block.nonfinite);
    __threadfence();
    // Wraps to 0 with the last block: ready for the next launch.
    is_last = atomicInc(out.ticket, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;

  __threadfence();
  Partial sum = {0, 0};
  for (unsigned i = threadIdx.x; i < gridDim.x; i += kThreads) {
    sum.sum += __ldcg(&out.partials[i].sum);
    sum.nonfinite += __ldcg(&out.partials[i].nonfinite);
  }
  const Partial total = Reduce(storage).Reduce(sum, AddPartials());
  if (threadIdx.x != 0) return;
  const double value = total.sum * out.factor();
  out.result->value = 0;
  if (out.value_64)
    out.result->value = value;
  else
    *reinterpret_cast<float*>(&out.result->value) = static_cast<float>(value);
  out.result->nonfinite = total.nonfinite;
}

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_BLOCK_SUM_CUH */
