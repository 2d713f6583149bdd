/** cub::BlockReduce in the plainest way, as far as the kernels use it. */
#ifndef CUDA_PLATFORM_CUB_BLOCK_REDUCE_CUH
#define CUDA_PLATFORM_CUB_BLOCK_REDUCE_CUH

#include <cuda_runtime.h>

namespace cub {

template <class T, int kThreads>
class BlockReduce {
 public:
  struct TempStorage {
    T values[kThreads];
  };

  __device__ explicit BlockReduce(TempStorage& storage) : storage_(storage) {}

  /**
   * The sum is valid in thread 0 only. No barrier behind it, as in CUB: whoever
   * uses the storage again needs one, or other threads write over what thread 0
   * still reads.
   */
  template <class Op>
  __device__ T Reduce(T mine, Op op) {
    storage_.values[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return mine;
    T total = mine;
    for (int i = 1; i < kThreads; ++i) total = op(total, storage_.values[i]);
    return total;
  }

  __device__ T Sum(T mine) {
    return Reduce(mine, [](const T& a, const T& b) { return a + b; });
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub

#endif /* CUDA_PLATFORM_CUB_BLOCK_REDUCE_CUH */
