/** al_matmul: every dtype, both transposes, degenerate sides. */
#include "array.h"
#include "library_test.h"
#include "on_device.h"

namespace native {
namespace {

struct Sizes {
  int64_t m, n, k;
};

void test_product(al_device* device, int32_t dtype, Sizes sizes,
                  bool transpose_a, bool transpose_b, bool accumulate,
                  Random& random) {
  const auto [m, n, k] = sizes;
  const bool shifted = random.one_in(2);
  Array a(dtype, m * k, shifted), b(dtype, k * n, shifted);
  Array c(dtype, m * n, shifted), before(dtype, m * n);
  a.fill_uniform(random);
  b.fill_uniform(random);
  for (int64_t i = 0; i < m * n; ++i) {
    before.set(i, random.uniform());
    c.set(i, accumulate ? before.get(i) : NAN);
  }
  succeeds(al_matmul(device, dtype, transpose_a, transpose_b, m, n, k, a.data(),
                     b.data(), c.data(), accumulate),
           "al_matmul");
  int64_t wrong = 0;
  for (int64_t row = 0; row < m; ++row)
    for (int64_t col = 0; col < n; ++col) {
      double sum = accumulate ? before.get(row * n + col) : 0;
      for (int64_t i = 0; i < k; ++i)
        sum += a.get(transpose_a ? i * m + row : row * k + i) *
               b.get(transpose_b ? col * k + i : i * n + col);
      wrong += !close(c.get(row * n + col), sum, tolerance(dtype));
    }
  check(wrong == 0, "%lld elements of a product [%lld, %lld, %lld] differ",
        static_cast<long long>(wrong), static_cast<long long>(m),
        static_cast<long long>(n), static_cast<long long>(k));
}

}  // namespace

void test_matmul() {
  Device device;
  Random random(15);
  constexpr Sizes kSizes[] = {{1, 1, 1},  {5, 7, 3}, {33, 65, 17}, {1, 9, 20},
                              {20, 1, 9}, {0, 3, 2}, {3, 0, 2},    {3, 2, 0},
                              {1, 5, 1},  {5, 1, 1}, {64, 64, 300}};
  for (const int32_t dtype : kFloatDtypes)
    for (const Sizes& sizes : kSizes)
      for (int form = 0; form < 8; ++form)
        test_product(device, dtype, sizes, form & 1, form & 2, form & 4,
                     random);
  float one = 1;
  const auto product = [&](int32_t dtype, int64_t m, int64_t n, int64_t k) {
    return al_matmul(device, dtype, 0, 0, m, n, k, &one, &one, &one, 0);
  };
  fails(product(AL_INT32, 1, 1, 1), AL_INVALID_ARGUMENT, "dtype 4",
        "a product of integers");
  for (const int64_t large : {int64_t{INT32_MAX} + 1, INT64_MAX}) {
    fails(product(AL_FLOAT32, large, 1, 1), AL_INVALID_ARGUMENT, "exceeds",
          "a product with too many rows");
    fails(product(AL_FLOAT32, 1, 1, large), AL_INVALID_ARGUMENT, "exceeds",
          "a product over too much");
  }
  fails(product(AL_FLOAT32, -1, 1, 1), AL_INVALID_ARGUMENT, "m -1",
        "a product of -1 rows");
  fails(product(AL_FLOAT16, 1, 1, INT64_MIN), AL_INVALID_ARGUMENT, "negative",
        "a product over less than nothing");
}

}  // namespace native
