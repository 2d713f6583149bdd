/**
 * Floating numbers as integers in the same order, of which a NaN is the
 * largest, or the smallest. NCCL combines floats by fmaxf() and fminf() (its
 * src/device/reduce_kernel.h), which of a NaN and a number take the number; of
 * integers it has no choice.
 */
#ifndef ATOMLOSS_CUDA_ORDERED_KEYS_CUH
#define ATOMLOSS_CUDA_ORDERED_KEYS_CUH

#include <cstdint>
#include <limits>
#include <type_traits>

#include "cuda/check.cuh"
#include "cuda/half.cuh"

namespace atomloss {

/** Of a number of this type: of half precision, of the float that it is. */
template <class S>
using OrderedKey =
    std::conditional_t<std::is_same_v<S, double>, int64_t, int32_t>;

/** Negative numbers are ordered backwards by their bits. Its own inverse. */
template <class Key>
__device__ __forceinline__ Key flip(Key bits) {
  return bits < 0 ? bits ^ std::numeric_limits<Key>::max() : bits;
}

template <class S>
__global__ void to_keys(const S* numbers, int64_t n, bool nan_is_largest,
                        OrderedKey<S>* keys) {
  using Key = OrderedKey<S>;
  using Limits = std::numeric_limits<Key>;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    const compute_t<S> x = load(numbers[i]);
    Key bits;
    memcpy(&bits, &x, sizeof bits);
    keys[i] =
        x == x ? flip(bits) : (nan_is_largest ? Limits::max() : Limits::min());
  }
}

/** The largest and the smallest key are NaNs by their bits. */
template <class S>
__global__ void from_keys(const OrderedKey<S>* keys, int64_t n, S* numbers) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    const OrderedKey<S> bits = flip(keys[i]);
    compute_t<S> x;
    memcpy(&x, &bits, sizeof x);
    numbers[i] = store<S>(x);
  }
}

/** Launches either of them for n > 0 elements. */
template <class... Parameters, class... Arguments>
void launch_keys(void (*kernel)(Parameters...), int64_t n, cudaStream_t stream,
                 Arguments... arguments) {
  constexpr int64_t kKeyThreads = 256, kKeyBlocks = 1 << 16;
  const int64_t blocks = (n + kKeyThreads - 1) / kKeyThreads;
  launch_kernel(
      kernel, static_cast<unsigned>(blocks < kKeyBlocks ? blocks : kKeyBlocks),
      kKeyThreads, stream, arguments...);
}

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_ORDERED_KEYS_CUH */
