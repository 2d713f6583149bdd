/** al_loss_forward and al_loss_backward: every loss, dtype and shape. */
#include <vector>

#include "array.h"
#include "library_test.h"
#include "on_device.h"
#include "reference.h"

namespace native {
namespace {

/** delta, beta. */
constexpr double kParameters[AL_MAX_PARAMETERS] = {1};

struct Shape {
  int64_t rows, cols;
};

/** Around the borders of blocks, and a size that takes several threads. */
constexpr Shape kShapes[] = {{0, 3},    {3, 0},    {1, 1},     {7, 3},
                             {4097, 3}, {64, 192}, {12289, 1}, {2, 12289},
                             {5, 2458}, {0, 0},    {40000, 2}};

void test_shape(al_device* device, const Reference& loss, int32_t number,
                int32_t dtype, Shape shape, Random& random) {
  const auto [rows, cols] = shape;
  const int64_t n = rows * cols;
  const bool shifted = random.one_in(2);
  const int32_t natoms_dtype = random.one_in(2) ? AL_INT32 : AL_INT64;
  const int64_t entries = loss.per_row ? rows : n;
  Array pred(dtype, n, shifted), target(dtype, n, shifted);
  Array natoms(natoms_dtype, rows, shifted);
  Array out(dtype, entries, shifted), upstream(dtype, entries, shifted);
  Array grad(dtype, n, shifted);
  pred.fill_uniform(random);
  target.fill_uniform(random);
  upstream.fill_uniform(random);
  for (int64_t i = 0; i < rows; ++i)
    natoms.set(i, static_cast<double>(1 + random.below(9)));
  if (n > 0) target.set(0, pred.get(0));  // where mae has no derivative
  const bool ones = random.one_in(3);

  const char* const what = loss.name;
  succeeds(al_loss_forward(device, number, dtype, pred.data(), target.data(),
                           loss.uses_natoms ? natoms.data() : nullptr,
                           natoms_dtype, rows, cols, kParameters, out.data()),
           what);
  succeeds(al_loss_backward(device, number, dtype, pred.data(), target.data(),
                            loss.uses_natoms ? natoms.data() : nullptr,
                            natoms_dtype, rows, cols, kParameters,
                            ones ? nullptr : upstream.data(), grad.data()),
           what);
  const double tolerated = tolerance(dtype);
  int64_t wrong = 0;
  for (int64_t row = 0; row < rows; ++row) {
    double s = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const double d = pred.get(row * cols + j) - target.get(row * cols + j);
      s += d * d;
    }
    if (loss.per_row)
      wrong += !close(out.get(row), loss.value(s, 0, 0), tolerated);
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t i = row * cols + j;
      const double p = pred.get(i), t = target.get(i), atoms = natoms.get(row);
      const double from = ones ? 1 : upstream.get(loss.per_row ? row : i);
      const double slope =
          loss.per_row ? loss.grad(s, 0, 0) * (p - t) : loss.grad(p, t, atoms);
      wrong += !close(grad.get(i), from * slope, tolerated);
      if (!loss.per_row)
        wrong += !close(out.get(i), loss.value(p, t, atoms), tolerated);
    }
  }
  check(wrong == 0, "%s of [%lld, %lld], dtype %d: %lld numbers differ", what,
        static_cast<long long>(rows), static_cast<long long>(cols), dtype,
        static_cast<long long>(wrong));
}

void test_refusals(al_device* device) {
  const float x[] = {1};
  float out[] = {0};
  int32_t mae = -1, per_atom = -1, kind = -1;
  succeeds(al_loss_find("mae", &mae, &kind), "al_loss_find");
  succeeds(al_loss_find("per_atom_mae", &per_atom, &kind), "al_loss_find");
  const auto forward = [&](int32_t loss, int32_t dtype, int64_t rows,
                           const void* natoms, int32_t natoms_dtype) {
    return al_loss_forward(device, loss, dtype, x, x, natoms, natoms_dtype,
                           rows, 1, kParameters, out);
  };
  fails(forward(99, AL_FLOAT32, 1, nullptr, 0), AL_INVALID_ARGUMENT,
        "loss number 99", "a loss that is not there");
  fails(forward(-1, AL_FLOAT32, 1, nullptr, 0), AL_INVALID_ARGUMENT,
        "loss number -1", "a loss that is not there");
  fails(forward(mae, AL_INT32, 1, nullptr, 0), AL_INVALID_ARGUMENT, "dtype 4",
        "the loss of integers");
  fails(forward(mae, AL_FLOAT32, -1, nullptr, 0), AL_INVALID_ARGUMENT,
        "-1 rows", "-1 rows");
  fails(forward(mae, AL_FLOAT32, INT64_MAX, nullptr, 0), AL_INVALID_ARGUMENT,
        "too many", "more elements than there are numbers");
  fails(forward(per_atom, AL_FLOAT32, 1, nullptr, AL_INT32),
        AL_INVALID_ARGUMENT, "needs natoms", "no natoms");
  fails(forward(per_atom, AL_FLOAT32, 1, x, AL_FLOAT32), AL_INVALID_ARGUMENT,
        "int32 or int64", "natoms of floats");
  fails(al_loss_backward(device, mae, AL_BOOL, x, x, nullptr, 0, 1, 1,
                         kParameters, nullptr, out),
        AL_INVALID_ARGUMENT, "dtype 6", "the gradient of bools");
  fails(al_loss_backward(device, per_atom, AL_FLOAT32, x, x, nullptr, AL_INT64,
                         1, 1, kParameters, nullptr, out),
        AL_INVALID_ARGUMENT, "needs natoms", "the gradient without natoms");
}

}  // namespace

void test_losses() {
  Device device;
  Random random(3);
  for (const Reference& loss : kLosses) {
    const int32_t number = number_of(loss);
    for (const int32_t dtype : kFloatDtypes)
      for (const Shape shape : kShapes)
        test_shape(device, loss, number, dtype, shape, random);
  }
  test_refusals(device);
}

}  // namespace native
