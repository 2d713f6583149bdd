/** __nv_bfloat16 as far as the kernels use it: storage and its conversions. */
#ifndef CUDA_PLATFORM_BF16_H
#define CUDA_PLATFORM_BF16_H

#include <cstring>

struct __nv_bfloat16 {
  unsigned short bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  const unsigned bits = static_cast<unsigned>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/** Rounds to nearest even; every NaN becomes 0x7fff, as on a GPU. */
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (x != x) return {0x7fff};
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return {
      static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

#endif /* CUDA_PLATFORM_BF16_H */
