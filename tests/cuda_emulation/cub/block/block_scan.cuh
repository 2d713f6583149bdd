/** cub::BlockScan in the plainest way. */
#ifndef CUDA_EMULATION_BLOCK_SCAN_CUH
#define CUDA_EMULATION_BLOCK_SCAN_CUH

#include "cuda_emulation.h"

namespace cub {

template <class T, int kThreads>
class BlockScan {
 public:
  struct TempStorage {
    T values[kThreads];
  };

  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  template <class Op>
  void ExclusiveScan(T mine, T& before, T initial, Op op, T& all) {
    storage_.values[threadIdx.x] = mine;
    __syncthreads();
    before = initial;
    for (unsigned i = 0; i < threadIdx.x; ++i)
      before = op(before, storage_.values[i]);
    all = before;
    for (unsigned i = threadIdx.x; i < kThreads; ++i)
      all = op(all, storage_.values[i]);
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub

#endif /* CUDA_EMULATION_BLOCK_SCAN_CUH */
