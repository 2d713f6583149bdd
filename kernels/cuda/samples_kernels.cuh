/**
 * The kernels behind al_count_samples(), apart from their launchers so that
 * tests can run this text on a machine without a GPU. Counts are whole numbers,
 * and the order in which atomics add them does not matter; sums of weights are
 * added in the order of the blocks, as losses are.
 */
#ifndef ATOMLOSS_CUDA_SAMPLES_KERNELS_CUH
#define ATOMLOSS_CUDA_SAMPLES_KERNELS_CUH

#include "structure_offsets.cuh"
#include "task.cuh"

namespace atomloss {

/** A task whose samples are counted. */
struct TaskToCount {
  al_loss_task task;
  al_loss_kind kind;
  double* counts;         /* of its groups; 0 before */
  const int64_t* offsets; /* of its structures, and where they end */
};

/** As many as one launch takes: they are arguments of the kernel. */
constexpr int kCountTasks = 10;

struct CountTable {
  int count;
  int first_task; /* number of the first among all of the call */
  TaskToCount of[kCountTasks];
};

namespace {

/**
 * A block per task says what is wrong with the natoms of its structures; where
 * nothing is, offsets[i] = the first row of structure i, [structures] = the
 * end.
 */
__global__ __launch_bounds__(kThreads) void structure_offsets(
    const __grid_constant__ CountTable table) {
  const TaskToCount& of = table.of[blockIdx.x];
  const al_loss_task& task = of.task;
  auto* const offsets = const_cast<int64_t*>(of.offsets);
  int64_t end = task.rows;
  if (offsets != nullptr)
    end = for_structures<kThreads>(
        natoms_of(task), task.structures, task.rows,
        [&](int64_t i, int64_t first, int64_t) { offsets[i] = first; });
  if (threadIdx.x != 0) return;
  if (offsets != nullptr) offsets[task.structures] = end;
  if (task.wrong == nullptr) return;
  task.wrong[0] = end != task.rows;
  task.wrong[1] = 0;
}

/** Writes the numbers of rows of a spread that is of structures. */
template <class T>
__device__ __forceinline__ void spread_rows(const al_spread& spread,
                                            const TaskToCount& of) {
  if (spread.by_row == nullptr) return;
  T* const to = static_cast<T*>(spread.by_row);
  for (int64_t i = blockIdx.x; i < of.task.structures; i += gridDim.x) {
    const T x = static_cast<const T*>(spread.values)[i];
    for (int64_t row = of.offsets[i] + threadIdx.x; row < of.offsets[i + 1];
         row += kThreads)
      to[row] = x;
  }
}

/** A row of blocks per task. */
__global__ __launch_bounds__(kThreads) void spread_structures(
    const __grid_constant__ CountTable table) {
  const TaskToCount& of = table.of[blockIdx.y];
  if (of.offsets == nullptr || is_wrong(of.task)) return;
  const bool wide = of.task.dtype == AL_FLOAT64;
  for (const al_spread* spread : {&of.task.weights, &of.task.scale}) {
    if (wide)
      spread_rows<double>(*spread, of);
    else
      spread_rows<float>(*spread, of);
  }
}

/* ---- entries -------------------------------------------------------------*/

/** The samples of a row. */
template <class S>
__device__ __forceinline__ double samples_of_row(const TaskToCount& of,
                                                 int64_t row) {
  const Entries<S> entries = {of.task};
  const bool weights = of.task.samples == AL_WEIGHTS;
  unsigned told = 0;  // by the fused pass
  if (of.kind == AL_PER_ROW) {
    if (!entries.row_counts(row)) return 0;
    return weights ? static_cast<double>(entries.given_weight(row, 0, told))
                   : 1;
  }
  double sum = 0;
  for (int64_t col = 0; col < of.task.cols; ++col)
    if (entries.element_counts(row, col))
      sum += weights ? static_cast<double>(entries.given_weight(row, col, told))
                     : 1;
  return sum;
}

/** The samples of this block's rows of a task without groups. */
template <class S>
__device__ __forceinline__ double count_rows(const TaskToCount& of) {
  const Entries<S> entries = {of.task};
  const al_loss_task& task = of.task;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  const bool labels = task.targets == AL_TARGETS_LABELS;
  double sum = 0;
  if (of.kind == AL_PER_ROW || task.samples == AL_WEIGHTS) {
    for (int64_t row = first; row < task.rows; row += stride)
      sum += samples_of_row<S>(of, row);
  } else if (!labels && task.mask.col_stride == 0) {
    const double each = static_cast<double>(task.cols);
    for (int64_t row = first; row < task.rows; row += stride)
      sum += entries.on(row, 0) ? each : 0;
  } else {  // neighbours read neighbours
    const int64_t n = task.rows * task.cols;
    const TaskView<S> in(task);
    for (int64_t i = first; i < n; i += stride) {
      const int64_t row = in.row_of(i);
      sum += entries.element_counts(row, i - row * task.cols) ? 1 : 0;
    }
  }
  return sum;
}

/** Groups that a block counts by itself, before it adds to what all have. */
constexpr int kBlockGroups = 1024;

/** Adds this block's rows to the counts of their groups, as whole numbers. */
template <class S>
__device__ __forceinline__ void count_groups(const TaskToCount& of,
                                             unsigned* of_block) {
  const al_loss_task& task = of.task;
  auto* const counts = reinterpret_cast<unsigned long long*>(of.counts);
  auto* const wrong = reinterpret_cast<unsigned long long*>(&task.wrong[1]);
  const Integers groups = groups_of(task);
  const bool few = task.group_count <= kBlockGroups;
  if (few) {
    for (int g = static_cast<int>(threadIdx.x); g < task.group_count;
         g += kThreads)
      of_block[g] = 0;
    __syncthreads();
  }
  for (int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
       row < task.rows; row += int64_t{gridDim.x} * kThreads) {
    const int64_t group = groups[row];
    if (group < 0 || group >= task.group_count) {
      atomicAdd(wrong, 1ull);
      continue;
    }
    const auto n = static_cast<unsigned>(samples_of_row<S>(of, row));
    if (n == 0) continue;
    if (few)
      atomicAdd(&of_block[group], n);
    else
      atomicAdd(&counts[group], 1ull * n);
  }
  if (!few) return;
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x); g < task.group_count;
       g += kThreads)
    if (of_block[g] != 0) atomicAdd(&counts[g], 1ull * of_block[g]);
}

/** f with the storage type of a task. */
template <class F>
__device__ __forceinline__ void with_storage(int32_t dtype, const F& f) {
  if (dtype == AL_FLOAT32)
    f(float());
  else if (dtype == AL_FLOAT64)
    f(double());
  else if (dtype == AL_FLOAT16)
    f(float16());
  else
    f(bfloat16());
}

/**
 * A row of blocks per task; the last block of each finishes it. Tasks that
 * count structures are weighed elsewhere.
 */
__global__ __launch_bounds__(kThreads, kMinBlocks) void count_entries(
    const __grid_constant__ CountTable table, Scratch scratch) {
  using Reduce = cub::BlockReduce<double, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ bool is_last;
  __shared__ unsigned of_block[kBlockGroups];
  const TaskToCount& of = table.of[blockIdx.y];
  const al_loss_task& task = of.task;
  if (task.samples != AL_ENTRIES && task.samples != AL_WEIGHTS) return;
  double mine = 0;
  // Which groups are wrong, the blocks are about to find out.
  if (!task.wrong || task.wrong[0] == 0)
    with_storage(task.dtype, [&](auto stored) {
      using S = decltype(stored);
      if (task.groups)
        count_groups<S>(of, of_block);
      else
        mine = count_rows<S>(of);
    });
  __threadfence();
  const double block = Reduce(storage).Sum(mine);
  double* const slots = scratch.partials + blockIdx.y * gridDim.x;
  if (threadIdx.x == 0) {
    __stcg(&slots[blockIdx.x], block);
    __threadfence();
    const auto last = gridDim.x - 1;
    is_last = atomicInc(&scratch.tickets[blockIdx.y], last) == last;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  if (task.groups) {
    // What was counted as whole numbers becomes numbers; nothing, where a group
    // is not there.
    const bool wrong =
        __ldcg(&task.wrong[0]) != 0 || __ldcg(&task.wrong[1]) != 0;
    for (int g = static_cast<int>(threadIdx.x); g < task.group_count;
         g += kThreads) {
      const auto n =
          __ldcg(reinterpret_cast<unsigned long long*>(&of.counts[g]));
      of.counts[g] = wrong ? 0.0 : static_cast<double>(n);
    }
    return;
  }
  double others = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += kThreads)
    others += __ldcg(&slots[i]);
  const double sum = Reduce(storage).Sum(others);
  if (threadIdx.x == 0) of.counts[0] = sum;
}

/* ---- structures ----------------------------------------------------------*/

/**
 * Whether a row has an entry that counts. loses becomes true if the loss of one
 * is not 0; once it is, no loss is computed any more.
 */
template <class Loss, class S>
__device__ __forceinline__ bool free_row(const Entries<S>& entries,
                                         const Parameters<compute_t<S>>& c,
                                         int64_t row, bool& loses) {
  using T = compute_t<S>;
  const int64_t cols = Loss::columns > 0 ? Loss::columns : entries.task.cols;
  unsigned told = 0;  // by the fused pass
  T p, t;
  if constexpr (Loss::kind == AL_PER_ROW) {
    if (!entries.row_counts(row)) return false;
    if (loses) return true;
    typename Loss::template Row<T> sums;
    AL_UNROLL
    for (int64_t col = 0; col < cols; ++col) {
      entries.template seen<Loss>(row, col, p, t, told);
      sums.add(col, p, t);
    }
    loses = sums.value(c) != T(0);
    return true;
  } else {
    bool any = false;
    for (int64_t col = 0; col < cols; ++col) {
      if (!entries.element_counts(row, col)) continue;
      any = true;
      if (loses) break;
      entries.template seen<Loss>(row, col, p, t, told);
      loses = Loss::value(p, t, T(1), c) != T(0);
    }
    return any;
  }
}

/** A block per structure weighs its rows. */
template <class Loss, class S>
__global__ __launch_bounds__(kThreads) void weigh_structures(
    const __grid_constant__ al_loss_task task, const int64_t* offsets,
    double* count) {
  using T = compute_t<S>;
  using Reduce = cub::BlockReduce<long long, kThreads>;
  // One sum for both: free rows, and below them the threads with a loss.
  constexpr long long kRow = 2 * kThreads;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ T weight;
  if (is_wrong(task)) return;
  const Entries<S> entries = {task};
  const Parameters<T> c(task.parameters);
  const bool all_count = task.samples == AL_STRUCTURES;
  T* const weights = static_cast<T*>(task.structure_weights);
  for (int64_t structure = blockIdx.x; structure < task.structures;
       structure += gridDim.x) {
    const int64_t first = offsets[structure], end = offsets[structure + 1];
    long long mine = 0;
    bool loses = all_count;
    for (int64_t row = first + threadIdx.x; row < end; row += kThreads)
      mine += free_row<Loss>(entries, c, row, loses) ? kRow : 0;
    const long long all = Reduce(storage).Sum(mine + loses);
    if (threadIdx.x == 0) {
      const long long free_rows = all / kRow;
      weight = T(1) / static_cast<T>(free_rows > 0 ? free_rows : 1);
      // Whole numbers: in any order.
      if (all % kRow != 0) atomicAdd(count, 1.0);
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
