/**
 * The losses on the CPU.
 *
 * Work is cut twice. A block is what one thread takes at a time; its sum has a
 * slot of its own and the slots are added in order, so neither the number of
 * threads nor their timing changes a bit of the result. Within a block a tile
 * of a fixed number of elements goes through plain loops that the compiler
 * turns into vector code: its length is a constant, its inputs (converted to
 * the compute type if need be) and its outputs stay in the first-level cache,
 * and element j of every tile adds to float64 lane j.
 */
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "dispatch.h"
#include "half.h"
#include "loss_ops.h"
#include "parallel.h"
#include "status.h"
#include "stream.h"

namespace atomloss {
namespace {

/** Elements of a tile; divisible by 3, so that it holds whole force vectors. */
constexpr int kTile = 192;

/** Elements of a block. */
constexpr int64_t kBlock = 64 * kTile;

struct Partial {
  double sum;
  int64_t nonfinite;
};

/** The arguments with which every loss function of the ABI begins. */
struct Input {
  int32_t dtype;
  const void* pred;
  const void* target;
  const void* natoms;
  int32_t natoms_dtype;
  int64_t rows;
  int64_t cols;

  int64_t elements() const { return rows * cols; }

  double natoms_at(int64_t row) const {
    return natoms_dtype == AL_INT64
               ? static_cast<double>(static_cast<const int64_t*>(natoms)[row])
               : static_cast<double>(static_cast<const int32_t*>(natoms)[row]);
  }
};

/** n values in their compute type: where they are, or converted in buffer. */
template <class S>
const compute_t<S>* read_tile(const S* from, int n, compute_t<S>* buffer) {
  if constexpr (std::is_same_v<S, compute_t<S>>) {
    return from;
  } else {
    load_block(from, n, buffer);
    return buffer;
  }
}

/** natoms of n rows in the compute type, where the loss reads them. */
template <class Loss, class T>
void read_natoms(const Input& in, int64_t row, int n, T* natoms) {
  if constexpr (Loss::uses_natoms) {
    for (int i = 0; i < n; ++i)
      natoms[i] = static_cast<T>(in.natoms_at(row + i));
  }
}

/* ---- tiles of the fused pass ---------------------------------------------*/

/**
 * What a tile adds to its lane: the value, and NaN where pred is not finite
 * (x * 0 is 0 for every finite x). One multiply-add instead of the comparisons
 * that counting and replacing take; a block whose sum then is not finite is
 * done again with kSanitize.
 */
template <class T>
AL_HD double marked(T value, T x) {
  return static_cast<double>(value + x * T(0));
}

template <class Loss, bool kGrad, bool kSanitize, class T>
AL_HD void element_tile(const T* pred, const T* target, const T* natoms, int n,
                        T factor, T largest, double* lanes, int64_t* nonfinite,
                        T* grad) {
  int32_t bad = 0;
#pragma omp simd reduction(+ : bad)
  for (int i = 0; i < n; ++i) {
    const T atoms = Loss::uses_natoms ? natoms[i] : T(1);
    if (kSanitize) {
      const bool ok = is_finite(pred[i], largest);
      const T p = nan_to_num(pred[i], largest);
      bad += !ok;
      lanes[i] += static_cast<double>(Loss::value(p, target[i], atoms));
      if (kGrad) grad[i] = ok ? factor * Loss::grad(p, target[i], atoms) : T(0);
    } else {
      lanes[i] += marked(Loss::value(pred[i], target[i], atoms), pred[i]);
      if (kGrad) grad[i] = factor * Loss::grad(pred[i], target[i], atoms);
    }
  }
  *nonfinite += bad;
}

/** Rows of three, the shape of forces. */
template <class Loss, bool kGrad, bool kSanitize, class T>
AL_HD void force_tile(const T* pred, const T* target, int rows, T factor,
                      T largest, double* lanes, int64_t* nonfinite, T* grad) {
  alignas(64) T d[kTile];
  alignas(64) T slope[kTile / 3];
  int32_t bad = 0;
#pragma omp simd reduction(+ : bad)
  for (int i = 0; i < 3 * rows; ++i) {
    d[i] = (kSanitize ? nan_to_num(pred[i], largest) : pred[i]) - target[i];
    if (kSanitize) bad += !is_finite(pred[i], largest);
  }
#pragma omp simd
  for (int row = 0; row < rows; ++row) {
    const T x = d[3 * row], y = d[3 * row + 1], z = d[3 * row + 2];
    const T s = x * x + y * y + z * z;
    lanes[row] += kSanitize ? static_cast<double>(Loss::value(s))
                            : marked(Loss::value(s), s);
    slope[row] = factor * Loss::slope(s);
  }
  *nonfinite += bad;
  if (!kGrad) return;
#pragma omp simd
  for (int row = 0; row < rows; ++row) {
    grad[3 * row] = slope[row] * d[3 * row];
    grad[3 * row + 1] = slope[row] * d[3 * row + 1];
    grad[3 * row + 2] = slope[row] * d[3 * row + 2];
  }
  if (kSanitize) {
    for (int i = 0; i < 3 * rows; ++i)
      if (!is_finite(pred[i], largest)) grad[i] = T(0);
  }
}

/* ---- blocks of the fused pass --------------------------------------------*/

/** Elements [begin, end) tile by tile: element losses and rows of three. */
template <class Loss, bool kGrad, bool kSanitize, class S>
Partial reduce_tiles(const Input& in, int64_t begin, int64_t end,
                     compute_t<S> factor, S* grad, bool stream) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  constexpr bool kDirect = std::is_same_v<S, T>;
  const S* pred = static_cast<const S*>(in.pred);
  const S* target = static_cast<const S*>(in.target);
  alignas(64) double lanes[kTile] = {};
  alignas(64) T p_buffer[kTile], t_buffer[kTile], natoms[kTile],
      g_buffer[kTile];
  alignas(64) S g_stored[kTile];
  int64_t nonfinite = 0;

  const auto tile = [&](int64_t at, auto length) {
    const int n = length;
    if (stream) {
      prefetch_ahead(pred + at, n * sizeof(S));
      prefetch_ahead(target + at, n * sizeof(S));
    }
    // The gradient goes straight to its place unless it is to be converted or
    // streamed from a buffer.
    T* g = g_buffer;
    if constexpr (kDirect) {
      if (!stream) g = grad + at;
    }
    const T* p = read_tile(pred + at, n, p_buffer);
    const T* t = read_tile(target + at, n, t_buffer);
    if constexpr (Loss::kind == AL_PER_ROW) {
      force_tile<Loss, kGrad, kSanitize>(p, t, n / 3, factor, kLargest, lanes,
                                         &nonfinite, g);
    } else {
      read_natoms<Loss>(in, at, n, natoms);
      element_tile<Loss, kGrad, kSanitize>(p, t, natoms, n, factor, kLargest,
                                           lanes, &nonfinite, g);
    }
    if (!kGrad || (kDirect && !stream)) return;
    const S* stored;
    if constexpr (kDirect) {
      stored = g;
    } else {
      store_block(g, n, g_stored);
      stored = g_stored;
    }
    if (stream) {
      stream_out(grad + at, stored, n * sizeof(S));
    } else {
      memcpy(grad + at, stored, n * sizeof(S));
    }
  };
  int64_t at = begin;
  for (; at + kTile <= end; at += kTile)
    tile(at, std::integral_constant<int, kTile>());
  if (at < end) tile(at, static_cast<int>(end - at));
  if (stream) stream_fence();

  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return {sum, nonfinite};
}

/** Rows [begin, end) of any other length, one by one. */
template <class Loss, bool kGrad, class S>
Partial reduce_rows(const Input& in, int64_t begin, int64_t end,
                    compute_t<S> factor, S* grad) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  double sum = 0;
  int64_t nonfinite = 0;
  for (int64_t row = begin; row < end; ++row) {
    const S* p = static_cast<const S*>(in.pred) + row * in.cols;
    const S* t = static_cast<const S*>(in.target) + row * in.cols;
    T s = 0;
#pragma omp simd reduction(+ : s, nonfinite)
    for (int64_t j = 0; j < in.cols; ++j) {
      const T x = load(p[j]);
      const T d = nan_to_num(x, kLargest) - load(t[j]);
      s += d * d;
      nonfinite += !is_finite(x, kLargest);
    }
    sum += static_cast<double>(Loss::value(s));
    if (kGrad) {
      const T slope = factor * Loss::slope(s);
      S* g = grad + row * in.cols;
#pragma omp simd
      for (int64_t j = 0; j < in.cols; ++j) {
        const T x = load(p[j]);
        g[j] =
            store<S>(is_finite(x, kLargest) ? slope * (x - load(t[j])) : T(0));
      }
    }
  }
  return {sum, nonfinite};
}

/** The whole fused pass: the sum and, if grad is not NULL, the gradient. */
template <class Loss, bool kGrad, class S>
Partial reduce(const Input& in, double factor, S* grad) {
  const int64_t elements = in.elements();
  const auto scale = static_cast<compute_t<S>>(factor);
  const bool stream =
      kGrad && elements * static_cast<int64_t>(sizeof(S)) >= kStreamBytes;
  const bool long_rows = Loss::kind == AL_PER_ROW && in.cols != 3;
  const int64_t n = long_rows ? in.rows : elements;
  const int64_t block =
      long_rows ? std::max<int64_t>(1, kBlock / std::max<int64_t>(1, in.cols))
                : kBlock;
  std::vector<Partial> partials((n + block - 1) / block);
  for_blocks(n, block, elements, [&](int64_t i, int64_t begin, int64_t end) {
    if (long_rows) {
      if constexpr (Loss::kind == AL_PER_ROW)
        partials[i] = reduce_rows<Loss, kGrad, S>(in, begin, end, scale, grad);
      return;
    }
    partials[i] = reduce_tiles<Loss, kGrad, false, S>(in, begin, end, scale,
                                                      grad, stream);
    if (!std::isfinite(partials[i].sum))
      partials[i] = reduce_tiles<Loss, kGrad, true, S>(in, begin, end, scale,
                                                       grad, stream);
  });
  Partial total = {0, 0};
  for (const Partial& partial : partials) {
    total.sum += partial.sum;
    total.nonfinite += partial.nonfinite;
  }
  return total;
}

/* ---- unreduced loss ------------------------------------------------------*/

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

/* ---- helpers of the reductions -------------------------------------------*/

double factor_of(double scale, const double* normalizer) {
  return normalizer ? scale / *normalizer : scale;
}

/** Writes a value in the width that its dtype asks for. */
void write_result(int32_t dtype, Partial total, double factor,
                  al_loss_result* result) {
  const double value = total.sum * factor;
  result->value = 0;
  if (dtype == AL_FLOAT64) {
    result->value = value;
  } else {
    const float rounded = static_cast<float>(value);
    memcpy(&result->value, &rounded, sizeof rounded);
  }
  result->nonfinite = total.nonfinite;
}

/** Rejects what a caller with checked shapes never passes. */
al_status check(const Input& in, bool uses_natoms) {
  if (in.rows < 0 || in.cols < 0)
    return al_fail(AL_INVALID_ARGUMENT, "negative size: %lld rows, %lld cols",
                   static_cast<long long>(in.rows),
                   static_cast<long long>(in.cols));
  if (!uses_natoms || in.rows == 0) return AL_OK;
  if (in.natoms == nullptr)
    return al_fail(AL_INVALID_ARGUMENT, "this loss needs natoms");
  if (in.natoms_dtype != AL_INT32 && in.natoms_dtype != AL_INT64)
    return al_fail(AL_INVALID_ARGUMENT, "natoms must be int32 or int64");
  return AL_OK;
}

}  // namespace
}  // namespace atomloss

/* ---- ABI -----------------------------------------------------------------*/

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

al_status al_loss_reduce(al_device*, int32_t loss, int32_t dtype,
                         const void* pred, const void* target,
                         const void* natoms, int32_t natoms_dtype, int64_t rows,
                         int64_t cols, double scale, const double* normalizer,
                         al_loss_result* result, void* grad) {
  const Input in = {dtype, pred, target, natoms, natoms_dtype, rows, cols};
  return al_guard([&] {
    return with_loss(loss, [&](auto op) {
      using Loss = decltype(op);
      if (al_status bad = check(in, Loss::uses_natoms)) return bad;
      return with_float_type(dtype, [&](auto type) {
        using S = typename decltype(type)::type;
        const double factor = factor_of(scale, normalizer);
        S* g = static_cast<S*>(grad);
        const Partial total = g ? reduce<Loss, true, S>(in, factor, g)
                                : reduce<Loss, false, S>(in, factor, g);
        write_result(dtype, total, factor, result);
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
      Partial total = {0, 0};
      for (const double partial : partials) total.sum += partial;
      write_result(dtype, total, factor_of(scale, normalizer), result);
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
