/**
 * The kernels behind al_count_samples(), apart from their launchers so that
 * tests/cuda_emulation can run this text on a machine without a GPU. Counts are
 * integers: the order in which atomics add them does not matter.
 */
#ifndef ATOMLOSS_CUDA_SAMPLES_KERNELS_CUH
#define ATOMLOSS_CUDA_SAMPLES_KERNELS_CUH

#include "structure_offsets.cuh"
#include "task.cuh"

namespace atomloss {

/** Entries of a mask that are not 0, times per_entry, added to *count. */
struct MaskToCount {
  const uint8_t* mask; /* NULL: all n */
  int64_t n;
  int64_t per_entry;
  unsigned long long* count;
};

/** As many as one launch counts. */
constexpr int kMasks = 64;

struct MaskTable {
  MaskToCount of[kMasks];
};

namespace {

/** A row of blocks per mask. */
__global__ __launch_bounds__(kThreads) void count_masks(
    const __grid_constant__ MaskTable table) {
  using Reduce = cub::BlockReduce<long long, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  const MaskToCount& of = table.of[blockIdx.y];
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  long long mine = 0;
  if (of.mask == nullptr) {
    if (blockIdx.x == 0 && threadIdx.x == 0) mine = of.n;
  } else {
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < of.n;
         i += stride)
      mine += of.mask[i] != 0;
  }
  const long long block = Reduce(storage).Sum(mine);
  if (threadIdx.x == 0 && block != 0)
    atomicAdd(of.count, static_cast<unsigned long long>(block * of.per_entry));
}

/** One block: offsets[i] = first row of structure i, [structures] = their end.
 */
__global__ __launch_bounds__(kThreads) void structure_offsets(
    const __grid_constant__ al_loss_task task, int64_t* offsets) {
  const int64_t end = for_structures<kThreads>(
      natoms_of(task), task.structures, task.rows,
      [&](int64_t i, int64_t first, int64_t) { offsets[i] = first; });
  if (threadIdx.x == 0) offsets[task.structures] = end;
}

/**
 * Whether the mask leaves an entry of a row. loses becomes true if the loss of
 * one is not 0; once it is, nothing but the mask is read.
 */
template <class Loss, class S>
__device__ __forceinline__ bool free_row(const TaskView<S>& in, int64_t row,
                                         bool& loses) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const al_loss_task& task = in.task;
  const bool per_row = Loss::kind == AL_PER_ROW || task.flags & AL_MASK_PER_ROW;
  if (task.mask && per_row && !task.mask[row]) return false;
  bool any = per_row || !task.mask;
  T squares = 0;
  for (int64_t i = row * in.cols; i < (row + 1) * in.cols; ++i) {
    if (task.mask && !per_row && !task.mask[i]) continue;
    any = true;
    if (loses) break;
    const T p = nan_to_num(load(in.pred[i]), kLargest);
    const T t = in.read_target(in.target[i]);
    if constexpr (Loss::kind == AL_PER_ROW)
      squares += (p - t) * (p - t);
    else
      loses = Loss::value(p, t, T(1)) != T(0);
  }
  if constexpr (Loss::kind == AL_PER_ROW)
    loses = loses || Loss::value(squares) != T(0);
  return any;
}

/**
 * A block per structure weighs its rows. All weigh 0 if natoms is wrong, which
 * is said behind them.
 */
template <class Loss, class S>
__global__ __launch_bounds__(kThreads) void weigh_structures(
    const __grid_constant__ al_loss_task task, const int64_t* offsets,
    unsigned long long* count) {
  using T = compute_t<S>;
  using Reduce = cub::BlockReduce<long long, kThreads>;
  // One sum for both: free rows, and below them the threads with a loss.
  constexpr long long kRow = 2 * kThreads;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ T weight;
  const TaskView<S> in(task);
  T* const weights = static_cast<T*>(task.row_weights);
  const bool bad_natoms = offsets[task.structures] != task.rows;
  if (blockIdx.x == 0 && threadIdx.x == 0)
    weights[task.rows] = static_cast<T>(bad_natoms);
  if (bad_natoms) {
    for (int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
         row < task.rows; row += int64_t{gridDim.x} * kThreads)
      weights[row] = 0;
    return;
  }
  for (int64_t structure = blockIdx.x; structure < task.structures;
       structure += gridDim.x) {
    const int64_t first = offsets[structure], end = offsets[structure + 1];
    long long mine = 0;
    bool loses = false;
    for (int64_t row = first + threadIdx.x; row < end; row += kThreads)
      mine += free_row<Loss>(in, row, loses) ? kRow : 0;
    const long long all = Reduce(storage).Sum(mine + loses);
    if (threadIdx.x == 0) {
      const long long free_rows = all / kRow;
      const long long divisor = free_rows > 0 ? free_rows : end - first;
      weight = T(1) / static_cast<T>(divisor > 0 ? divisor : 1);
      if (all % kRow != 0) atomicAdd(count, 1ull);
    }
    __syncthreads();
    const T of_rows = weight;
    for (int64_t row = first + threadIdx.x; row < end; row += kThreads)
      weights[row] = of_rows;
    __syncthreads();  // weight and storage may be written again
  }
}

}  // namespace
}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_SAMPLES_KERNELS_CUH */
