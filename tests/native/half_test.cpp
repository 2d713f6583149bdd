/** The conversions of float16 and bfloat16, against arithmetic on doubles. */
#include "shared/half.h"

#include <cmath>
#include <vector>

#include "array.h"
#include "library_test.h"

namespace native {
namespace {

/** A number of this many exponent and mantissa bits, by its definition. */
double decoded(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const uint32_t highest = (1u << exponent_bits) - 1;
  const uint32_t exponent = bits >> mantissa_bits & highest;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == highest) return mantissa ? NAN : sign * INFINITY;
  const int power = static_cast<int>(exponent ? exponent : 1) - bias;
  const uint32_t lead = exponent ? 1u << mantissa_bits : 0;
  return sign * std::ldexp(lead + mantissa, power - mantissa_bits);
}

/** Rounds to nearest even on a grid of this many mantissa bits. */
double rounded(double x, int exponent_bits, int mantissa_bits) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int power = std::max(std::ilogb(x), 1 - bias);
  const double unit = std::ldexp(1, power - mantissa_bits);
  const double y = std::nearbyint(x / unit) * unit;
  return std::fabs(y) < std::ldexp(1, bias + 1) ? y
                                                : std::copysign(INFINITY, x);
}

template <class S>
void test_type(const char* name, int exponent_bits, int mantissa_bits,
               S (*narrow)(float), Random& random) {
  const auto same = [](double a, double b) {
    return std::isnan(a) ? std::isnan(b) : a == b;
  };
  std::vector<S> all;
  int wrong = 0;
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const S x = {static_cast<uint16_t>(bits)};
    const double expected = decoded(bits, exponent_bits, mantissa_bits);
    const float wide = atomloss::to_float(x);
    wrong += !same(wide, expected);
    wrong += !same(atomloss::to_float(narrow(wide)), expected);
    all.push_back(x);
  }
  check(wrong == 0, "%s: %d of 65536 patterns do not convert", name, wrong);
  wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    // Of every magnitude, and halfway between two numbers.
    float x = static_cast<float>(std::ldexp(
        random.uniform(), static_cast<int>(random.below(300)) - 150));
    if (i % 2) {
      const auto at = static_cast<uint32_t>(random.below(0x7bff));
      x = static_cast<float>((decoded(at, exponent_bits, mantissa_bits) +
                              decoded(at + 1, exponent_bits, mantissa_bits)) /
                             2);
    }
    wrong += !same(atomloss::to_float(narrow(x)),
                   rounded(x, exponent_bits, mantissa_bits));
  }
  check(wrong == 0, "%s: %d of 200000 roundings are wrong", name, wrong);
  wrong = 0;
  for (const int64_t n : {0, 1, 7, 8, 9, 31, 191}) {
    const auto size = static_cast<size_t>(n);
    // Blocks of exactly their sizes, as Array's.
    const std::unique_ptr<S[]> from(new S[size]), back(new S[size]);
    const std::unique_ptr<float[]> wide(new float[size]);
    for (size_t i = 0; i < size; ++i)
      from[i] = all[static_cast<size_t>(random.below(0x7c00))];
    atomloss::load_block(from.get(), n, wide.get());
    atomloss::store_block(wide.get(), n, back.get());
    for (size_t i = 0; i < size; ++i)
      wrong += wide[i] != atomloss::to_float(from[i]) ||
               (back[i].bits != from[i].bits && !std::isnan(wide[i]));
  }
  check(wrong == 0, "%s: %d values of blocks are wrong", name, wrong);
}

}  // namespace

void test_half() {
  Random random(1);
  test_type<atomloss::float16>("float16", 5, 10, atomloss::to_float16, random);
  test_type<atomloss::bfloat16>("bfloat16", 8, 7, atomloss::to_bfloat16,
                                random);
}

}  // namespace native
