/**
 * The kernels of the fused pass, apart from their launchers.
 *
 * What a block does is one of five bodies:
 *   packed_elements   losses per element, 16 bytes at a time
 *   elements          any alignment, whatever is asked: an element a thread
 *   forces            losses per row, rows of three, 16 bytes at a time
 *   rows              short rows, any alignment, whatever is asked: a thread a
 *                     row
 *   long_rows         a warp per row
 * reduce_task() is a kernel for one loss, dtype and body; reduce_tasks() takes
 * its blocks through a table of any tasks.
 *
 * It is bound by memory, so what counts is that every access is 16 bytes wide
 * and coalesced, that several are in flight per thread before the first is
 * used, and that there are many blocks when there is much to do.
 */
#ifndef ATOMLOSS_CUDA_REDUCE_KERNELS_CUH
#define ATOMLOSS_CUDA_REDUCE_KERNELS_CUH

#include "packed.cuh"
#include "task.cuh"

namespace atomloss {

enum class Body : unsigned char {
  kPackedElements,
  kElements,
  kForces,
  kRows,
  kLongRows
};

/** Packs that a thread has in flight of each input. */
constexpr int kUnroll = 2;

/** Rows of at most so many elements are one thread's. */
constexpr int kShortRow = 8;

constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

/**
 * Tasks of one launch. Their table is an argument of the kernel, and copied for
 * every launch: of 4 KiB at most before CUDA 12.1.
 */
#if defined(CUDART_VERSION) && CUDART_VERSION < 12010
constexpr int kLaunchTasks = 10;
#else
constexpr int kLaunchTasks = 16;
#endif

/** The tasks of a launch and how the grid is shared between them. */
struct TaskTable {
  int count;
  int first_task; /* number of the first among all of the call */
  int first_block[kLaunchTasks + 1];
  Body body[kLaunchTasks];
  al_loss_task tasks[kLaunchTasks];
};

/** How a task is cut. */
struct Work {
  Body body;
  int64_t tiles; /* the most blocks that have something to do */
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline Work work_of(const al_loss_task& task, const LossShape& loss,
                    int element_bytes) {
  const bool packed =
      packable(task.pred, task.target, task.grad) && !is_weighted(task);
  const int64_t pack = kPackBytes / element_bytes;
  if (loss.kind == AL_PER_ELEMENT) {
    const int64_t n = task.rows * task.cols;
    if (!packed) return {Body::kElements, divide_up(n, kThreads)};
    return {Body::kPackedElements, divide_up(n, kThreads * kUnroll * pack)};
  }
  if (task.cols == 3 && packed && loss.of_squares)
    return {Body::kForces, divide_up(task.rows, kThreads * pack)};
  // A thread has all columns of a loss that is of them.
  if (task.cols <= kShortRow || loss.columns > 0)
    return {Body::kRows, divide_up(task.rows, kThreads)};
  return {Body::kLongRows, divide_up(task.rows, kWarps)};
}

/** Shared memory of a block for rows of three: differences and slopes. */
template <class S>
constexpr int kSharedBytes = kThreads* Pack<S>::kSize * 4 *
                             static_cast<int>(sizeof(compute_t<S>));

namespace {

/* ---- elements ------------------------------------------------------------*/

/** Value and gradient of an element of a task of which nothing is asked. */
template <class Loss, class S>
__device__ __forceinline__ S plain_element(const TaskView<S>& in, S pred,
                                           S target, int64_t i,
                                           const Parameters<compute_t<S>>& c,
                                           compute_t<S> factor, double& sum,
                                           Told& told) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  T natoms = 1;
  if constexpr (Loss::uses_natoms) {
    const int64_t given = natoms_of(in.task)[in.row_of(i)];
    if (given < 1) {
      ++told.natoms;
      return store<S>(T(0));
    }
    natoms = static_cast<T>(given);
  }
  const T raw = load(pred);
  const bool ok = is_finite(raw, kLargest);
  const T p = nan_to_num(raw, kLargest);
  const T t = in.read_target(target);
  sum += static_cast<double>(Loss::value(p, t, natoms, c));
  told.inputs += !ok;
  told.targets += !is_finite(load(target), kLargest);
  return store<S>(ok ? factor * Loss::grad(p, t, natoms, c) : T(0));
}

/**
 * A block takes tiles of kThreads * kUnroll packs; what is left of less than a
 * pack is done by the first threads of the task.
 */
template <class Loss, class S>
__device__ __forceinline__ double packed_elements(const TaskView<S>& in,
                                                  const Share& share,
                                                  Told& told) {
  using T = compute_t<S>;
  constexpr int kSize = Pack<S>::kSize;
  constexpr int64_t kTilePacks = kThreads * kUnroll;
  const T factor = static_cast<T>(factor_of(in.task));
  const int64_t n = in.elements();
  const int64_t packs = n / kSize;
  const Parameters<T> c(in.task.parameters);
  double sum = 0;

  for (int64_t tile = share.block(); tile * kTilePacks < packs;
       tile += share.blocks) {
    const int64_t first = tile * kTilePacks + threadIdx.x;
    Pack<S> p[kUnroll], t[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = first + u * kThreads;
      if (i < packs) {
        p[u] = load_pack(in.pred, i);
        t[u] = load_pack(in.target, i);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = first + u * kThreads;
      if (i >= packs) break;
      Pack<S> g;
#pragma unroll
      for (int j = 0; j < kSize; ++j)
        g.values[j] = plain_element<Loss>(in, p[u].values[j], t[u].values[j],
                                          i * kSize + j, c, factor, sum, told);
      if (in.grad) store_pack(in.grad, i, g);
    }
  }
  const int64_t i =
      packs * kSize + int64_t{share.block()} * kThreads + threadIdx.x;
  if (i < n) {
    const S g = plain_element<Loss>(in, in.pred[i], in.target[i], i, c, factor,
                                    sum, told);
    if (in.grad) in.grad[i] = g;
  }
  return sum;
}

/** Any alignment, whatever is asked: one element at a time. */
template <class Loss, class S>
__device__ __forceinline__ double elements(const TaskView<S>& in,
                                           const Share& share, Told& told) {
  using T = compute_t<S>;
  const Entries<S> entries = {in.task};
  const Parameters<T> c(in.task.parameters);
  const T factor = static_cast<T>(factor_of(in.task));
  const int64_t n = in.elements();
  double sum = 0;
  for (int64_t i = int64_t{share.block()} * kThreads + threadIdx.x; i < n;
       i += int64_t{share.blocks} * kThreads) {
    const int64_t row = in.row_of(i);
    const S g = one_element<Loss>(entries, c, factor, row, i - row * in.cols,
                                  sum, told);
    if (in.grad) in.grad[i] = g;
  }
  return sum;
}

/* ---- rows ----------------------------------------------------------------*/

/**
 * Rows of three. Packs do not end where rows end, so a warp takes three packs
 * per lane: 32 packs' worth of whole rows, read and written coalesced. Each
 * lane puts the differences of its packs into shared memory, then takes whole
 * rows from there (a stride of three words: no bank conflicts), leaves their
 * slopes, and multiplies the differences it has kept. Only the lanes of one
 * warp share anything, so no block-wide barrier is needed.
 */
template <class Loss, class S>
__device__ __forceinline__ double forces(const TaskView<S>& in,
                                         const Share& share, void* shared,
                                         Told& told) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  constexpr int kSize = Pack<S>::kSize;
  constexpr int kRows = kWarp * kSize; /* of a warp's tile */
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  T* const my_differences = static_cast<T*>(shared) + warp * 4 * kRows;
  T* const my_slopes = my_differences + 3 * kRows;

  const T factor = static_cast<T>(factor_of(in.task));
  const int64_t tiles = in.rows / kRows;
  const int64_t warps = int64_t{share.blocks} * kWarps;
  const Parameters<T> c(in.task.parameters);
  double sum = 0;

  for (int64_t tile = int64_t{share.block()} * kWarps + warp; tile < tiles;
       tile += warps) {
    const int64_t first = tile * 3 * kWarp + lane;
    Pack<S> p[3], t[3];
#pragma unroll
    for (int u = 0; u < 3; ++u) {
      p[u] = load_pack(in.pred, first + u * kWarp);
      t[u] = load_pack(in.target, first + u * kWarp);
    }
    T d[3][kSize];
    unsigned bad = 0; /* one bit per element of this lane */
#pragma unroll
    for (int u = 0; u < 3; ++u) {
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        const T raw = load(p[u].values[j]);
        if (!is_finite(raw, kLargest)) bad |= 1u << (u * kSize + j);
        told.targets += !is_finite(load(t[u].values[j]), kLargest);
        d[u][j] = nan_to_num(raw, kLargest) - in.read_target(t[u].values[j]);
      }
      // In packs again: element by element the lanes would meet in banks.
      constexpr int kWords = Pack<T>::kSize;
      auto* packs = reinterpret_cast<Pack<T>*>(my_differences);
#pragma unroll
      for (int j = 0; j < kSize; j += kWords) {
        Pack<T> pack;
#pragma unroll
        for (int w = 0; w < kWords; ++w) pack.values[w] = d[u][j + w];
        packs[((u * kWarp + lane) * kSize + j) / kWords] = pack;
      }
    }
    told.inputs += __popc(bad);
    __syncwarp(kAllLanes);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const int row = k * kWarp + lane;
      const T x = my_differences[3 * row];
      const T y = my_differences[3 * row + 1];
      const T z = my_differences[3 * row + 2];
      const T s = x * x + y * y + z * z;
      sum += static_cast<double>(Loss::value(s, c));
      if (in.grad) my_slopes[row] = factor * Loss::slope(s, c);
    }
    __syncwarp(kAllLanes);
    if (in.grad) {
#pragma unroll
      for (int u = 0; u < 3; ++u) {
        Pack<S> g;
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
          const int element = (u * kWarp + lane) * kSize + j;
          const bool ok = !(bad >> (u * kSize + j) & 1);
          g.values[j] = store<S>(ok ? my_slopes[element / 3] * d[u][j] : T(0));
        }
        store_pack(in.grad, first + u * kWarp, g);
      }
    }
  }
  // Fewer rows than a warp's tile are left.
  const int64_t row =
      tiles * kRows + int64_t{share.block()} * kThreads + threadIdx.x;
  if (row < in.rows)
    one_row<Loss>(Entries<S>{in.task}, c, factor, row, in.grad, sum, told);
  return sum;
}

/** Short rows, any alignment, whatever is asked: a thread per row. */
template <class Loss, class S>
__device__ __forceinline__ double rows(const TaskView<S>& in,
                                       const Share& share, Told& told) {
  using T = compute_t<S>;
  const Entries<S> entries = {in.task};
  const Parameters<T> c(in.task.parameters);
  const T factor = static_cast<T>(factor_of(in.task));
  double sum = 0;
  for (int64_t row = int64_t{share.block()} * kThreads + threadIdx.x;
       row < in.rows; row += int64_t{share.blocks} * kThreads)
    one_row<Loss>(entries, c, factor, row, in.grad, sum, told);
  return sum;
}

/** Rows of any length, any alignment, whatever is asked: a warp per row. */
template <class Loss, class S>
__device__ __forceinline__ double long_rows(const TaskView<S>& in,
                                            const Share& share, Told& told) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const int lane = threadIdx.x % kWarp;
  const Entries<S> entries = {in.task};
  const Parameters<T> c(in.task.parameters);
  const T factor = static_cast<T>(factor_of(in.task));
  const int64_t warps = int64_t{share.blocks} * kWarps;
  double sum = 0;
  for (int64_t row = int64_t{share.block()} * kWarps + threadIdx.x / kWarp;
       row < in.rows; row += warps) {
    const int64_t first = row * in.cols;
    bool counts = entries.on(row, 0);
    for (int64_t j = lane; j < in.cols; j += kWarp)
      counts = counts && entries.has_label(row, j);
    T w = 0;
    if (__all_sync(kAllLanes, counts)) {
      unsigned factors = 0;  // said once of the row
      w = entries.given_weight(row, 0, factors) * entries.row_factor(row);
      if (lane == 0) told.factors += factors;
    }
    typename Loss::template Row<T> sums;
    if (w != T(0)) {
      for (int64_t j = lane; j < in.cols; j += kWarp) {
        T p, t;
        entries.template seen<Loss>(row, j, p, t, told.factors);
        sums.add(j, p, t);
        told.inputs += !is_finite(load(in.pred[first + j]), kLargest);
        told.targets += !is_finite(load(in.target[first + j]), kLargest);
      }
      // Butterfly: every lane has the sums, added in the same order.
#pragma unroll
      for (int offset = kWarp / 2; offset > 0; offset /= 2)
        sums.merge([&](T x) { return __shfl_xor_sync(kAllLanes, x, offset); });
      if (lane == 0) sum += static_cast<double>(w * sums.value(c));
    }
    if (in.grad == nullptr) continue;
    if (w != T(0)) sums.differentiate(c, factor * w);
    for (int64_t j = lane; j < in.cols; j += kWarp) {
      T g = 0;
      if (w != T(0) && is_finite(load(in.pred[first + j]), kLargest)) {
        unsigned told_already = 0;
        T p, t;
        const T scale = entries.template seen<Loss>(row, j, p, t, told_already);
        g = sums.grad(j, p, t) * scale;
      }
      in.grad[first + j] = store<S>(g);
    }
  }
  return sum;
}

/** A task of which nothing counts: its gradient is 0. */
template <class S>
__device__ __forceinline__ double nothing(const TaskView<S>& in,
                                          const Share& share) {
  const int64_t n = in.grad ? in.elements() : 0;
  for (int64_t i = int64_t{share.block()} * kThreads + threadIdx.x; i < n;
       i += int64_t{share.blocks} * kThreads)
    in.grad[i] = store<S>(0);
  return 0;
}

/* ---- kernels -------------------------------------------------------------*/

/** A body that may be known when this is compiled, or only when it runs. */
template <class Loss, class S>
__device__ __forceinline__ double run_body(Body body, const al_loss_task& task,
                                           const Share& share, void* shared,
                                           Told& told) {
  const TaskView<S> in(task);
  if (is_wrong(task)) return nothing(in, share);
  if constexpr (Loss::kind == AL_PER_ELEMENT) {
    if (body == Body::kPackedElements)
      return packed_elements<Loss>(in, share, told);
    return elements<Loss>(in, share, told);
  } else {
    if constexpr (Loss::of_squares)
      if (body == Body::kForces) return forces<Loss>(in, share, shared, told);
    if constexpr (Loss::columns == 0)
      if (body == Body::kLongRows) return long_rows<Loss>(in, share, told);
    return rows<Loss>(in, share, told);
  }
}

/** One task with all blocks; number is its among those of the total. */
template <class Loss, class S, Body kBody>
__global__ __launch_bounds__(kThreads, kMinBlocks) void reduce_task(
    const __grid_constant__ al_loss_task task, int number, Scratch scratch,
    Total total) {
  constexpr int kBytes = kBody == Body::kForces ? kSharedBytes<S> : 1;
  alignas(kPackBytes) __shared__ char shared[kBytes];
  const Share share = {number, 0, static_cast<int>(gridDim.x)};
  Told told;
  const double mine = run_body<Loss, S>(kBody, task, share, shared, told);
  finish_task(mine, told, task, share, scratch, total);
}

/** Sum of all elements, as the pred of a task. */
template <class S>
__global__ __launch_bounds__(kThreads, kMinBlocks) void sum_elements(
    const __grid_constant__ al_loss_task task, Scratch scratch) {
  const TaskView<S> in(task);
  const int64_t n = in.elements();
  double sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads)
    sum += static_cast<double>(load(in.pred[i]));
  finish_task(sum, {}, task, {0, 0, static_cast<int>(gridDim.x)}, scratch,
              {nullptr, 0, 0});
}

/** The share of this block's task. */
__device__ __forceinline__ Share share_of(const TaskTable& table, int& i) {
  i = 0;
  while (static_cast<int>(blockIdx.x) >= table.first_block[i + 1]) ++i;
  return {table.first_task + i, table.first_block[i],
          table.first_block[i + 1] - table.first_block[i]};
}

}  // namespace
}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_REDUCE_KERNELS_CUH */
