/** The unreduced losses on the CPU and their gradients. */
#ifndef ATOMLOSS_CPU_UNREDUCED_KERNELS_H
#define ATOMLOSS_CPU_UNREDUCED_KERNELS_H

#include "cpu/loss_input.h"
#include "cpu/parallel.h"

namespace atomloss {

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
void forward(const Input& in, void* to) {
  S* out = static_cast<S*>(to);
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
void backward(const Input& in, const void* upstream_of, void* to) {
  const S* grad_output = static_cast<const S*>(upstream_of);
  S* grad = static_cast<S*>(to);
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

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_UNREDUCED_KERNELS_H */
