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
#include "shared/one_entry.h"

namespace atomloss {

/** Elements of a tile; divisible by 3, so that it holds whole force vectors. */
constexpr int kTile = 192;
static_assert(kBlock % kTile == 0);

struct Partial {
  double sum;
  Remarks remarks;
};

/** What a task is made into: its types resolved, its blocks numbered. */
struct Plan {
  const al_loss_task* task;
  double factor;
  int64_t items;       /* elements, or rows where rows are not tiled */
  int64_t block_items; /* of a block */
  int64_t first_block; /* its number among the blocks of all tasks */
  bool stream;         /* the gradient goes past the caches */
  Partial (*run)(const Plan&, int64_t begin, int64_t end);

  int64_t elements() const { return task->rows * task->cols; }
  int64_t blocks() const { return (items + block_items - 1) / block_items; }
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

/** Stores n values. */
template <class S>
void store_tile(const compute_t<S>* from, int n, S* to) {
  if constexpr (std::is_same_v<S, compute_t<S>>)
    memcpy(to, from, n * sizeof(S));
  else
    store_block(from, n, to);
}

/**
 * natoms of the rows of n elements, where the loss reads them: NaN where there
 * is none, so that the sum is not finite and the slow path sees it.
 */
template <class Loss, class T>
void read_natoms(const al_loss_task& task, int64_t element, int n, T* natoms) {
  if constexpr (Loss::uses_natoms) {
    const Natoms given = natoms_of(task);
    for (int i = 0; i < n; ++i) {
      const int64_t atoms = given[(element + i) / task.cols];
      natoms[i] = atoms > 0 ? static_cast<T>(atoms) : T(NAN);
    }
  }
}

/** Whether a spread has one number for all of a row. */
inline bool is_by_row(const al_spread& spread) {
  return spread.by_row || spread.col_stride == 0;
}

/**
 * Multiplies numbers of `rows` rows from `row` on by those of a spread. One
 * that is not finite stays so: then the sum is not finite either, and the slow
 * path sees it.
 */
template <class T>
void multiply_rows(const al_spread& spread, int64_t row, int rows, T* to) {
  if (spread.values == nullptr || !is_by_row(spread)) return;
  const T* of =
      static_cast<const T*>(spread.by_row ? spread.by_row : spread.values);
  const int64_t stride = spread.by_row ? 1 : spread.row_stride;
  for (int i = 0; i < rows; ++i) to[i] *= of[(row + i) * stride];
}

/** The same of n elements, where each has its own. */
template <class T>
void multiply_elements(const al_spread& spread, int64_t cols, int64_t element,
                       int n, T* to) {
  if (spread.values == nullptr || is_by_row(spread)) return;
  const T* of = static_cast<const T*>(spread.values);
  if (spread.row_stride == cols) {
    for (int i = 0; i < n; ++i) to[i] *= of[element + i];
  } else {  // that of its column
    int64_t col = element % cols;
    for (int i = 0; i < n; ++i, col = col + 1 == cols ? 0 : col + 1)
      to[i] *= of[col];
  }
}

/** Numbers of rows for each of n elements from `element` on. */
template <class T>
void expand_rows(const T* of_rows, int64_t cols, int64_t element, int n,
                 T* to) {
  if (cols == 3 && element % 3 == 0) {  // forces: tiles hold whole rows
    for (int i = 0; i < n / 3; ++i)
      to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = of_rows[i];
    return;
  }
  int64_t i = 0, col = element % cols;
  for (int row = 0; i < n; ++row, col = 0) {
    const int64_t some = std::min(cols - col, n - i);
    std::fill_n(to + i, some, of_rows[row]);
    i += some;
  }
}

/** What the rows weigh, as far as their elements weigh the same. */
template <class S>
void read_row_weights(const Entries<S>& entries, int64_t row, int rows,
                      compute_t<S>* weights) {
  using T = compute_t<S>;
  const al_loss_task& task = entries.task;
  std::fill_n(weights, rows, T(1));
  multiply_rows(task.weights, row, rows, weights);
  if (task.structure_weights) {
    const T* of = static_cast<const T*>(task.structure_weights) + row;
    for (int i = 0; i < rows; ++i) weights[i] *= of[i];
  }
  if (task.groups)
    for (int i = 0; i < rows; ++i) weights[i] *= entries.group_factor(row + i);
  if (task.mask.values == nullptr || !is_by_row(task.mask)) return;
  const auto* mask = static_cast<const uint8_t*>(task.mask.values) + row;
  for (int i = 0; i < rows; ++i) weights[i] = mask[i] ? weights[i] : T(0);
}

/** Weights of n elements that are an entry each; 0 where one does not count. */
template <class S>
void read_element_weights(const Entries<S>& entries, const compute_t<S>* target,
                          int64_t element, int n, compute_t<S>* weights) {
  using T = compute_t<S>;
  const al_loss_task& task = entries.task;
  const int64_t first = element / task.cols;
  const int rows = static_cast<int>((element + n - 1) / task.cols - first) + 1;
  alignas(64) T of_rows[kTile];
  read_row_weights(entries, first, rows, of_rows);
  expand_rows(of_rows, task.cols, element, n, weights);
  multiply_elements(task.weights, task.cols, element, n, weights);
  if (task.mask.values && !is_by_row(task.mask)) {
    const auto* mask = static_cast<const uint8_t*>(task.mask.values) + element;
    for (int i = 0; i < n; ++i) weights[i] = mask[i] ? weights[i] : T(0);
  }
  if (task.targets != AL_TARGETS_LABELS) return;
  for (int i = 0; i < n; ++i)
    weights[i] = is_nan(target[i]) ? T(0) : weights[i];
}

/** Weights of rows that are an entry each. kCols: their columns, as a constant.
 */
template <int kCols, class S>
void read_entry_weights(const Entries<S>& entries, const compute_t<S>* target,
                        int64_t row, int rows, compute_t<S>* weights) {
  using T = compute_t<S>;
  read_row_weights(entries, row, rows, weights);
  if (entries.task.targets != AL_TARGETS_LABELS) return;
  for (int i = 0; i < rows; ++i) {
    bool missing = false;
    for (int j = 0; j < kCols; ++j) missing |= is_nan(target[kCols * i + j]);
    weights[i] = missing ? T(0) : weights[i];
  }
}

/** Scales of n elements; 1 where an entry does not count, whatever it holds. */
template <class Loss, class S>
void read_scales(const al_loss_task& task, int64_t element, int n,
                 const compute_t<S>* weights, compute_t<S>* scales) {
  using T = compute_t<S>;
  const int64_t cols = task.cols, first = element / cols;
  const int rows = static_cast<int>((element + n - 1) / cols - first) + 1;
  alignas(64) T of_rows[kTile], entries[kTile];
  const T* counts = weights;
  if constexpr (Loss::kind == AL_PER_ROW) {
    expand_rows(weights, cols, element, n, entries);
    counts = entries;
  }
  std::fill_n(of_rows, rows, T(1));
  multiply_rows(task.scale, first, rows, of_rows);
  expand_rows(of_rows, cols, element, n, scales);
  multiply_elements(task.scale, cols, element, n, scales);
  for (int i = 0; i < n; ++i) scales[i] = counts[i] != T(0) ? scales[i] : T(1);
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
                        const T* weights, int n, T factor,
                        const Parameters<T>& c, double* lanes, T* grad) {
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const T p = pred[i], t = target[i];
    const T atoms = Loss::uses_natoms ? natoms[i] : T(1);
    const T mark = Loss::uses_natoms ? (p - t) * atoms : p - t;
    if (kWeighted) {
      const T w = weights[i];
      const double entry = marked(w * Loss::value(p, t, atoms, c), mark);
      lanes[i] += w != T(0) ? entry : 0.0;
      const T g = factor * w * Loss::grad(p, t, atoms, c);
      if (kGrad) grad[i] = w != T(0) ? g : T(0);
    } else {
      lanes[i] += marked(Loss::value(p, t, atoms, c), mark);
      if (kGrad) grad[i] = factor * Loss::grad(p, t, atoms, c);
    }
  }
}

/** Rows of three, the shape of forces. */
template <class Loss, bool kGrad, bool kWeighted, class T>
AL_HD void force_tile(const T* pred, const T* target, const T* weights,
                      int rows, T factor, const Parameters<T>& c, double* lanes,
                      T* grad) {
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
      const double entry = marked(w * Loss::value(s, c), s);
      lanes[row] += w != T(0) ? entry : 0.0;
      slope[row] = factor * w * Loss::slope(s, c);
    } else {
      lanes[row] += marked(Loss::value(s, c), s);
      slope[row] = factor * Loss::slope(s, c);
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
  const al_loss_task& task = *plan.task;
  const Entries<S> entries = {task};
  const S* pred = static_cast<const S*>(task.pred);
  const S* target = static_cast<const S*>(task.target);
  S* grad = static_cast<S*>(task.grad);
  const T factor = static_cast<T>(plan.factor);
  const Parameters<T> c(task.parameters);
  const bool keep = kGrad && grad != nullptr;
  const bool stream = plan.stream;
  const bool scaled = kWeighted && task.scale.values;
  alignas(64) double lanes[kTile] = {};
  alignas(64) T p_buffer[kTile], t_buffer[kTile], natoms[kTile], weights[kTile],
      scales[kTile], g_buffer[kTile];
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
    if constexpr (kWeighted) {
      if (Loss::kind == AL_PER_ROW)
        read_entry_weights<3>(entries, t, at / 3, n / 3, weights);
      else
        read_element_weights(entries, t, at, n, weights);
    }
    if (scaled) {
      read_scales<Loss, S>(task, at, n, weights, scales);
      for (int i = 0; i < n; ++i) {
        T seen_p = p[i], seen_t = t[i];
        scale_pair<Loss>(scales[i], seen_p, seen_t);
        p_buffer[i] = seen_p;
        t_buffer[i] = seen_t;
      }
      p = p_buffer;
      t = t_buffer;
    }
    if constexpr (Loss::kind == AL_PER_ROW) {
      force_tile<Loss, kGrad, kWeighted>(p, t, weights, n / 3, factor, c, lanes,
                                         g);
    } else {
      read_natoms<Loss>(task, at, n, natoms);
      element_tile<Loss, kGrad, kWeighted>(p, t, natoms, weights, n, factor, c,
                                           lanes, g);
    }
    if (scaled && kGrad)
      for (int i = 0; i < n; ++i) g[i] *= scales[i];
    if (!keep || (kDirect && !stream)) return;
    if (!stream) {
      store_tile(g, n, grad + at);
    } else if constexpr (kDirect) {
      stream_out(grad + at, g, n * sizeof(S));
    } else {
      store_tile(g, n, g_stored);
      stream_out(grad + at, g_stored, n * sizeof(S));
    }
  };
  int64_t at = begin;
  for (; at + kTile <= end; at += kTile)
    tile(at, std::integral_constant<int, kTile>());
  if (at < end) tile(at, static_cast<int>(end - at));
  if (stream) stream_fence();

  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return {sum, {}};
}

/** Elements [begin, end) one by one, whatever they hold. */
template <class Loss, class S>
Partial run_elements(const Plan& plan, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const al_loss_task& task = *plan.task;
  const Entries<S> entries = {task};
  S* const grad = static_cast<S*>(task.grad);
  const T factor = static_cast<T>(plan.factor);
  const Parameters<T> c(task.parameters);
  Partial all = {0, {}};
  for (int64_t i = begin; i < end; ++i) {
    const S g = one_element<Loss>(entries, c, factor, i / task.cols,
                                  i % task.cols, all.sum, all.remarks);
    if (grad) grad[i] = g;
  }
  return all;
}

/** The same of a long row, of which nothing is asked: vector code. */
template <class Loss, class S>
void plain_row(const Plan& plan, const Parameters<compute_t<S>>& c, int64_t row,
               Partial& all) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const al_loss_task& task = *plan.task;
  const Entries<S> entries = {task};
  const int64_t first = row * task.cols;
  const S* const pred = static_cast<const S*>(task.pred) + first;
  const S* const target = static_cast<const S*>(task.target) + first;
  int64_t inputs = 0, targets = 0;
  T s = 0;
#pragma omp simd reduction(+ : s, inputs, targets)
  for (int64_t j = 0; j < task.cols; ++j) {
    const T d = entries.pred(pred[j]) - entries.target(target[j]);
    s += d * d;
    inputs += !is_finite(load(pred[j]), kLargest);
    targets += !is_finite(load(target[j]), kLargest);
  }
  all.remarks.inputs += inputs;
  all.remarks.targets += targets;
  all.sum += static_cast<double>(Loss::value(s, c));
  if (!task.grad) return;
  const T slope = static_cast<T>(plan.factor) * Loss::slope(s, c);
  S* const grad = static_cast<S*>(task.grad) + first;
#pragma omp simd
  for (int64_t j = 0; j < task.cols; ++j) {
    const T d = entries.pred(pred[j]) - entries.target(target[j]);
    grad[j] = store<S>(is_finite(load(pred[j]), kLargest) ? slope * d : T(0));
  }
}

/** Rows [begin, end) of any length one by one, whatever they hold. */
template <class Loss, class S>
Partial run_rows(const Plan& plan, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const al_loss_task& task = *plan.task;
  const Entries<S> entries = {task};
  const T factor = static_cast<T>(plan.factor);
  const Parameters<T> c(task.parameters);
  Partial all = {0, {}};
  for (int64_t row = begin; row < end; ++row) {
    if constexpr (Loss::of_squares) {
      if (!is_weighted(task)) {
        plain_row<Loss, S>(plan, c, row, all);
        continue;
      }
    }
    one_row<Loss>(entries, c, factor, row, static_cast<S*>(task.grad), all.sum,
                  all.remarks);
  }
  return all;
}

/**
 * Rows [begin, end) of kCols each, tile by tile, of a loss that needs more of a
 * row than the length of its error.
 */
template <class Loss, int kCols, class S>
Partial run_row_tiles(const Plan& plan, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  constexpr int kRows = kTile / kCols;
  const al_loss_task& task = *plan.task;
  const Entries<S> entries = {task};
  const bool weighted = is_weighted(task);
  const T factor = static_cast<T>(plan.factor);
  const Parameters<T> c(task.parameters);
  alignas(64) double lanes[kRows] = {};
  alignas(64) T p_buffer[kTile], t_buffer[kTile], weights[kRows], g[kTile];
  std::fill_n(weights, kRows, T(1));
  for (int64_t row = begin; row < end; row += kRows) {
    const int rows = static_cast<int>(std::min<int64_t>(kRows, end - row));
    const int n = rows * kCols;
    const int64_t at = row * kCols;
    const T* p = read_tile(static_cast<const S*>(task.pred) + at, n, p_buffer);
    const T* t =
        read_tile(static_cast<const S*>(task.target) + at, n, t_buffer);
    if (weighted) read_entry_weights<kCols>(entries, t, row, rows, weights);
#pragma omp simd
    for (int i = 0; i < rows; ++i) {
      typename Loss::template Row<T> sums;
      T mark = 0;
#pragma GCC unroll 16
      for (int j = 0; j < kCols; ++j) {
        sums.add(j, p[kCols * i + j], t[kCols * i + j]);
        mark += p[kCols * i + j] - t[kCols * i + j];
      }
      const T w = weights[i];
      const double entry = marked(w * sums.value(c), mark);
      lanes[i] += w != T(0) ? entry : 0.0;
      sums.differentiate(c, factor * w);
#pragma GCC unroll 16
      for (int j = 0; j < kCols; ++j) {
        const T slope = sums.grad(j, p[kCols * i + j], t[kCols * i + j]);
        g[kCols * i + j] = w != T(0) ? slope : T(0);
      }
    }
    if (task.grad) store_tile(g, n, static_cast<S*>(task.grad) + at);
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return {sum, {}};
}

/** A block of rows: by tiles, and again one by one if its sum is not finite. */
template <class Loss, int kCols, class S>
Partial run_row_block(const Plan& plan, int64_t begin, int64_t end) {
  const Partial fast = run_row_tiles<Loss, kCols, S>(plan, begin, end);
  return std::isfinite(fast.sum) ? fast : run_rows<Loss, S>(plan, begin, end);
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

/** A task of which nothing counts: its gradient is 0. */
template <class S>
Partial run_nothing(const Plan& plan, int64_t begin, int64_t end) {
  S* grad = static_cast<S*>(plan.task->grad);
  if (grad) std::fill(grad + begin, grad + end, store<S>(0));
  return {0, {}};
}

/** How a task of this loss and dtype is cut, and what runs its blocks. */
template <class Loss, class S>
void choose(Plan& plan) {
  const al_loss_task& task = *plan.task;
  const int64_t bytes = plan.elements() * int64_t{sizeof(S)};
  plan.stream = task.grad && bytes >= kStreamBytes;
  plan.items = plan.elements();
  plan.block_items = kBlock;
  if (is_wrong(task)) {
    plan.run = run_nothing<S>;
    return;
  }
  if constexpr (Loss::kind == AL_PER_ROW) {
    if (!Loss::of_squares || task.cols != 3) {
      plan.items = task.rows;
      plan.block_items =
          std::max<int64_t>(1, kBlock / std::max<int64_t>(1, task.cols));
      plan.run = run_rows<Loss, S>;
      // Of columns, and of what forces have: those there are most of.
      constexpr int kCols = Loss::columns > 0 ? Loss::columns : 3;
      if constexpr (!Loss::of_squares && kCols <= kTile) {
        if (task.cols == kCols && !task.scale.values)
          plan.run = run_row_block<Loss, kCols, S>;
      }
      return;
    }
  }
  if constexpr (Loss::kind == AL_PER_ELEMENT || Loss::of_squares) {
    if (is_weighted(task))  // without a gradient too: not worth code of its own
      plan.run = run_block<Loss, true, true, S>;
    else if (task.grad)
      plan.run = run_block<Loss, true, false, S>;
    else
      plan.run = run_block<Loss, false, false, S>;
  }
}

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_REDUCE_KERNELS_H */
