/** cub::BlockScan in the plainest way, as far as the kernels use it. */
#ifndef CUDA_PLATFORM_CUB_BLOCK_SCAN_CUH
#define CUDA_PLATFORM_CUB_BLOCK_SCAN_CUH

#include <cuda_runtime.h>

namespace cub {

template <class T, int kThreads>
class BlockScan {
 public:
  struct TempStorage {
    T values[kThreads];
  };

  __device__ explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  /** No barrier behind it, as in CUB: see BlockReduce. */
  template <class Op>
  __device__ void ExclusiveScan(T mine, T& before, T initial, Op op, T& all) {
    storage_.values[threadIdx.x] = mine;
    __syncthreads();
    before = initial;
    for (unsigned i = 0; i < threadIdx.x; ++i)
      before = op(before, storage_.values[i]);
    // As in CUB, the total is that of the inputs: without the initial value.
    all = storage_.values[0];
    for (unsigned i = 1; i < kThreads; ++i) all = op(all, storage_.values[i]);
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub

#endif /* CUDA_PLATFORM_CUB_BLOCK_SCAN_CUH */
