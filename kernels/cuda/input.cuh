/** What every loss function of the ABI begins with, as the kernels take it. */
#ifndef ATOMLOSS_CUDA_INPUT_CUH
#define ATOMLOSS_CUDA_INPUT_CUH

#include "dispatch.h"

namespace atomloss {

/** By value to the kernels. */
template <class S>
struct Input {
  const S* pred;
  const S* target;
  const void* natoms;
  bool natoms_64;
  int64_t rows;
  int64_t cols;

  __host__ __device__ int64_t elements() const { return rows * cols; }

  /** Atoms of a row, where the loss reads them; otherwise 1. */
  template <class Loss>
  __device__ __forceinline__ compute_t<S> natoms_at(int64_t row) const {
    using T = compute_t<S>;
    if constexpr (!Loss::uses_natoms) return T(1);
    return natoms_64 ? static_cast<T>(static_cast<const int64_t*>(natoms)[row])
                     : static_cast<T>(static_cast<const int32_t*>(natoms)[row]);
  }
};

/** The arguments of the ABI; throws for what checked callers never pass. */
template <class Loss, class S>
Input<S> make_input(const void* pred, const void* target, const void* natoms,
                    int32_t natoms_dtype, int64_t rows, int64_t cols) {
  if (rows < 0 || cols < 0)
    throw al_error(
        al_fail(AL_INVALID_ARGUMENT, "negative size: %lld rows, %lld cols",
                static_cast<long long>(rows), static_cast<long long>(cols)));
  if (Loss::uses_natoms && rows > 0) {
    if (natoms == nullptr)
      throw al_error(al_fail(AL_INVALID_ARGUMENT, "this loss needs natoms"));
    if (natoms_dtype != AL_INT32 && natoms_dtype != AL_INT64)
      throw al_error(
          al_fail(AL_INVALID_ARGUMENT, "natoms must be int32 or int64"));
  }
  return {static_cast<const S*>(pred),
          static_cast<const S*>(target),
          natoms,
          natoms_dtype == AL_INT64,
          rows,
          cols};
}

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_INPUT_CUH */
