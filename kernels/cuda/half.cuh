/**
 * float16 and bfloat16 on the device: the same names as in half.h, so that the
 * kernels are written for a storage type S and compute in compute_t<S>.
 */
#ifndef ATOMLOSS_CUDA_HALF_CUH
#define ATOMLOSS_CUDA_HALF_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <limits>

namespace atomloss {

using float16 = __half;
using bfloat16 = __nv_bfloat16;

/** What a storage type is computed in, and its largest finite number. */
template <class S>
struct Dtype {
  using compute = S;
  static constexpr S largest = std::numeric_limits<S>::max();
};
template <>
struct Dtype<float16> {
  using compute = float;
  static constexpr float largest = 65504.0f;
};
template <>
struct Dtype<bfloat16> {
  using compute = float;
  static constexpr float largest = 0x1.fep127f;
};

template <class S>
using compute_t = typename Dtype<S>::compute;

template <class T>
__device__ __forceinline__ T load(T x) {
  return x;
}
__device__ __forceinline__ float load(float16 x) { return __half2float(x); }
__device__ __forceinline__ float load(bfloat16 x) {
  return __bfloat162float(x);
}

template <class S>
__device__ __forceinline__ S store(compute_t<S> x) {
  return x;
}
template <>
__device__ __forceinline__ float16 store<float16>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ bfloat16 store<bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_HALF_CUH */
