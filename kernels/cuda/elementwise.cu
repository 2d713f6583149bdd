/**
 * The small passes around losses that are written elsewhere: one thread per
 * element. A training step uses the fused pass instead.
 */
#include "device.cuh"
#include "reduce_kernels.cuh"

namespace atomloss {
namespace {

/** Enough blocks to fill any GPU; the loops below take the rest. */
constexpr int64_t kMaxBlocks = 1 << 16;

/* ---- kernels -------------------------------------------------------------*/

/** Runs body(i) for every i < n. */
template <class F>
__global__ __launch_bounds__(kThreads) void for_each(int64_t n, F body) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads)
    body(i);
}

template <class S>
struct Fill {
  S* out;
  double coefficient;
  const double* factor; /* NULL: 1 */

  __device__ void operator()(int64_t i) const {
    const double value = factor ? coefficient * *factor : coefficient;
    out[i] = store<S>(static_cast<compute_t<S>>(value));
  }
};

template <class S>
struct NanToNum {
  const S* x;
  S* out;
  unsigned long long* nonfinite;

  __device__ void operator()(int64_t i) const {
    const compute_t<S> value = load(x[i]);
    // An integer: the order of the additions does not matter.
    if (!is_finite(value, Dtype<S>::largest)) atomicAdd(nonfinite, 1ull);
    out[i] = store<S>(nan_to_num(value, Dtype<S>::largest));
  }
};

template <class S>
struct ZeroNonfinite {
  const S* x;
  S* grad;

  __device__ void operator()(int64_t i) const {
    if (!is_finite(load(x[i]), Dtype<S>::largest)) grad[i] = store<S>(0);
  }
};

/* ---- launchers -----------------------------------------------------------*/

template <class F>
al_status launch(al_device* device, int64_t n, F body) {
  if (n == 0) return AL_OK;
  const CurrentDevice current(device->ordinal);
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  const int64_t grid = blocks < kMaxBlocks ? blocks : kMaxBlocks;
  launch_kernel(for_each<F>, static_cast<unsigned>(grid), kThreads,
                device->compute, n, body);
  return AL_OK;
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_sum(al_device* device, int32_t dtype, const void* x, int64_t n,
                 double coefficient, const double* factor,
                 al_loss_result* result) {
  AL_RECORD(device, al_sum, device, dtype, x, n, coefficient, factor, result);
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      al_loss_task task = {};
      task.pred = x;
      task.result = result;
      task.factors = factor;
      task.coefficient = coefficient;
      task.rows = n;
      task.cols = 1;
      task.dtype = dtype;
      task.value_dtype = dtype;
      const CurrentDevice current(device->ordinal);
      const int grid = device->grid(divide_up(n, int64_t{kThreads} * 8));
      launch_kernel(sum_elements<S>, grid, kThreads, device->compute, task,
                    device->scratch);
      return static_cast<al_status>(AL_OK);
    });
  });
}

al_status al_fill(al_device* device, int32_t dtype, void* out, int64_t n,
                  double coefficient, const double* factor) {
  AL_RECORD(device, al_fill, device, dtype, out, n, coefficient, factor);
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      return launch(device, n,
                    Fill<S>{static_cast<S*>(out), coefficient, factor});
    });
  });
}

al_status al_nan_to_num(al_device* device, int32_t dtype, const void* x,
                        int64_t n, void* out, int64_t* nonfinite) {
  AL_RECORD(device, al_nan_to_num, device, dtype, x, n, out, nonfinite);
  return al_guard([&] {
    const CurrentDevice current(device->ordinal);
    AL_CHECK(cudaMemsetAsync(nonfinite, 0, sizeof *nonfinite, device->compute));
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      return launch(
          device, n,
          NanToNum<S>{static_cast<const S*>(x), static_cast<S*>(out),
                      reinterpret_cast<unsigned long long*>(nonfinite)});
    });
  });
}

al_status al_zero_nonfinite(al_device* device, int32_t dtype, const void* x,
                            int64_t n, void* grad) {
  AL_RECORD(device, al_zero_nonfinite, device, dtype, x, n, grad);
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      return launch(
          device, n,
          ZeroNonfinite<S>{static_cast<const S*>(x), static_cast<S*>(grad)});
    });
  });
}
