/**
 * Optimiser steps and the norm of gradients: one launch for all parameters, of
 * whatever dtypes. Their elements are thought of as one row, of which every
 * block takes an equal part. The table of the parameters travels in the
 * kernel's arguments, or, if it is too long for them, is uploaded in front of
 * the launch: a step that fails has changed nothing.
 */
#include <cub/block/block_reduce.cuh>
#include <vector>

#include "device.cuh"
#include "optimizer_ops.h"
#include "packed.cuh"
#include "scoped_block.cuh"
#include "shared/dispatch.h"

namespace atomloss {
namespace {

constexpr int kThreads = 256;

/**
 * Blocks that a multiprocessor must be able to hold. Said so that ptxas takes
 * the registers it needs: left to itself it spills in order to fit more.
 */
constexpr int kMinBlocks = 3;

/** Blocks that a step is given at most: a few for each place on a large GPU. */
constexpr int64_t kStepBlocks = 4096;

/**
 * The same of a norm: a slot of the scratch each. The number depends on the
 * sizes alone, so that the same gradients have the same norm on every GPU.
 */
constexpr int64_t kNormBlocks = 1024;
static_assert(kNormBlocks <= kMaxTasks, "slots that every scratch has");

/**
 * A parameter begins at a multiple of so many elements of the row, and so does
 * a block's part: of every dtype whole packs.
 */
constexpr int64_t kAlign = kPackBytes / 2;

/** The least that a block is given: a pack of float32 for each thread. */
constexpr int64_t kMinPart = 4 * kThreads;

struct Entry {
  al_parameter parameter;
  int64_t begin; /* in the row */
};

/** As many as fit the 4 KiB of a kernel's arguments, with room for the rest. */
constexpr int kNear = 53;

/** The parameters of a launch. */
struct Table {
  int count;
  int64_t part;     /* elements of a block */
  int64_t elements; /* of the row */
  const Entry* far; /* in device memory, or NULL: */
  Entry near[kNear];

  __device__ __forceinline__ const Entry* entries() const {
    return far ? far : near;
  }
};

inline int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

/* ---- kernels -------------------------------------------------------------*/

/** Which entry element `at` of the row belongs to. All threads of the block. */
__device__ __forceinline__ int entry_at(const Entry* entries, int count,
                                        int64_t at) {
  __shared__ int found;
  // The last that begins at or before it; one without elements is not that.
  for (int i = threadIdx.x; i < count; i += kThreads)
    if (entries[i].begin <= at && (i + 1 == count || entries[i + 1].begin > at))
      found = i;
  __syncthreads();
  return found;
}

/** f(parameter, begin, end) for the block's part of each parameter. */
template <class F>
__device__ __forceinline__ void for_parts(const Table& table, F&& f) {
  const int64_t begin = int64_t{blockIdx.x} * table.part;
  const int64_t end = min(begin + table.part, table.elements);
  const Entry* const entries = table.entries();
  for (int i = entry_at(entries, table.count, begin);
       i < table.count && entries[i].begin < end; ++i) {
    const Entry& entry = entries[i];
    f(entry.parameter, max(begin - entry.begin, int64_t{0}),
      min(end - entry.begin, entry.parameter.size));
  }
}

/** kSize elements of an array from i on: packs, or a single one. */
template <int kSize, class T>
__device__ __forceinline__ void read(const void* array, int64_t i,
                                     T (&out)[kSize]) {
  const T* const from = static_cast<const T*>(array) + i;
  if constexpr (kSize == 1) {
    out[0] = *from;
  } else {
#pragma unroll
    for (int k = 0; k < kSize / Pack<T>::kSize; ++k) {
      const Pack<T> pack = load_pack(from, k);
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j)
        out[k * Pack<T>::kSize + j] = pack.values[j];
    }
  }
}

template <int kSize, class T>
__device__ __forceinline__ void write(void* array, int64_t i,
                                      const T (&values)[kSize]) {
  T* const to = static_cast<T*>(array) + i;
  if constexpr (kSize == 1) {
    *to = values[0];
  } else {
#pragma unroll
    for (int k = 0; k < kSize / Pack<T>::kSize; ++k) {
      Pack<T> pack;
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j)
        pack.values[j] = values[k * Pack<T>::kSize + j];
      store_pack(to, k, pack);
    }
  }
}

/** The step of kSize elements from i on. */
template <class S, int kSize, class Rule>
__device__ __forceinline__ void update(const Rule& rule, compute_t<S> factor,
                                       const al_parameter& p, int64_t i) {
  using T = compute_t<S>;
  S params[kSize], grads[kSize];
  T values[kSize], states[AL_MAX_STATES][kSize];
  read(p.param, i, params);
  if constexpr (Rule::kUsesGrad) read(p.grad, i, grads);
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) read(p.states[k], i, states[k]);
#pragma unroll
  for (int j = 0; j < kSize; ++j) values[j] = load(params[j]);
  if constexpr (!std::is_same_v<S, T>) {
    if (p.master) {
      T masters[kSize];
      read(p.master, i, masters);
#pragma unroll
      for (int j = 0; j < kSize; ++j)
        if (same_bits(store<S>(masters[j]), params[j])) values[j] = masters[j];
    }
  }
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    Element<T> e;
    e.param = values[j];
    if constexpr (Rule::kUsesGrad) e.grad = factor * load(grads[j]);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) e.states[k] = states[k][j];
    rule.update(e);
    values[j] = e.param;
    params[j] = store<S>(e.param);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) states[k][j] = e.states[k];
  }
  if constexpr (Rule::kWritesParam) write(p.param, i, params);
  if constexpr (!std::is_same_v<S, T>)
    if (p.master) write(p.master, i, values);
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) write(p.states[k], i, states[k]);
}

/** Whether all arrays of the parameter can be read in packs; NULL can. */
__device__ __forceinline__ bool packable(const al_parameter& p) {
  auto bits = reinterpret_cast<uintptr_t>(p.param) |
              reinterpret_cast<uintptr_t>(p.grad) |
              reinterpret_cast<uintptr_t>(p.master);
  for (void* state : p.states) bits |= reinterpret_cast<uintptr_t>(state);
  return bits % kPackBytes == 0;
}

/** f(kSize, i) for the elements [begin, end): packs of so many from i on. */
template <class S, class F>
__device__ __forceinline__ void for_packs(bool packed, int64_t begin,
                                          int64_t end, F&& f) {
  constexpr int kSize = Pack<S>::kSize;
  const int thread = static_cast<int>(threadIdx.x);
  int64_t rest = begin;
  if (packed) {
    rest = begin + (end - begin) / kSize * kSize;
    for (int64_t i = begin + int64_t{thread} * kSize; i < rest;
         i += int64_t{kThreads} * kSize)
      f(std::integral_constant<int, kSize>(), i);
  }
  for (int64_t i = rest + thread; i < end; i += kThreads)
    f(std::integral_constant<int, 1>(), i);
}

/** f(Type<S>) with the storage type of the parameter. */
template <class F>
__device__ __forceinline__ void with_type(const al_parameter& p, F&& f) {
  switch (p.dtype) {
    case AL_FLOAT32:
      return f(Type<float>());
    case AL_FLOAT64:
      return f(Type<double>());
    case AL_FLOAT16:
      return f(Type<float16>());
    case AL_BFLOAT16:
      return f(Type<bfloat16>());
  }
}

template <class Rule>
__global__ __launch_bounds__(kThreads, kMinBlocks) void step(
    const __grid_constant__ Table table, const __grid_constant__ Rule rule,
    const __grid_constant__ Clip clip) {
  if (clip.skips()) return;
  const double factor = clip.factor();
  for_parts(table, [&](const al_parameter& p, int64_t begin, int64_t end) {
    with_type(p, [&](auto type) {
      using S = typename decltype(type)::type;
      for_packs<S>(packable(p), begin, end, [&](auto size, int64_t i) {
        update<S, decltype(size)::value>(
            rule, static_cast<compute_t<S>>(factor), p, i);
      });
    });
  });
}

/** Each block leaves the sum of its part; the last one joins them in order. */
__global__ __launch_bounds__(kThreads, kMinBlocks) void norm_of_gradients(
    const __grid_constant__ Table table, const Norm norm, const Scratch scratch,
    al_loss_result* result) {
  double sum = 0;
  for_parts(table, [&](const al_parameter& p, int64_t begin, int64_t end) {
    with_type(p, [&](auto type) {
      using S = typename decltype(type)::type;
      for_packs<S>(reinterpret_cast<uintptr_t>(p.grad) % kPackBytes == 0, begin,
                   end, [&](auto size, int64_t i) {
                     constexpr int kSize = decltype(size)::value;
                     S grads[kSize];
                     read(p.grad, i, grads);
#pragma unroll
                     for (int j = 0; j < kSize; ++j)
                       sum = norm.add(sum, static_cast<double>(load(grads[j])));
                   });
    });
  });

  using Reduce = cub::BlockReduce<double, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  __shared__ bool is_last;
  const auto join = [&](double a, double b) { return norm.join(a, b); };
  const double block = Reduce(storage).Reduce(sum, join);
  if (threadIdx.x == 0) {
    __stcg(&scratch.partials[blockIdx.x], block);
    __threadfence();
    // Wraps to 0 with the last block: ready for the next launch.
    is_last = atomicInc(scratch.tickets, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;

  __threadfence();
  sum = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += kThreads)
    sum = norm.join(sum, __ldcg(&scratch.partials[i]));
  const double all = Reduce(storage).Reduce(sum, join);
  if (threadIdx.x == 0) *result = Norm::result(norm.root(all));
}

/* ---- launchers -----------------------------------------------------------*/

/** The parameters as a launch takes them; one that has them all or none. */
class Launch {
 public:
  Launch(al_device* device, int32_t count, const al_parameter* parameters,
         int64_t max_blocks) {
    if (count < 0)
      throw al_error(al_fail(AL_INVALID_ARGUMENT, "%d parameters", count));
    std::vector<Entry> far;
    if (count > kNear) far.resize(static_cast<size_t>(count));
    Entry* const entries = count > kNear ? far.data() : table_.near;
    int64_t elements = 0;
    for (int32_t i = 0; i < count; ++i) {
      const al_parameter& p = parameters[i];
      if (al_status bad = with_float_type(p.dtype, [](auto) { return AL_OK; }))
        throw al_error(bad);
      entries[i] = {p, elements};
      elements += round_up(p.size, kAlign);
    }
    table_.count = count;
    table_.elements = elements;
    const int64_t share = round_up(elements, max_blocks) / max_blocks;
    table_.part = round_up(share > kMinPart ? share : kMinPart, kAlign);
    if (far.empty() || elements == 0) return;
    const auto bytes = static_cast<int64_t>(far.size() * sizeof(Entry));
    memory_ = ScopedBlock(device, bytes);
    if (al_status bad = al_upload(device, memory_.memory(), far.data(), bytes))
      throw al_error(bad);
    table_.far = static_cast<const Entry*>(memory_.memory());
  }

  const Table& table() const { return table_; }
  int blocks() const {
    return static_cast<int>((table_.elements + table_.part - 1) / table_.part);
  }

 private:
  Table table_ = {};
  ScopedBlock memory_; /* of table_.far */
};

template <class Rule>
al_status run(al_device* device, int32_t count, const al_parameter* parameters,
              const Rule& rule, const al_clip* clip = nullptr) {
  static_assert(sizeof(Table) + sizeof(Rule) + sizeof(Clip) <= 4096,
                "arguments of a kernel");
  const CurrentDevice current(device->ordinal);
  const Launch launch(device, count, parameters, kStepBlocks);
  if (launch.blocks() == 0) return AL_OK;
  launch_kernel(step<Rule>, launch.blocks(), kThreads, device->compute,
                launch.table(), rule, clip_of(clip));
  return AL_OK;
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_grad_norm(al_device* device, int32_t count,
                       const al_parameter* parameters, double p,
                       al_loss_result* norm) {
  AL_RECORD(device, al_grad_norm, device, count, copies(parameters, count), p,
            norm);
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    const Launch launch(device, count, parameters, kNormBlocks);
    // Also of no elements: the norm is then 0.
    const int blocks = launch.blocks() == 0 ? 1 : launch.blocks();
    launch_kernel(norm_of_gradients, blocks, kThreads, device->compute,
                  launch.table(), Norm{p}, device->scratch, norm);
    return AL_OK;
  });
}

al_status al_clip_grads(al_device* device, int32_t count,
                        const al_parameter* parameters, const al_clip* clip) {
  AL_RECORD(device, al_clip_grads, device, count, copies(parameters, count),
            copies(clip, 1));
  return al_guard([&] {
    const auto grads = gradients(count, parameters);
    return run(device, count, grads.data(), ClipInPlace(), clip);
  });
}

al_status al_adam_step(al_device* device, int32_t count,
                       const al_parameter* parameters, int64_t step_number,
                       double lr, double beta1, double beta2, double eps,
                       double weight_decay, int32_t decoupled, int32_t amsgrad,
                       const al_clip* clip) {
  AL_RECORD(device, al_adam_step, device, count, copies(parameters, count),
            number(step_number), number(lr), beta1, beta2, eps, weight_decay,
            decoupled, amsgrad, copies(clip, 1));
  return al_guard([&] {
    const AdamNumbers numbers(step_number, lr, beta1, beta2, eps, weight_decay,
                              decoupled != 0);
    return amsgrad ? run(device, count, parameters, Adam<true>{numbers}, clip)
                   : run(device, count, parameters, Adam<false>{numbers}, clip);
  });
}

al_status al_sgd_step(al_device* device, int32_t count,
                      const al_parameter* parameters, int64_t step_number,
                      double lr, double momentum, double weight_decay,
                      int32_t nesterov, const al_clip* clip) {
  AL_RECORD(device, al_sgd_step, device, count, copies(parameters, count),
            number(step_number), number(lr), momentum, weight_decay, nesterov,
            copies(clip, 1));
  return al_guard([&] {
    const SGDNumbers numbers = {lr, momentum, weight_decay, step_number == 1,
                                nesterov != 0};
    return momentum == 0
               ? run(device, count, parameters, SGD<false>{numbers}, clip)
               : run(device, count, parameters, SGD<true>{numbers}, clip);
  });
}

al_status al_average_update(al_device* device, int32_t count,
                            const al_parameter* parameters, double weight) {
  AL_RECORD(device, al_average_update, device, count, copies(parameters, count),
            number(weight));
  return al_guard(
      [&] { return run(device, count, parameters, Average{weight}); });
}

al_status al_average_swap(al_device* device, int32_t count,
                          const al_parameter* parameters, int32_t in) {
  return al_guard([&] {
    return in ? run(device, count, parameters, SwapIn())
              : run(device, count, parameters, SwapOut());
  });
}
