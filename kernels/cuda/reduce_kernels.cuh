/**
 * The kernels of the fused pass, apart from their launchers so that
 * tests/cuda_emulation can run this text on a machine without a GPU.
 *   reduce_elements   losses per element
 *   reduce_forces     losses per row, rows of three
 *   reduce_rows       losses per row, rows of any other length
 *   sum_elements      the plain sum
 * The first two also come in a form for arrays that are not aligned to 16
 * bytes.
 */
#ifndef ATOMLOSS_CUDA_REDUCE_KERNELS_CUH
#define ATOMLOSS_CUDA_REDUCE_KERNELS_CUH

#include "block_sum.cuh"
#include "input.cuh"
#include "loss_ops.h"
#include "packed.cuh"

namespace atomloss {
namespace {

/** Packs that a thread has in flight of each input. */
constexpr int kUnroll = 2;

/** Value and gradient of one element; the gradient is 0 where p is not finite.
 */
template <class Loss, bool kGrad, class S>
__device__ __forceinline__ S one_element(S pred, S target, compute_t<S> natoms,
                                         compute_t<S> factor, double& sum,
                                         int& nonfinite) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const T raw = load(pred);
  const bool ok = is_finite(raw, kLargest);
  const T p = nan_to_num(raw, kLargest);
  const T t = load(target);
  sum += static_cast<double>(Loss::value(p, t, natoms));
  nonfinite += !ok;
  if constexpr (!kGrad) return S();
  return store<S>(ok ? factor * Loss::grad(p, t, natoms) : T(0));
}

/**
 * Losses per element. A block takes tiles of kThreads * kUnroll packs; what is
 * left of less than a pack is done by the first threads of the grid.
 */
template <class Loss, bool kGrad, class S>
__global__ __launch_bounds__(kThreads,
                             kMinBlocks) void reduce_elements(Input<S> in,
                                                              Output out,
                                                              S* grad) {
  using T = compute_t<S>;
  constexpr int kSize = Pack<S>::kSize;
  constexpr int64_t kTilePacks = kThreads * kUnroll;
  const T factor = static_cast<T>(out.factor());
  const int64_t n = in.elements();
  const int64_t packs = n / kSize;
  double sum = 0;
  int nonfinite = 0;
  long long total_nonfinite = 0;

  for (int64_t tile = blockIdx.x; tile * kTilePacks < packs;
       tile += gridDim.x) {
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
        g.values[j] = one_element<Loss, kGrad>(
            p[u].values[j], t[u].values[j],
            in.template natoms_at<Loss>(i * kSize + j), factor, sum, nonfinite);
      if (kGrad) store_pack(grad, i, g);
    }
    total_nonfinite += nonfinite;
    nonfinite = 0;
  }
  const int64_t i =
      packs * kSize + int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) {
    const S g = one_element<Loss, kGrad>(in.pred[i], in.target[i],
                                         in.template natoms_at<Loss>(i), factor,
                                         sum, nonfinite);
    if (kGrad) grad[i] = g;
  }
  finish_sum({sum, total_nonfinite + nonfinite}, out);
}

/** The same for arrays of any alignment: one element at a time. */
template <class Loss, bool kGrad, class S>
__global__ __launch_bounds__(
    kThreads, kMinBlocks) void reduce_elements_unaligned(Input<S> in,
                                                         Output out, S* grad) {
  using T = compute_t<S>;
  const T factor = static_cast<T>(out.factor());
  const int64_t n = in.elements();
  double sum = 0;
  long long total_nonfinite = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    int nonfinite = 0;
    const S g = one_element<Loss, kGrad>(in.pred[i], in.target[i],
                                         in.template natoms_at<Loss>(i), factor,
                                         sum, nonfinite);
    if (kGrad) grad[i] = g;
    total_nonfinite += nonfinite;
  }
  finish_sum({sum, total_nonfinite}, out);
}

constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

/** One row at a time, one lane after another: the end of reduce_forces. */
template <class Loss, bool kGrad, class S>
__device__ __forceinline__ void one_force(const Input<S>& in, int64_t row,
                                          compute_t<S> factor, double& sum,
                                          int& nonfinite, S* grad) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  T d[3];
  bool ok[3];
  T s = 0;
#pragma unroll
  for (int j = 0; j < 3; ++j) {
    const T raw = load(in.pred[3 * row + j]);
    ok[j] = is_finite(raw, kLargest);
    d[j] = nan_to_num(raw, kLargest) - load(in.target[3 * row + j]);
    s += d[j] * d[j];
    nonfinite += !ok[j];
  }
  sum += static_cast<double>(Loss::value(s));
  if constexpr (kGrad) {
    const T slope = factor * Loss::slope(s);
#pragma unroll
    for (int j = 0; j < 3; ++j)
      grad[3 * row + j] = store<S>(ok[j] ? slope * d[j] : T(0));
  }
}

/**
 * Rows of three. Packs do not end where rows end, so a warp takes three packs
 * per lane: 32 packs' worth of whole rows, read and written coalesced. Each
 * lane puts the differences of its packs into shared memory, then takes whole
 * rows from there (a stride of three words: no bank conflicts), leaves their
 * slopes, and multiplies the differences it has kept. Only the lanes of one
 * warp share anything, so no block-wide barrier is needed.
 */
template <class Loss, bool kGrad, class S>
__global__ __launch_bounds__(kThreads,
                             kMinBlocks) void reduce_forces(Input<S> in,
                                                            Output out,
                                                            S* grad) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  constexpr int kSize = Pack<S>::kSize;
  constexpr int kRows = kWarp * kSize; /* of a warp's tile */
  alignas(kPackBytes) __shared__ T differences[kWarps][3 * kRows];
  __shared__ T slopes[kWarps][kRows];
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  T* const my_differences = differences[warp];
  T* const my_slopes = slopes[warp];

  const T factor = static_cast<T>(out.factor());
  const int64_t tiles = in.rows / kRows;
  const int64_t warps = int64_t{gridDim.x} * kWarps;
  double sum = 0;
  long long total_nonfinite = 0;
  int nonfinite = 0;

  for (int64_t tile = int64_t{blockIdx.x} * kWarps + warp; tile < tiles;
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
        d[u][j] = nan_to_num(raw, kLargest) - load(t[u].values[j]);
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
    nonfinite = __popc(bad);
    total_nonfinite += nonfinite;
    __syncwarp(kAllLanes);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const int row = k * kWarp + lane;
      const T x = my_differences[3 * row];
      const T y = my_differences[3 * row + 1];
      const T z = my_differences[3 * row + 2];
      const T s = x * x + y * y + z * z;
      sum += static_cast<double>(Loss::value(s));
      if (kGrad) my_slopes[row] = factor * Loss::slope(s);
    }
    __syncwarp(kAllLanes);
    if constexpr (kGrad) {
#pragma unroll
      for (int u = 0; u < 3; ++u) {
        Pack<S> g;
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
          const int element = (u * kWarp + lane) * kSize + j;
          const bool ok = !(bad >> (u * kSize + j) & 1);
          g.values[j] = store<S>(ok ? my_slopes[element / 3] * d[u][j] : T(0));
        }
        store_pack(grad, first + u * kWarp, g);
      }
    }
  }
  // Fewer rows than a warp's tile are left.
  nonfinite = 0;
  const int64_t row =
      tiles * kRows + int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row < in.rows)
    one_force<Loss, kGrad>(in, row, factor, sum, nonfinite, grad);
  finish_sum({sum, total_nonfinite + nonfinite}, out);
}

/** Rows of three in arrays of any alignment: a thread per row. */
template <class Loss, bool kGrad, class S>
__global__ __launch_bounds__(kThreads, kMinBlocks) void reduce_forces_unaligned(
    Input<S> in, Output out, S* grad) {
  const auto factor = static_cast<compute_t<S>>(out.factor());
  double sum = 0;
  long long total_nonfinite = 0;
  for (int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
       row < in.rows; row += int64_t{gridDim.x} * kThreads) {
    int nonfinite = 0;
    one_force<Loss, kGrad>(in, row, factor, sum, nonfinite, grad);
    total_nonfinite += nonfinite;
  }
  finish_sum({sum, total_nonfinite}, out);
}

/** Rows of any length: a warp per row. */
template <class Loss, bool kGrad, class S>
__global__ __launch_bounds__(kThreads, kMinBlocks) void reduce_rows(Input<S> in,
                                                                    Output out,
                                                                    S* grad) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const int lane = threadIdx.x % kWarp;
  const T factor = static_cast<T>(out.factor());
  const int64_t warps = int64_t{gridDim.x} * kWarps;
  double sum = 0;
  long long nonfinite = 0;
  for (int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
       row < in.rows; row += warps) {
    const S* p = in.pred + row * in.cols;
    const S* t = in.target + row * in.cols;
    T s = 0;
    for (int64_t j = lane; j < in.cols; j += kWarp) {
      const T raw = load(p[j]);
      nonfinite += !is_finite(raw, kLargest);
      const T d = nan_to_num(raw, kLargest) - load(t[j]);
      s += d * d;
    }
    // Butterfly: every lane has the sum, added in the same order.
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      s += __shfl_xor_sync(kAllLanes, s, offset);
    if (lane == 0) sum += static_cast<double>(Loss::value(s));
    if constexpr (kGrad) {
      const T slope = factor * Loss::slope(s);
      S* g = grad + row * in.cols;
      for (int64_t j = lane; j < in.cols; j += kWarp) {
        const T raw = load(p[j]);
        g[j] = store<S>(is_finite(raw, kLargest) ? slope * (raw - load(t[j]))
                                                 : T(0));
      }
    }
  }
  finish_sum({sum, nonfinite}, out);
}

/** Sum of all elements. */
template <class S>
__global__ __launch_bounds__(kThreads,
                             kMinBlocks) void sum_elements(const S* x,
                                                           int64_t n,
                                                           Output out) {
  double sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads)
    sum += static_cast<double>(load(x[i]));
  finish_sum({sum, 0}, out);
}

}  // namespace
}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_REDUCE_KERNELS_CUH */
