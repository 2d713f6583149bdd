#include "reduce.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace cuda_platform {
namespace {

template <class S>
S load(S x) {
  return x;
}
float load(__half x) { return __half2float(x); }
float load(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class S, class T>
S store(T x) {
  if constexpr (std::is_same_v<S, __half>)
    return __float2half_rn(x);
  else if constexpr (std::is_same_v<S, __nv_bfloat16>)
    return __float2bfloat16_rn(x);
  else
    return x;
}

template <class T>
T combine(ncclRedOp_t op, T a, T b) {
  switch (op) {
    case ncclProd:
      return static_cast<T>(a * b);
    case ncclMax:
      // Of a NaN and a number the number, as fmaxf() has it.
      if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
      return std::max(a, b);
    case ncclMin:
      if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
      return std::min(a, b);
    default:
      return static_cast<T>(a + b);
  }
}

template <class S>
void reduce_as(ncclRedOp_t op, const char* areas, size_t stride, int ranks,
               size_t count, void* out) {
  using T = decltype(load(S()));
  constexpr bool kFloating = std::is_floating_point_v<T>;
  const bool scaled = kFloating && op == ncclAvg;
  const T factor = static_cast<T>(kFloating ? T(1) / T(ranks) : T(1));
  const auto element = [&](int rank, size_t i) -> T {
    const T x = load(reinterpret_cast<const S*>(
        areas + static_cast<size_t>(rank) * stride)[i]);
    return scaled ? load(store<S>(x * load(store<S>(factor)))) : x;
  };
  for (size_t i = 0; i < count; ++i) {
    T result = element(0, i);
    for (int rank = 1; rank < ranks; ++rank)
      result = load(store<S>(combine(op, result, element(rank, i))));
    if (op == ncclAvg && !kFloating) result = static_cast<T>(result / ranks);
    static_cast<S*>(out)[i] = store<S>(result);
  }
}

/** Calls with a value of the type; nothing if there is no such type here. */
template <class F>
void with_type(ncclDataType_t type, F&& call) {
  switch (type) {
    case ncclInt8:
      return call(int8_t());
    case ncclUint8:
      return call(uint8_t());
    case ncclInt32:
      return call(int32_t());
    case ncclUint32:
      return call(uint32_t());
    case ncclInt64:
      return call(int64_t());
    case ncclUint64:
      return call(uint64_t());
    case ncclFloat16:
      return call(__half());
    case ncclFloat32:
      return call(float());
    case ncclFloat64:
      return call(double());
    case ncclBfloat16:
      return call(__nv_bfloat16());
    default:
      return;
  }
}

}  // namespace

size_t size_of(ncclDataType_t type) {
  size_t size = 0;
  with_type(type, [&](auto x) { size = sizeof x; });
  return size;
}

void reduce(ncclDataType_t type, ncclRedOp_t op, const char* areas,
            size_t stride, int ranks, size_t count, void* out) {
  with_type(type, [&](auto x) {
    reduce_as<decltype(x)>(op, areas, stride, ranks, count, out);
  });
}

}  // namespace cuda_platform
