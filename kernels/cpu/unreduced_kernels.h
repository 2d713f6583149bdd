/** The unreduced losses on the CPU and their gradients. */
#ifndef ATOMLOSS_CPU_UNREDUCED_KERNELS_H
#define ATOMLOSS_CPU_UNREDUCED_KERNELS_H

#include "cpu/loss_input.h"
#include "cpu/parallel.h"

namespace atomloss {

/** Calls f(begin, end) for blocks of whole rows, on several threads. */
template <class F>
void for_row_blocks(const Input& in, F&& f) {
  const int64_t rows =
      std::max<int64_t>(1, kBlock / std::max<int64_t>(1, in.cols));
  for_blocks(in.rows, rows, in.elements(),
             [&](int64_t, int64_t begin, int64_t end) { f(begin, end); });
}

/** The parameters of a call in the type that a loss is computed in. */
template <class T>
Parameters<T> parameters_of(const Input& in) {
  double values[AL_MAX_PARAMETERS];
  std::copy(in.parameters, in.parameters + AL_MAX_PARAMETERS, values);
  return Parameters<T>(values);
}

/** A row with all its numbers. */
template <class Loss, class S>
auto read_row(const Input& in, int64_t row) {
  const S* p = static_cast<const S*>(in.pred) + row * in.cols;
  const S* t = static_cast<const S*>(in.target) + row * in.cols;
  typename Loss::template Row<compute_t<S>> sums;
  for (int64_t j = 0; j < in.cols; ++j) sums.add(j, load(p[j]), load(t[j]));
  return sums;
}

template <class Loss, class S>
void forward(const Input& in, void* to) {
  S* out = static_cast<S*>(to);
  using T = compute_t<S>;
  const auto parameters = parameters_of<T>(in);
  for_row_blocks(in, [&](int64_t begin, int64_t end) {
    const Parameters<T> c = parameters;
    if constexpr (Loss::kind == AL_PER_ROW) {
      for (int64_t row = begin; row < end; ++row)
        out[row] = store<S>(read_row<Loss, S>(in, row).value(c));
    } else {
      const S* p = static_cast<const S*>(in.pred);
      const S* t = static_cast<const S*>(in.target);
      for (int64_t row = begin; row < end; ++row) {
        const T atoms =
            Loss::uses_natoms ? static_cast<T>(in.natoms_at(row)) : T(1);
        for (int64_t i = row * in.cols; i < (row + 1) * in.cols; ++i)
          out[i] = store<S>(Loss::value(load(p[i]), load(t[i]), atoms, c));
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
  const auto parameters = parameters_of<T>(in);
  for_row_blocks(in, [&](int64_t begin, int64_t end) {
    const Parameters<T> c = parameters;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row * in.cols;
      if constexpr (Loss::kind == AL_PER_ROW) {
        const T upstream = grad_output ? load(grad_output[row]) : T(1);
        auto sums = read_row<Loss, S>(in, row);
        sums.differentiate(c, upstream);
        for (int64_t j = 0; j < in.cols; ++j)
          grad[first + j] =
              store<S>(sums.grad(j, load(p[first + j]), load(t[first + j])));
      } else {
        const T atoms =
            Loss::uses_natoms ? static_cast<T>(in.natoms_at(row)) : T(1);
        for (int64_t i = first; i < first + in.cols; ++i) {
          const T upstream = grad_output ? load(grad_output[i]) : T(1);
          grad[i] =
              store<S>(upstream * Loss::grad(load(p[i]), load(t[i]), atoms, c));
        }
      }
    }
  });
}

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_UNREDUCED_KERNELS_H */
