/** What a kernel may call, as far as kernels do. */
#ifndef CUDA_PLATFORM_DEVICE_FUNCTIONS_H
#define CUDA_PLATFORM_DEVICE_FUNCTIONS_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "device_runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
/* A block runs on one thread of the host, which runs no other meanwhile. */
#define __shared__ static thread_local

constexpr int warpSize = 32;

/* Told to the checker by access() instead. */
#define CUDA_PLATFORM_RAW __attribute__((no_sanitize("thread"))) inline

/* ---- waiting for each other ----------------------------------------------*/

inline void __syncthreads() { cuda_platform::block_barrier(0); }
inline int __syncthreads_count(int vote) {
  return cuda_platform::block_barrier(vote != 0);
}
inline int __syncthreads_or(int vote) { return __syncthreads_count(vote) > 0; }
inline int __syncthreads_and(int vote) {
  return __syncthreads_count(vote == 0) == 0;
}
inline void __syncwarp(unsigned lanes = 0xffffffff) {
  cuda_platform::warp_barrier(lanes, false);
}
inline unsigned __ballot_sync(unsigned lanes, int vote) {
  return cuda_platform::warp_barrier(lanes, vote != 0);
}
inline int __any_sync(unsigned lanes, int vote) {
  return __ballot_sync(lanes, vote) != 0;
}
inline int __all_sync(unsigned lanes, int vote) {
  return __ballot_sync(lanes, !vote) == 0;
}

inline void __threadfence() { cuda_platform::fence(); }
inline void __threadfence_block() { cuda_platform::fence(); }
inline void __threadfence_system() { cuda_platform::fence(); }

namespace cuda_platform {
template <class T>
CUDA_PLATFORM_RAW T shuffle(unsigned lanes, T value, int lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = exchange(lanes, bits, lane);
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline int lane() { return static_cast<int>(thread_index().x) % warpSize; }
}  // namespace cuda_platform

template <class T>
T __shfl_sync(unsigned lanes, T value, int lane) {
  return cuda_platform::shuffle(lanes, value, lane);
}
template <class T>
T __shfl_xor_sync(unsigned lanes, T value, int mask) {
  return cuda_platform::shuffle(lanes, value, cuda_platform::lane() ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned lanes, T value, unsigned delta) {
  return cuda_platform::shuffle(
      lanes, value, cuda_platform::lane() + static_cast<int>(delta));
}
template <class T>
T __shfl_up_sync(unsigned lanes, T value, unsigned delta) {
  return cuda_platform::shuffle(
      lanes, value, cuda_platform::lane() - static_cast<int>(delta));
}

/* ---- memory --------------------------------------------------------------*/

#define CUDA_PLATFORM_LOAD(name)                  \
  template <class T>                              \
  CUDA_PLATFORM_RAW T name(const T* address) {    \
    cuda_platform::access(address, sizeof(T), 1); \
    return *address;                              \
  }
#define CUDA_PLATFORM_STORE(name)                    \
  template <class T, class U>                        \
  CUDA_PLATFORM_RAW void name(T* address, U value) { \
    cuda_platform::access(address, sizeof(T), 2);    \
    *address = value;                                \
  }
CUDA_PLATFORM_LOAD(__ldg)
CUDA_PLATFORM_LOAD(__ldca)
CUDA_PLATFORM_LOAD(__ldcg)
CUDA_PLATFORM_LOAD(__ldcs)
CUDA_PLATFORM_LOAD(__ldcv)
CUDA_PLATFORM_STORE(__stcg)
CUDA_PLATFORM_STORE(__stcs)
CUDA_PLATFORM_STORE(__stwb)
CUDA_PLATFORM_STORE(__stwt)

namespace cuda_platform {
/** *address = next(*address) in one; returns what was there. */
template <class T, class Next>
CUDA_PLATFORM_RAW T update(T* address, const Next& next) {
  access(address, sizeof(T), 3);
  T old, value;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do value = next(old);
  while (!__atomic_compare_exchange(address, &old, &value, false,
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  atomic_was_made(address);
  return old;
}
}  // namespace cuda_platform

#define CUDA_PLATFORM_ATOMIC(name, next)                                     \
  template <class T>                                                         \
  T name(T* address, std::common_type_t<T> value) {                          \
    return cuda_platform::update(address, [=](T old) -> T { return next; }); \
  }
CUDA_PLATFORM_ATOMIC(atomicAdd, old + value)
CUDA_PLATFORM_ATOMIC(atomicSub, old - value)
CUDA_PLATFORM_ATOMIC(atomicMin, value < old ? value : old)
CUDA_PLATFORM_ATOMIC(atomicMax, value > old ? value : old)
CUDA_PLATFORM_ATOMIC(atomicOr, old | value)
CUDA_PLATFORM_ATOMIC(atomicAnd, old& value)
CUDA_PLATFORM_ATOMIC(atomicExch, (void(old), value))
CUDA_PLATFORM_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
CUDA_PLATFORM_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
template <class T>
T atomicCAS(T* address, std::common_type_t<T> expected,
            std::common_type_t<T> value) {
  return cuda_platform::update(
      address, [=](T old) { return old == expected ? value : old; });
}

/* ---- bits and numbers ----------------------------------------------------*/

template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
template <class A, class B>
std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                 std::common_type_t<A, B>>
min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                 std::common_type_t<A, B>>
max(A a, B b) {
  return a < b ? b : a;
}
inline void __trap() { cuda_platform::trap(); }

namespace cuda_platform::ptx {
/** The reciprocal to some 20 bits. */
inline double rcp_approx_ftz_f64(double x) {
  return static_cast<double>(1.0f / static_cast<float>(x));
}
}  // namespace cuda_platform::ptx

#endif /* CUDA_PLATFORM_DEVICE_FUNCTIONS_H */
