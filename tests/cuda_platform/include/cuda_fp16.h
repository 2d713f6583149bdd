/** __half as far as the kernels use it: a storage type and its conversions. */
#ifndef CUDA_PLATFORM_FP16_H
#define CUDA_PLATFORM_FP16_H

#include <algorithm>
#include <cmath>

struct __half {
  unsigned short bits;
};

inline float __half2float(__half x) {
  const int exponent = x.bits >> 10 & 0x1f, mantissa = x.bits & 0x3ff;
  const float magnitude =
      exponent == 0x1f ? (mantissa ? NAN : INFINITY)
      : exponent == 0
          ? std::ldexp(static_cast<float>(mantissa), -24)
          : std::ldexp(static_cast<float>(mantissa + 0x400), exponent - 25);
  return x.bits & 0x8000 ? -magnitude : magnitude;
}

/** Rounds to nearest even; every NaN becomes 0x7fff, as on a GPU. */
inline __half __float2half_rn(float x) {
  if (std::isnan(x)) return {0x7fff};
  const unsigned sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  unsigned bits = 0x7c00;
  if (magnitude < 65520.0f) {
    // That of subnormals, and of 0.
    const int exponent = std::max(std::ilogb(magnitude), -14);
    const auto steps = static_cast<unsigned>(
        std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    // A mantissa that rounds up to 2 carries into the exponent.
    bits = static_cast<unsigned>(exponent + 14) * 0x400 + steps;
  }
  return {static_cast<unsigned short>(sign | bits)};
}

#endif /* CUDA_PLATFORM_FP16_H */
