/**
 * The unreduced losses on the CPU and their gradients, and the small passes
 * around losses that are written elsewhere. A training step uses the fused pass
 * of reduce.cpp instead.
 */
#include <cmath>
#include <cstring>
#include <vector>

#include "loss_input.h"
#include "parallel.h"

namespace atomloss {
namespace {

/** Sum over row `row` of (p - t)^2. */
template <class S>
compute_t<S> row_square(const Input& in, int64_t row) {
  const S* p = static_cast<const S*>(in.pred) + row * in.cols;
  const S* t = static_cast<const S*>(in.target) + row * in.cols;
  compute_t<S> s = 0;
  for (int64_t j = 0; j < in.cols; ++j) {
    const compute_t<S> d = load(p[j]) - load(t[j]);
    s += d * d;
  }
  return s;
}

/** Calls f(begin, end) for blocks of whole rows, on several threads. */
template <class F>
void for_row_blocks(const Input& in, F&& f) {
  const int64_t rows =
      std::max<int64_t>(1, kBlock / std::max<int64_t>(1, in.cols));
  for_blocks(in.rows, rows, in.elements(),
             [&](int64_t, int64_t begin, int64_t end) { f(begin, end); });
}

template <class Loss, class S>
void forward(const Input& in, S* out) {
  using T = compute_t<S>;
  for_row_blocks(in, [&](int64_t begin, int64_t end) {
    if constexpr (Loss::kind == AL_PER_ROW) {
      for (int64_t row = begin; row < end; ++row)
        out[row] = store<S>(Loss::value(row_square<S>(in, row)));
    } else {
      const S* p = static_cast<const S*>(in.pred);
      const S* t = static_cast<const S*>(in.target);
      for (int64_t row = begin; row < end; ++row) {
        const T atoms =
            Loss::uses_natoms ? static_cast<T>(in.natoms_at(row)) : T(1);
        for (int64_t i = row * in.cols; i < (row + 1) * in.cols; ++i)
          out[i] = store<S>(Loss::value(load(p[i]), load(t[i]), atoms));
      }
    }
  });
}

template <class Loss, class S>
void backward(const Input& in, const S* grad_output, S* grad) {
  using T = compute_t<S>;
  const S* p = static_cast<const S*>(in.pred);
  const S* t = static_cast<const S*>(in.target);
  for_row_blocks(in, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if constexpr (Loss::kind == AL_PER_ROW) {
        const T upstream = grad_output ? load(grad_output[row]) : T(1);
        const T slope = upstream * Loss::slope(row_square<S>(in, row));
        for (int64_t i = row * in.cols; i < (row + 1) * in.cols; ++i)
          grad[i] = store<S>(slope * (load(p[i]) - load(t[i])));
      } else {
        const T atoms =
            Loss::uses_natoms ? static_cast<T>(in.natoms_at(row)) : T(1);
        for (int64_t i = row * in.cols; i < (row + 1) * in.cols; ++i) {
          const T upstream = grad_output ? load(grad_output[i]) : T(1);
          grad[i] =
              store<S>(upstream * Loss::grad(load(p[i]), load(t[i]), atoms));
        }
      }
    }
  });
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_loss_forward(al_device*, int32_t loss, int32_t dtype,
                          const void* pred, const void* target,
                          const void* natoms, int32_t natoms_dtype,
                          int64_t rows, int64_t cols, void* out) {
  const Input in = {dtype, pred, target, natoms, natoms_dtype, rows, cols};
  return al_guard([&] {
    return with_loss(loss, [&](auto op) {
      using Loss = decltype(op);
      if (al_status bad = check(in, Loss::uses_natoms)) return bad;
      return with_float_type(dtype, [&](auto type) {
        using S = typename decltype(type)::type;
        forward<Loss, S>(in, static_cast<S*>(out));
        return static_cast<al_status>(AL_OK);
      });
    });
  });
}

al_status al_loss_backward(al_device*, int32_t loss, int32_t dtype,
                           const void* pred, const void* target,
                           const void* natoms, int32_t natoms_dtype,
                           int64_t rows, int64_t cols, const void* grad_output,
                           void* grad) {
  const Input in = {dtype, pred, target, natoms, natoms_dtype, rows, cols};
  return al_guard([&] {
    return with_loss(loss, [&](auto op) {
      using Loss = decltype(op);
      if (al_status bad = check(in, Loss::uses_natoms)) return bad;
      return with_float_type(dtype, [&](auto type) {
        using S = typename decltype(type)::type;
        backward<Loss, S>(in, static_cast<const S*>(grad_output),
                          static_cast<S*>(grad));
        return static_cast<al_status>(AL_OK);
      });
    });
  });
}

al_status al_sum(al_device*, int32_t dtype, const void* x, int64_t n,
                 double scale, const double* normalizer,
                 al_loss_result* result) {
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      std::vector<double> partials((n + kBlock - 1) / kBlock);
      for_blocks(n, kBlock, n, [&](int64_t i, int64_t begin, int64_t end) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = begin; j < end; ++j)
          sum += static_cast<double>(load(static_cast<const S*>(x)[j]));
        partials[i] = sum;
      });
      double total = 0;
      for (const double partial : partials) total += partial;
      write_result(dtype, total * factor_of(scale, normalizer), 0, result);
      return static_cast<al_status>(AL_OK);
    });
  });
}

al_status al_fill(al_device*, int32_t dtype, void* out, int64_t n, double scale,
                  const double* normalizer) {
  return with_float_type(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const S value =
        store<S>(static_cast<compute_t<S>>(factor_of(scale, normalizer)));
    for_blocks(n, kBlock, n, [&](int64_t, int64_t begin, int64_t end) {
      std::fill(static_cast<S*>(out) + begin, static_cast<S*>(out) + end,
                value);
    });
    return static_cast<al_status>(AL_OK);
  });
}

al_status al_nan_to_num(al_device*, int32_t dtype, const void* x, int64_t n,
                        void* out, int64_t* nonfinite) {
  return with_float_type(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const S* from = static_cast<const S*>(x);
    S* to = static_cast<S*>(out);
    int64_t bad = 0;
    for (int64_t i = 0; i < n; ++i) {
      const compute_t<S> value = load(from[i]);
      bad += !is_finite(value, Dtype<S>::largest);
      to[i] = store<S>(nan_to_num(value, Dtype<S>::largest));
    }
    *nonfinite = bad;
    return static_cast<al_status>(AL_OK);
  });
}

al_status al_zero_nonfinite(al_device*, int32_t dtype, const void* x, int64_t n,
                            void* grad) {
  return with_float_type(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const S* from = static_cast<const S*>(x);
    S* to = static_cast<S*>(grad);
    for (int64_t i = 0; i < n; ++i)
      if (!is_finite(load(from[i]), Dtype<S>::largest)) to[i] = store<S>(0);
    return static_cast<al_status>(AL_OK);
  });
}
