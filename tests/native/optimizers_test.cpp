/** Steps, norms, clipping and averages against their formulas. */
#include <cmath>
#include <deque>
#include <limits>
#include <vector>

#include "array.h"
#include "library_test.h"
#include "on_device.h"

namespace native {
namespace {

/** Around a block's border; several threads; parameters without elements. */
constexpr int64_t kSizes[] = {1, 0, 17, 16385, 70000, 0};
constexpr int32_t kCount = sizeof kSizes / sizeof *kSizes;

/** The arrays of all parameters, as the ABI takes them. */
class Set {
 public:
  Set(int32_t dtype, bool shifted) {
    for (const int64_t size : kSizes) {
      arrays_.emplace_back(dtype, size, shifted);
      Array& array = arrays_.back();
      for (int64_t i = 0; i < size; ++i) array.set(i, 0);
    }
  }
  void fill_uniform(Random& random) {
    for (Array& array : arrays_) array.fill_uniform(random);
  }
  Array& operator[](size_t i) { return arrays_[i]; }

 private:
  std::deque<Array> arrays_;
};

/** The parameters as the ABI takes them; a state per set. */
std::vector<al_parameter> table(int32_t dtype, Set& params, Set& grads,
                                std::initializer_list<Set*> states) {
  std::vector<al_parameter> parameters(kCount);
  for (size_t p = 0; p < kCount; ++p) {
    al_parameter& parameter = parameters[p];
    parameter.param = params[p].data();
    parameter.grad = grads[p].data();
    size_t k = 0;
    for (Set* state : states) parameter.states[k++] = (*state)[p].data();
    parameter.size = kSizes[p];
    parameter.dtype = dtype;
  }
  return parameters;
}

/** The numbers of all parameters one after another. */
std::vector<double> numbers(Set& set) {
  std::vector<double> all;
  for (size_t p = 0; p < kCount; ++p)
    for (int64_t i = 0; i < set[p].size(); ++i) all.push_back(set[p].get(i));
  return all;
}

/** Counts what differs, and goes on from what the library has. */
void compare(Set& got, std::vector<double>& expected, int32_t dtype,
             const char* what) {
  const std::vector<double> values = numbers(got);
  int64_t wrong = 0;
  for (size_t i = 0; i < values.size(); ++i)
    wrong += !close(values[i], expected[i], tolerance(dtype));
  check(wrong == 0, "%s, dtype %d: %lld numbers differ", what, dtype,
        static_cast<long long>(wrong));
  expected = values;
}

void test_adam(al_device* device, int32_t dtype, double decay, bool decoupled,
               bool amsgrad, Random& random) {
  constexpr double kLr = 0.01, kBeta1 = 0.9, kBeta2 = 0.99, kEps = 1e-6;
  const int32_t compute = compute_dtype(dtype);
  Set params(dtype, true), grads(dtype, false), avgs(compute, true),
      squares(compute, false), largest(compute, true);
  params.fill_uniform(random);
  std::vector<double> w = numbers(params), m = numbers(avgs),
                      v = numbers(squares), most = numbers(largest);
  const std::vector<al_parameter> parameters =
      table(dtype, params, grads, {&avgs, &squares, &largest});
  for (int64_t step = 1; step <= 3; ++step) {
    grads.fill_uniform(random);
    succeeds(al_adam_step(device, kCount, parameters.data(), step, kLr, kBeta1,
                          kBeta2, kEps, decay, decoupled, amsgrad, nullptr),
             "al_adam_step");
    const std::vector<double> g = numbers(grads);
    const auto t = static_cast<double>(step);
    for (size_t i = 0; i < w.size(); ++i) {
      if (decoupled) w[i] *= 1 - kLr * decay;
      const double slope = g[i] + (decoupled ? 0 : decay * w[i]);
      m[i] = kBeta1 * m[i] + (1 - kBeta1) * slope;
      v[i] = kBeta2 * v[i] + (1 - kBeta2) * slope * slope;
      const double mean = m[i] / (1 - std::pow(kBeta1, t));
      if (amsgrad) most[i] = std::fmax(most[i], v[i]);
      const double square =
          (amsgrad ? most[i] : v[i]) / (1 - std::pow(kBeta2, t));
      w[i] -= kLr * mean / (std::sqrt(square) + kEps);
    }
    compare(avgs, m, compute, "exp_avg");
    compare(squares, v, compute, "exp_avg_sq");
    compare(largest, most, compute, "max_exp_avg_sq");
    // The step is up to 0.01, in half precision below the rounding.
    compare(params, w, dtype, "adam");
  }
}

void test_sgd(al_device* device, int32_t dtype, double momentum, bool nesterov,
              Random& random) {
  constexpr double kLr = 0.1, kDecay = 0.02;
  const int32_t compute = compute_dtype(dtype);
  Set params(dtype, false), grads(dtype, true), buffers(compute, true);
  params.fill_uniform(random);
  std::vector<double> w = numbers(params), b = numbers(buffers);
  const std::vector<al_parameter> parameters =
      momentum == 0 ? table(dtype, params, grads, {})
                    : table(dtype, params, grads, {&buffers});
  for (int64_t step = 1; step <= 2; ++step) {
    grads.fill_uniform(random);
    succeeds(al_sgd_step(device, kCount, parameters.data(), step, kLr, momentum,
                         kDecay, nesterov, nullptr),
             "al_sgd_step");
    const std::vector<double> g = numbers(grads);
    for (size_t i = 0; i < w.size(); ++i) {
      double slope = g[i] + kDecay * w[i];
      if (momentum != 0) {
        b[i] = step == 1 ? slope : momentum * b[i] + slope;
        slope = nesterov ? slope + momentum * b[i] : b[i];
      }
      w[i] -= kLr * slope;
    }
    if (momentum != 0) compare(buffers, b, compute, "momentum");
    compare(params, w, dtype, "sgd");
  }
}

/** The norm, and gradients clipped by it: in place, or on the way of a step. */
void test_clipping(al_device* device, int32_t dtype, double p, Random& random) {
  constexpr double kMaxNorm = 1.5;
  Set params(dtype, false), grads(dtype, true);
  params.fill_uniform(random);
  grads.fill_uniform(random);
  const std::vector<al_parameter> parameters = table(dtype, params, grads, {});
  const std::vector<double> g = numbers(grads);
  double expected = 0;
  for (const double x : g)
    expected = std::isinf(p) ? std::fmax(expected, std::fabs(x))
                             : expected + std::pow(std::fabs(x), p);
  if (!std::isinf(p)) expected = std::pow(expected, 1 / p);

  al_loss_result norm = {}, again = {};
  succeeds(al_grad_norm(device, kCount, parameters.data(), p, &norm),
           "al_grad_norm");
  check(close(norm.value, expected, 1e-12) && norm.inputs == 0,
        "norm %g, dtype %d: %.17g, expected %.17g", p, dtype, norm.value,
        expected);
  succeeds(al_grad_norm(device, kCount, parameters.data(), p, &again),
           "al_grad_norm");
  check(again.value == norm.value, "norm %g: other bits the second time", p);

  const al_clip clip = {&norm, kMaxNorm, 0, 0};
  const double factor = std::fmin(1, kMaxNorm / (norm.value + 1e-6));
  std::vector<double> w = numbers(params), clipped = g;
  for (size_t i = 0; i < w.size(); ++i) w[i] -= 0.5 * factor * g[i];
  for (double& x : clipped) x *= factor;
  succeeds(
      al_sgd_step(device, kCount, parameters.data(), 1, 0.5, 0, 0, 0, &clip),
      "al_sgd_step that clips");
  compare(params, w, dtype, "parameters of a step that clips");
  succeeds(al_clip_grads(device, kCount, parameters.data(), &clip),
           "al_clip_grads");
  compare(grads, clipped, dtype, "clipped gradients");

  // One infinity, at the end of a parameter.
  grads[3].set(kSizes[3] - 1, -std::numeric_limits<double>::infinity());
  succeeds(al_grad_norm(device, kCount, parameters.data(), p, &norm),
           "al_grad_norm");
  check(std::isinf(norm.value) && norm.inputs == 1, "norm of an infinity");
  grads[4].set(0, NAN);
  succeeds(al_grad_norm(device, kCount, parameters.data(), p, &norm),
           "al_grad_norm");
  check(std::isnan(norm.value) && norm.inputs == 1,
        "norm %g of a NaN and an infinity is %g", p, norm.value);
  const al_clip skip = {&norm, kMaxNorm, 1, 0};
  succeeds(
      al_sgd_step(device, kCount, parameters.data(), 1, 0.5, 0, 0, 0, &skip),
      "al_sgd_step that is skipped");
  compare(params, w, dtype, "parameters of a step that is skipped");
}

void test_averages(al_device* device, int32_t dtype, Random& random) {
  const int32_t compute = compute_dtype(dtype);
  Set params(dtype, true), averages(compute, false), backups(compute, true);
  Set unused(dtype, false);
  const std::vector<al_parameter> parameters =
      table(dtype, params, unused, {&averages, &backups});
  std::vector<double> expected;
  for (const double weight : {1.0, 0.75, 0.25}) {
    params.fill_uniform(random);
    const std::vector<double> w = numbers(params);
    succeeds(al_average_update(device, kCount, parameters.data(), weight),
             "al_average_update");
    if (weight == 1) {
      expected = w;
      check(numbers(averages) == expected, "the first average is another");
    }
    for (size_t i = 0; i < w.size(); ++i)
      expected[i] += weight * (w[i] - expected[i]);
    compare(averages, expected, compute, "averages");
  }
  const std::vector<double> w = numbers(params);
  succeeds(al_average_swap(device, kCount, parameters.data(), 1),
           "al_average_swap in");
  check(numbers(averages) == expected, "swapping changed the averages");
  compare(params, expected, dtype, "averages in the parameters' place");
  succeeds(al_average_swap(device, kCount, parameters.data(), 0),
           "al_average_swap out");
  check(numbers(params) == w, "the parameters came back as others");
}

/** Steps that a half-precision number is too coarse for. */
void test_masters(al_device* device, int32_t dtype) {
  constexpr int64_t kSize = 300;
  Array param(dtype, kSize, true), grad(dtype, kSize),
      master(AL_FLOAT32, kSize);
  al_parameter parameter = {};
  parameter.param = param.data();
  parameter.grad = grad.data();
  parameter.master = static_cast<float*>(master.data());
  parameter.size = kSize;
  parameter.dtype = dtype;
  for (int64_t i = 0; i < kSize; ++i) {
    param.set(i, 1);
    grad.set(i, 1);
    master.set(i, 0);
  }
  constexpr double kLr = 0x1p-13;  // 8 of them are half of a bfloat16's step
  for (int64_t step = 1; step <= 64; ++step)
    succeeds(al_sgd_step(device, 1, &parameter, step, kLr, 0, 0, 0, nullptr),
             "al_sgd_step");
  for (int64_t i = 0; i < kSize; ++i) {
    check(master.get(i) == 1 - 64 * kLr && param.get(i) == 1 - 64 * kLr,
          "dtype %d: after 64 small steps parameter %g, master %g", dtype,
          param.get(i), master.get(i));
    // Written to by somebody else: every second one.
    if (i % 2 == 0) param.set(i, 2);
  }
  succeeds(al_sgd_step(device, 1, &parameter, 65, 0.5, 0, 0, 0, nullptr),
           "al_sgd_step");
  for (int64_t i = 0; i < kSize; ++i)
    check(master.get(i) == (i % 2 == 0 ? 1.5 : 0.5 - 64 * kLr),
          "dtype %d: master %g of a parameter that was written to", dtype,
          master.get(i));
}

}  // namespace

void test_optimizers() {
  Device device;
  Random random(16);
  for (const int32_t dtype : kFloatDtypes) {
    for (const bool amsgrad : {false, true}) {
      test_adam(device, dtype, 0, false, amsgrad, random);
      test_adam(device, dtype, 0.1, false, amsgrad, random);
      test_adam(device, dtype, 0.1, true, amsgrad, random);
    }
    test_sgd(device, dtype, 0, false, random);
    test_sgd(device, dtype, 0.9, false, random);
    test_sgd(device, dtype, 0.9, true, random);
    for (const double p : {1.0, 2.0, 3.5, HUGE_VAL})
      test_clipping(device, dtype, p, random);
    test_averages(device, dtype, random);
  }
  test_masters(device, AL_FLOAT16);
  test_masters(device, AL_BFLOAT16);
  // A parameter that cannot be stepped: nor is the one before it.
  float param = 1, grad = 1;
  al_parameter parameters[2] = {};
  parameters[0].param = &param;
  parameters[0].grad = &grad;
  parameters[0].size = 1;
  parameters[1].dtype = AL_BOOL;
  fails(al_sgd_step(device, 2, parameters, 1, 1, 0, 0, 0, nullptr),
        AL_INVALID_ARGUMENT, "dtype 6", "sgd of bools");
  check(param == 1, "a step that failed changed a parameter to %g", param);
  parameters[1].dtype = AL_INT32;
  fails(al_adam_step(device, 2, parameters, 1, 0, 0, 0, 0, 0, 0, 0, nullptr),
        AL_INVALID_ARGUMENT, "dtype 4", "adam of integers");
  fails(al_sgd_step(device, -1, nullptr, 1, 0, 0, 0, 0, nullptr),
        AL_INVALID_ARGUMENT, "-1 parameters", "sgd of less than nothing");
  succeeds(al_sgd_step(device, 0, nullptr, 1, 0, 0, 0, 0, nullptr),
           "sgd of no parameters");
}

}  // namespace native
