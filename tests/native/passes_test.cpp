/** al_sum, al_fill, al_nan_to_num and al_zero_nonfinite. */
#include <cmath>

#include "array.h"
#include "library_test.h"
#include "on_device.h"

namespace native {
namespace {

constexpr int64_t kSizes[] = {0, 1, 7, 8, 9, 12287, 12288, 12289, 70001};

double value_of(int32_t dtype, const al_loss_result& result) {
  if (dtype == AL_FLOAT64) return result.value;
  float value;
  memcpy(&value, &result.value, sizeof value);
  return value;
}

void test_size(al_device* device, int32_t dtype, int64_t n, Random& random) {
  Array x(dtype, n, random.one_in(2)), out(dtype, n, random.one_in(2));
  x.fill_uniform(random);
  const double seventh = 1.0 / 7;
  const double* const divisor = random.one_in(2) ? &seventh : nullptr;
  const double factor = 3 * (divisor ? *divisor : 1);
  const auto print = static_cast<long long>(n);

  al_loss_result result = {-1, -1, -1, -1, -1, -1};
  succeeds(al_sum(device, dtype, x.data(), n, 3, divisor, &result), "al_sum");
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x.get(i);
  check(close(value_of(dtype, result), sum * factor,
              dtype == AL_FLOAT64 ? 1e-12 : 1e-6, 1) &&
            result.inputs == 0,
        "the sum of %lld is %.17g, expected %.17g", print,
        value_of(dtype, result), sum * factor);

  succeeds(al_fill(device, dtype, out.data(), n, 3, divisor), "al_fill");
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; ++i) wrong += out.get(i) != out.stored(factor);
  check(wrong == 0, "al_fill of %lld differs", print);

  int64_t expected_bad = 0, bad = -1;
  for (int64_t i = 0; i < n; ++i) {
    const double values[] = {NAN, HUGE_VAL, -HUGE_VAL, x.get(i)};
    x.set(i, values[random.below(4)]);
    expected_bad += !std::isfinite(x.get(i));
  }
  succeeds(al_zero_nonfinite(device, dtype, x.data(), n, out.data()),
           "al_zero_nonfinite");
  for (int64_t i = 0; i < n; ++i)
    wrong += out.get(i) != (std::isfinite(x.get(i)) ? out.stored(factor) : 0);
  check(wrong == 0, "al_zero_nonfinite of %lld differs", print);

  succeeds(al_nan_to_num(device, dtype, x.data(), n, out.data(), &bad),
           "al_nan_to_num");
  for (int64_t i = 0; i < n; ++i) {
    const double value = x.get(i);
    const double expected = std::isnan(value) ? 0
                            : std::isinf(value)
                                ? std::copysign(largest(dtype), value)
                                : value;
    wrong += out.get(i) != expected;
  }
  check(wrong == 0 && bad == expected_bad, "al_nan_to_num of %lld differs",
        print);
}

}  // namespace

void test_passes() {
  Device device;
  Random random(11);
  for (const int32_t dtype : kFloatDtypes)
    for (const int64_t n : kSizes) test_size(device, dtype, n, random);
  al_loss_result result = {};
  int64_t bad = 0;
  fails(al_sum(device, AL_INT32, nullptr, 0, 1, nullptr, &result),
        AL_INVALID_ARGUMENT, "dtype 4", "al_sum of integers");
  fails(al_fill(device, AL_BOOL, nullptr, 0, 1, nullptr), AL_INVALID_ARGUMENT,
        "dtype 6", "al_fill of bools");
  fails(al_nan_to_num(device, AL_INT64, nullptr, 0, nullptr, &bad),
        AL_INVALID_ARGUMENT, "dtype 5", "al_nan_to_num of integers");
  fails(al_zero_nonfinite(device, -1, nullptr, 0, nullptr), AL_INVALID_ARGUMENT,
        "dtype -1", "al_zero_nonfinite of nothing known");
}

}  // namespace native
