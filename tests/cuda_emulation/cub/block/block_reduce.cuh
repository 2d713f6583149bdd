/** cub::BlockReduce in the plainest way. */
#ifndef CUDA_EMULATION_BLOCK_REDUCE_CUH
#define CUDA_EMULATION_BLOCK_REDUCE_CUH

#include "cuda_emulation.h"

namespace cub {

template <class T, int kThreads>
class BlockReduce {
 public:
  struct TempStorage {
    T values[kThreads];
  };

  explicit BlockReduce(TempStorage& storage) : storage_(storage) {}

  /** The result is valid in thread 0. */
  template <class Op>
  T Reduce(T mine, Op op) {
    storage_.values[threadIdx.x] = mine;
    __syncthreads();
    T total = mine;
    if (threadIdx.x == 0)
      for (int i = 1; i < kThreads; ++i) total = op(total, storage_.values[i]);
    return total;
  }
  T Sum(T mine) {
    return Reduce(mine, [](T a, T b) { return a + b; });
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub

#endif /* CUDA_EMULATION_BLOCK_REDUCE_CUH */
