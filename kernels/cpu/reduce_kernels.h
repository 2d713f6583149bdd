/**
 * The fused pass on the CPU: value and gradient of any number of losses, all in
 * one parallel loop.
 *
 * Work is cut twice. A block is what one thread takes at a time; its sum has a
 * slot of its own and the slots are added in order, so neither the number of
 * threads nor their timing changes a bit of the result. Within a block a tile
 * of a fixed number of elements goes through plain loops that the compiler
 * turns into vector code: its length is a constant, its inputs (converted to
 * the compute type if need be) and its outputs stay in the first-level cache,
 * and element j of every tile adds to float64 lane j.
 *
 * The loops look for NaN and infinities in the sum alone; a block whose sum is
 * not finite is done again by a slow path that looks at every element.
 */
#ifndef ATOMLOSS_CPU_REDUCE_KERNELS_H
#define ATOMLOSS_CPU_REDUCE_KERNELS_H

#include <cmath>
#include <cstring>
#include <type_traits>

#include "cpu/loss_input.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"

namespace atomloss {

/** Elements of a tile; divisible by 3, so that it holds whole force vectors. */
constexpr int kTile = 192;
static_assert(kBlock % kTile == 0);

struct Partial {
  double sum;
  int64_t nonfinite;
};

/** What a task is made into: its types resolved, its blocks numbered. */
struct Plan {
  const al_loss_task* task;
  Input in;
  double factor;
  int64_t items;       /* elements, or rows where rows are not tiled */
  int64_t block_items; /* of a block */
  int64_t first_block; /* its number among the blocks of all tasks */
  bool stream;         /* the gradient goes past the caches */
  Partial (*run)(const Plan&, int64_t begin, int64_t end);

  int64_t blocks() const { return (items + block_items - 1) / block_items; }
  bool zero_nonfinite() const { return task->flags & AL_ZERO_NONFINITE; }
  bool weighted() const { return task->mask || task->row_weights; }

  /** Weight of row `row`: 0 where its mask is 0. */
  template <class T>
  T row_weight(int64_t row) const {
    const T weight =
        task->row_weights ? static_cast<const T*>(task->row_weights)[row] : 1;
    const bool per_row = task->flags & AL_MASK_PER_ROW;
    return !task->mask || !per_row || task->mask[row] ? weight : T(0);
  }

  /** The same for the entry of an element, where the mask may have one each. */
  template <class T>
  T element_weight(int64_t element, int64_t row) const {
    const bool per_row = task->flags & AL_MASK_PER_ROW;
    if (task->mask && !per_row && !task->mask[element]) return 0;
    return row_weight<T>(row);
  }
};

/* ---- tiles ---------------------------------------------------------------*/

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

/** natoms of the rows of n elements, where the loss reads them. */
template <class Loss, class T>
void read_natoms(const Input& in, int64_t element, int n, T* natoms) {
  if constexpr (Loss::uses_natoms) {
    for (int i = 0; i < n; ++i) {
      const int64_t row = in.cols == 1 ? element + i : (element + i) / in.cols;
      natoms[i] = static_cast<T>(in.natoms_at(row));
    }
  }
}

/** Weights of `rows` rows from `row` on, of which a mask per entry knows none.
 */
template <class T>
void read_row_weights(const Plan& plan, int64_t row, int rows, T* weights) {
  const al_loss_task& task = *plan.task;
  const T* given = static_cast<const T*>(task.row_weights);
  for (int i = 0; i < rows; ++i) weights[i] = given ? given[row + i] : T(1);
  if (!task.mask || !(task.flags & AL_MASK_PER_ROW)) return;
  const uint8_t* mask = task.mask + row;
  for (int i = 0; i < rows; ++i) weights[i] = mask[i] ? weights[i] : T(0);
}

/** Weights of n elements. */
template <class T>
void read_element_weights(const Plan& plan, int64_t element, int n,
                          T* weights) {
  const int64_t cols = plan.in.cols;
  const int64_t first = element / cols;
  const int rows = static_cast<int>((element + n - 1) / cols - first) + 1;
  alignas(64) T of_rows[kTile];
  read_row_weights(plan, first, rows, of_rows);
  if (cols == 3) {  // forces: tiles hold whole rows
    for (int i = 0; i < rows; ++i)
      weights[3 * i] = weights[3 * i + 1] = weights[3 * i + 2] = of_rows[i];
  } else {
    int64_t i = 0, col = element % cols;
    for (int row = 0; row < rows; ++row, col = 0) {
      const int64_t some = std::min(cols - col, n - i);
      std::fill_n(weights + i, some, of_rows[row]);
      i += some;
    }
  }
  if (!plan.task->mask || plan.task->flags & AL_MASK_PER_ROW) return;
  const uint8_t* mask = plan.task->mask + element;
  for (int i = 0; i < n; ++i) weights[i] = mask[i] ? weights[i] : T(0);
}

/**
 * What a tile adds to its lane: the value, and NaN where x is not finite
 * (x * 0 is 0 for every finite x). One multiply-add instead of the comparisons
 * that counting and replacing take.
 */
template <class T>
AL_HD double marked(T value, T x) {
  return static_cast<double>(value + x * T(0));
}

template <class Loss, bool kGrad, bool kWeighted, class T>
AL_HD void element_tile(const T* pred, const T* target, const T* natoms,
                        const T* weights, int n, T factor, double* lanes,
                        T* grad) {
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const T p = pred[i], t = target[i];
    const T atoms = Loss::uses_natoms ? natoms[i] : T(1);
    if (kWeighted) {
      const T w = weights[i];
      const double entry = marked(w * Loss::value(p, t, atoms), p - t);
      lanes[i] += w != T(0) ? entry : 0.0;
      const T g = factor * w * Loss::grad(p, t, atoms);
      if (kGrad) grad[i] = w != T(0) ? g : T(0);
    } else {
      lanes[i] += marked(Loss::value(p, t, atoms), p - t);
      if (kGrad) grad[i] = factor * Loss::grad(p, t, atoms);
    }
  }
}

/** Rows of three, the shape of forces. */
template <class Loss, bool kGrad, bool kWeighted, class T>
AL_HD void force_tile(const T* pred, const T* target, const T* weights,
                      int rows, T factor, double* lanes, T* grad) {
  alignas(64) T d[kTile];
  alignas(64) T slope[kTile / 3];
#pragma omp simd
  for (int i = 0; i < 3 * rows; ++i) d[i] = pred[i] - target[i];
#pragma omp simd
  for (int row = 0; row < rows; ++row) {
    const T x = d[3 * row], y = d[3 * row + 1], z = d[3 * row + 2];
    const T s = x * x + y * y + z * z;
    if (kWeighted) {
      const T w = weights[row];
      const double entry = marked(w * Loss::value(s), s);
      lanes[row] += w != T(0) ? entry : 0.0;
      slope[row] = factor * w * Loss::slope(s);
    } else {
      lanes[row] += marked(Loss::value(s), s);
      slope[row] = factor * Loss::slope(s);
    }
  }
  if (!kGrad) return;
#pragma omp simd
  for (int row = 0; row < rows; ++row) {
    // Products first: with them under the condition this would be a branch.
    const T x = slope[row] * d[3 * row], y = slope[row] * d[3 * row + 1],
            z = slope[row] * d[3 * row + 2];
    const bool on = !kWeighted || weights[row] != T(0);
    grad[3 * row] = on ? x : T(0);
    grad[3 * row + 1] = on ? y : T(0);
    grad[3 * row + 2] = on ? z : T(0);
  }
}

/* ---- blocks --------------------------------------------------------------*/

/** Elements [begin, end) tile by tile: element losses and rows of three. */
template <class Loss, bool kGrad, bool kWeighted, class S>
Partial run_tiles(const Plan& plan, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  constexpr bool kDirect = std::is_same_v<S, T>;
  const S* pred = static_cast<const S*>(plan.in.pred);
  const S* target = static_cast<const S*>(plan.in.target);
  S* grad = static_cast<S*>(plan.task->grad);
  const T factor = static_cast<T>(plan.factor);
  const bool keep = kGrad && grad != nullptr;
  const bool stream = plan.stream;
  alignas(64) double lanes[kTile] = {};
  alignas(64) T p_buffer[kTile], t_buffer[kTile], natoms[kTile], weights[kTile],
      g_buffer[kTile];
  alignas(64) S g_stored[kTile];

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
      if (keep && !stream) g = grad + at;
    }
    const T* p = read_tile(pred + at, n, p_buffer);
    const T* t = read_tile(target + at, n, t_buffer);
    if constexpr (Loss::kind == AL_PER_ROW) {
      if (kWeighted) read_row_weights(plan, at / 3, n / 3, weights);
      force_tile<Loss, kGrad, kWeighted>(p, t, weights, n / 3, factor, lanes,
                                         g);
    } else {
      if (kWeighted) read_element_weights(plan, at, n, weights);
      read_natoms<Loss>(plan.in, at, n, natoms);
      element_tile<Loss, kGrad, kWeighted>(p, t, natoms, weights, n, factor,
                                           lanes, g);
    }
    if (!keep || (kDirect && !stream)) return;
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
  return {sum, 0};
}

/** Elements [begin, end) one by one, whatever they hold. */
template <class Loss, class S>
Partial run_elements(const Plan& plan, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const S* pred = static_cast<const S*>(plan.in.pred);
  const S* target = static_cast<const S*>(plan.in.target);
  S* grad = static_cast<S*>(plan.task->grad);
  const T factor = static_cast<T>(plan.factor);
  Partial total = {0, 0};
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = i / plan.in.cols;
    const T w = plan.element_weight<T>(i, row);
    T g = 0;
    if (w != T(0)) {
      const T x = load(pred[i]);
      const bool ok = is_finite(x, kLargest);
      const T p = nan_to_num(x, kLargest);
      const T t = read_target(load(target[i]), kLargest, plan.zero_nonfinite());
      const T atoms =
          Loss::uses_natoms ? static_cast<T>(plan.in.natoms_at(row)) : T(1);
      total.sum += static_cast<double>(w * Loss::value(p, t, atoms));
      total.nonfinite += !ok;
      if (ok) g = factor * w * Loss::grad(p, t, atoms);
    }
    if (grad) grad[i] = store<S>(g);
  }
  return total;
}

/** Rows [begin, end) of any length one by one, whatever they hold. */
template <class Loss, class S>
Partial run_rows(const Plan& plan, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const int64_t cols = plan.in.cols;
  const bool zero_nonfinite = plan.zero_nonfinite();
  double sum = 0;
  int64_t nonfinite = 0;
  for (int64_t row = begin; row < end; ++row) {
    const S* p = static_cast<const S*>(plan.in.pred) + row * cols;
    const S* t = static_cast<const S*>(plan.in.target) + row * cols;
    S* grad = static_cast<S*>(plan.task->grad);
    const T w = plan.row_weight<T>(row);
    if (w == T(0)) {
      if (grad) std::fill_n(grad + row * cols, cols, store<S>(T(0)));
      continue;
    }
    const auto difference = [&](int64_t j) {
      return nan_to_num(load(p[j]), kLargest) -
             read_target(load(t[j]), kLargest, zero_nonfinite);
    };
    T s = 0;
#pragma omp simd reduction(+ : s, nonfinite)
    for (int64_t j = 0; j < cols; ++j) {
      const T d = difference(j);
      s += d * d;
      nonfinite += !is_finite(load(p[j]), kLargest);
    }
    sum += static_cast<double>(w * Loss::value(s));
    if (!grad) continue;
    const T slope = static_cast<T>(plan.factor) * w * Loss::slope(s);
    S* g = grad + row * cols;
#pragma omp simd
    for (int64_t j = 0; j < cols; ++j)
      g[j] = store<S>(is_finite(load(p[j]), kLargest) ? slope * difference(j)
                                                      : T(0));
  }
  return {sum, nonfinite};
}

/** A block: by tiles, and again one by one if its sum is not finite. */
template <class Loss, bool kGrad, bool kWeighted, class S>
Partial run_block(const Plan& plan, int64_t begin, int64_t end) {
  const Partial fast = run_tiles<Loss, kGrad, kWeighted, S>(plan, begin, end);
  if (std::isfinite(fast.sum)) return fast;
  if constexpr (Loss::kind == AL_PER_ROW)
    return run_rows<Loss, S>(plan, begin / 3, end / 3);
  else
    return run_elements<Loss, S>(plan, begin, end);
}

/* ---- choice --------------------------------------------------------------*/

/** How a task of this loss and dtype is cut, and what runs its blocks. */
template <class Loss, class S>
void choose(Plan& plan) {
  const int64_t bytes = plan.in.elements() * int64_t{sizeof(S)};
  plan.stream = plan.task->grad && bytes >= kStreamBytes;
  if constexpr (Loss::kind == AL_PER_ROW) {
    if (plan.in.cols != 3) {
      plan.items = plan.in.rows;
      plan.block_items =
          std::max<int64_t>(1, kBlock / std::max<int64_t>(1, plan.in.cols));
      plan.run = run_rows<Loss, S>;
      return;
    }
  }
  plan.items = plan.in.elements();
  plan.block_items = kBlock;
  if (plan.weighted())  // without a gradient too: not worth code of its own
    plan.run = run_block<Loss, true, true, S>;
  else if (plan.task->grad)
    plan.run = run_block<Loss, true, false, S>;
  else
    plan.run = run_block<Loss, false, false, S>;
}

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_REDUCE_KERNELS_H */
