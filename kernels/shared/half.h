/**
 * float16 and bfloat16 on the host: storage types and their conversion to and
 * from float, one value or a block at a time. Rounding is to nearest even.
 */
#ifndef ATOMLOSS_HALF_H
#define ATOMLOSS_HALF_H

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#ifdef __F16C__
#include <immintrin.h>
#endif

namespace atomloss {

struct float16 {
  uint16_t bits;
};

struct bfloat16 {
  uint16_t bits;
};

inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float to_float(bfloat16 x) {
  return bits_to_float(static_cast<uint32_t>(x.bits) << 16);
}

inline bfloat16 to_bfloat16(float x) {
  const uint32_t bits = float_to_bits(x);
  // A NaN must not round up to infinity.
  const uint32_t nan = (bits >> 16) | 0x40;
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(x == x ? rounded : nan)};
}

inline float to_float(float16 x) {
#ifdef __F16C__
  return _cvtsh_ss(x.bits);
#else
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t exponent = x.bits >> 10 & 0x1f;
  const uint32_t mantissa = x.bits & 0x3ff;
  if (exponent == 0x1f)
    return bits_to_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
#endif
}

inline float16 to_float16(float x) {
#ifdef __F16C__
  return {static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#else
  const uint32_t bits = float_to_bits(x);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude < 0x38800000) {  // subnormal: let float addition round
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return {static_cast<uint16_t>(
        sign | (float_to_bits(shifted) - float_to_bits(0.5f)))};
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return {static_cast<uint16_t>(sign | (rounded - 0x38000000) >> 13)};
#endif
}

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
inline T load(T x) {
  return x;
}
inline float load(float16 x) { return to_float(x); }
inline float load(bfloat16 x) { return to_float(x); }

template <class S>
inline S store(compute_t<S> x) {
  return x;
}
template <>
inline float16 store<float16>(float x) {
  return to_float16(x);
}
template <>
inline bfloat16 store<bfloat16>(float x) {
  return to_bfloat16(x);
}

/** n values to their compute type. */
template <class S>
inline void load_block(const S* from, int64_t n, compute_t<S>* to) {
#ifdef __F16C__
  if constexpr (std::is_same_v<S, float16>) {  // the compiler does not see it
    const int64_t whole = n / 8 * 8;
    for (int64_t i = 0; i < whole; i += 8)
      _mm256_storeu_ps(to + i,
                       _mm256_cvtph_ps(_mm_loadu_si128(
                           reinterpret_cast<const __m128i*>(from + i))));
    for (int64_t i = whole; i < n; ++i) to[i] = load(from[i]);
    return;
  }
#endif
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = load(from[i]);
}

/** n values back to their storage type. */
template <class S>
inline void store_block(const compute_t<S>* from, int64_t n, S* to) {
#ifdef __F16C__
  if constexpr (std::is_same_v<S, float16>) {
    const int64_t whole = n / 8 * 8;
    for (int64_t i = 0; i < whole; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(from + i),
                                       _MM_FROUND_TO_NEAREST_INT));
    for (int64_t i = whole; i < n; ++i) to[i] = store<S>(from[i]);
    return;
  }
#endif
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = store<S>(from[i]);
}

}  // namespace atomloss

#endif /* ATOMLOSS_HALF_H */
