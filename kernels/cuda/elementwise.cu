/**
 * What has one result per element or row: the unreduced losses, their
 * gradients, and the small passes around losses that are written elsewhere.
 * One thread per element, or per row for losses per row; a training step uses
 * the fused pass of reduce.cu instead.
 */
#include "device.cuh"
#include "input.cuh"
#include "loss_ops.h"

namespace atomloss {
namespace {

constexpr int kThreads = 256;

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

/** Sum over a row of (p - t)^2. */
template <class S>
__device__ compute_t<S> row_square(const Input<S>& in, int64_t row) {
  compute_t<S> s = 0;
  for (int64_t i = row * in.cols; i < (row + 1) * in.cols; ++i) {
    const compute_t<S> d = load(in.pred[i]) - load(in.target[i]);
    s += d * d;
  }
  return s;
}

template <class Loss, class S>
struct Forward {
  Input<S> in;
  S* out;

  __device__ void operator()(int64_t i) const {
    if constexpr (Loss::kind == AL_PER_ROW)
      out[i] = store<S>(Loss::value(row_square(in, i)));
    else
      out[i] = store<S>(Loss::value(load(in.pred[i]), load(in.target[i]),
                                    in.template natoms_at<Loss>(i / in.cols)));
  }
};

template <class Loss, class S>
struct Backward {
  Input<S> in;
  const S* grad_output;
  S* grad;

  __device__ void operator()(int64_t i) const {
    using T = compute_t<S>;
    const T upstream = grad_output ? load(grad_output[i]) : T(1);
    if constexpr (Loss::kind == AL_PER_ROW) {
      const T slope = upstream * Loss::slope(row_square(in, i));
      for (int64_t j = i * in.cols; j < (i + 1) * in.cols; ++j)
        grad[j] = store<S>(slope * (load(in.pred[j]) - load(in.target[j])));
    } else {
      grad[i] = store<S>(upstream *
                         Loss::grad(load(in.pred[i]), load(in.target[i]),
                                    in.template natoms_at<Loss>(i / in.cols)));
    }
  }
};

template <class S>
struct Fill {
  S* out;
  double scale;
  const double* normalizer;

  __device__ void operator()(int64_t i) const {
    const double factor = normalizer ? scale / *normalizer : scale;
    out[i] = store<S>(static_cast<compute_t<S>>(factor));
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
  device->use();
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  const int64_t grid = blocks < kMaxBlocks ? blocks : kMaxBlocks;
  for_each<<<static_cast<int>(grid), kThreads, 0, device->compute>>>(n, body);
  AL_CHECK(cudaGetLastError());
  return AL_OK;
}

/** Threads that a loss takes: one per entry of the unreduced loss. */
template <class Loss, class S>
int64_t entries(const Input<S>& in) {
  return Loss::kind == AL_PER_ROW ? in.rows : in.elements();
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_loss_forward(al_device* device, int32_t loss, int32_t dtype,
                          const void* pred, const void* target,
                          const void* natoms, int32_t natoms_dtype,
                          int64_t rows, int64_t cols, void* out) {
  return al_guard([&] {
    return with_loss(loss, [&](auto op) {
      using Loss = decltype(op);
      return with_float_type(dtype, [&](auto type) {
        using S = typename decltype(type)::type;
        const auto in =
            make_input<Loss, S>(pred, target, natoms, natoms_dtype, rows, cols);
        return launch(device, entries<Loss>(in),
                      Forward<Loss, S>{in, static_cast<S*>(out)});
      });
    });
  });
}

al_status al_loss_backward(al_device* device, int32_t loss, int32_t dtype,
                           const void* pred, const void* target,
                           const void* natoms, int32_t natoms_dtype,
                           int64_t rows, int64_t cols, const void* grad_output,
                           void* grad) {
  return al_guard([&] {
    return with_loss(loss, [&](auto op) {
      using Loss = decltype(op);
      return with_float_type(dtype, [&](auto type) {
        using S = typename decltype(type)::type;
        const auto in =
            make_input<Loss, S>(pred, target, natoms, natoms_dtype, rows, cols);
        return launch(device, entries<Loss>(in),
                      Backward<Loss, S>{in, static_cast<const S*>(grad_output),
                                        static_cast<S*>(grad)});
      });
    });
  });
}

al_status al_fill(al_device* device, int32_t dtype, void* out, int64_t n,
                  double scale, const double* normalizer) {
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      return launch(device, n,
                    Fill<S>{static_cast<S*>(out), scale, normalizer});
    });
  });
}

al_status al_nan_to_num(al_device* device, int32_t dtype, const void* x,
                        int64_t n, void* out, int64_t* nonfinite) {
  return al_guard([&] {
    device->use();
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
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      return launch(
          device, n,
          ZeroNonfinite<S>{static_cast<const S*>(x), static_cast<S*>(grad)});
    });
  });
}
