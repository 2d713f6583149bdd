/**
 * Optimiser steps: one launch for all parameters, of whatever dtypes. Their
 * elements are thought of as one row, of which every block takes an equal part.
 * The table of the parameters travels in the kernel's arguments, or, if it is
 * too long for them, is uploaded in front of the launch: a step that fails has
 * changed nothing.
 */
#include <optional>
#include <vector>

#include "device.cuh"
#include "dispatch.h"
#include "optimizer_ops.h"
#include "packed.cuh"

namespace atomloss {
namespace {

constexpr int kThreads = 256;

/** Blocks that a step is given at most: a few for each place on a large GPU. */
constexpr int64_t kMaxBlocks = 4096;

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
constexpr int kNear = 54;

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
__device__ __forceinline__ void update(const Rule& rule, const al_parameter& p,
                                       int64_t i) {
  using T = compute_t<S>;
  S params[kSize], grads[kSize];
  T states[AL_MAX_STATES][kSize];
  read(p.param, i, params);
  if constexpr (Rule::kUsesGrad) read(p.grad, i, grads);
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) read(p.states[k], i, states[k]);
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    Element<T> e;
    e.param = load(params[j]);
    if constexpr (Rule::kUsesGrad) e.grad = load(grads[j]);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) e.states[k] = states[k][j];
    rule.update(e);
    params[j] = store<S>(e.param);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) states[k][j] = e.states[k];
  }
  if constexpr (Rule::kWritesParam) write(p.param, i, params);
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) write(p.states[k], i, states[k]);
}

/** Whether all arrays of the parameter can be read in packs; NULL can. */
__device__ __forceinline__ bool packable(const al_parameter& p) {
  auto bits = reinterpret_cast<uintptr_t>(p.param) |
              reinterpret_cast<uintptr_t>(p.grad);
  for (void* state : p.states) bits |= reinterpret_cast<uintptr_t>(state);
  return bits % kPackBytes == 0;
}

/** The step of elements [begin, end), by all threads of the block. */
template <class S, class Rule>
__device__ __forceinline__ void update(const Rule& rule, const al_parameter& p,
                                       int64_t begin, int64_t end) {
  constexpr int kSize = Pack<S>::kSize;
  const int thread = static_cast<int>(threadIdx.x);
  int64_t rest = begin;
  if (packable(p)) {
    rest = begin + (end - begin) / kSize * kSize;
    for (int64_t i = begin + int64_t{thread} * kSize; i < rest;
         i += int64_t{kThreads} * kSize)
      update<S, kSize>(rule, p, i);
  }
  for (int64_t i = rest + thread; i < end; i += kThreads)
    update<S, 1>(rule, p, i);
}

template <class Rule>
__global__ __launch_bounds__(kThreads) void step(
    const __grid_constant__ Table table, const __grid_constant__ Rule rule) {
  for_parts(table, [&](const al_parameter& p, int64_t begin, int64_t end) {
    switch (p.dtype) {
      case AL_FLOAT32:
        return update<float>(rule, p, begin, end);
      case AL_FLOAT64:
        return update<double>(rule, p, begin, end);
      case AL_FLOAT16:
        return update<float16>(rule, p, begin, end);
      case AL_BFLOAT16:
        return update<bfloat16>(rule, p, begin, end);
    }
  });
}

/* ---- launchers -----------------------------------------------------------*/

/** The parameters as a launch takes them; one that has them all or none. */
class Launch {
 public:
  Launch(al_device* device, int32_t count, const al_parameter* parameters) {
    if (count < 0)
      throw al_error(al_fail(AL_INVALID_ARGUMENT, "%d parameters", count));
    std::vector<Entry> far;
    if (count > kNear) far.resize(static_cast<size_t>(count));
    Entry* const entries = count > kNear ? far.data() : table_.near;
    int64_t elements = 0;
    for (int32_t i = 0; i < count; ++i) {
      const al_parameter& p = parameters[i];
      const al_status bad =
          with_float_type(p.dtype, [](auto) -> al_status { return AL_OK; });
      if (bad) throw al_error(bad);
      entries[i] = {p, elements};
      elements += round_up(p.size, kAlign);
    }
    table_.count = count;
    table_.elements = elements;
    const int64_t share = round_up(elements, kMaxBlocks) / kMaxBlocks;
    table_.part = round_up(share > kMinPart ? share : kMinPart, kAlign);
    if (far.empty() || elements == 0) return;
    const auto bytes = static_cast<int64_t>(far.size() * sizeof(Entry));
    memory_.emplace(device, bytes);
    if (al_status bad = al_upload(device, memory_->memory(), far.data(), bytes))
      throw al_error(bad);
    table_.far = static_cast<const Entry*>(memory_->memory());
  }

  const Table& table() const { return table_; }
  int blocks() const {
    return static_cast<int>((table_.elements + table_.part - 1) / table_.part);
  }

 private:
  Table table_ = {};
  std::optional<ScopedBlock> memory_;
};

template <class Rule>
void run(al_device* device, int32_t count, const al_parameter* parameters,
         const Rule& rule) {
  static_assert(sizeof(Table) + sizeof(Rule) <= 4096, "arguments of a kernel");
  const CurrentDevice current(device->ordinal);
  const Launch launch(device, count, parameters);
  if (launch.blocks() == 0) return;
  launch_kernel(step<Rule>, launch.blocks(), kThreads, device->compute,
                launch.table(), rule);
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_adam_step(al_device* device, int32_t count,
                       const al_parameter* parameters, int64_t step_number,
                       double lr, double beta1, double beta2, double eps,
                       double weight_decay, int32_t decoupled,
                       int32_t amsgrad) {
  return al_guard([&]() -> al_status {
    if (amsgrad)
      run(device, count, parameters,
          Adam<true>(step_number, lr, beta1, beta2, eps, weight_decay,
                     decoupled != 0));
    else
      run(device, count, parameters,
          Adam<false>(step_number, lr, beta1, beta2, eps, weight_decay,
                      decoupled != 0));
    return AL_OK;
  });
}

al_status al_sgd_step(al_device* device, int32_t count,
                      const al_parameter* parameters, int64_t step_number,
                      double lr, double momentum, double weight_decay,
                      int32_t nesterov) {
  return al_guard([&]() -> al_status {
    const bool first = step_number == 1;
    if (momentum == 0)
      run(device, count, parameters,
          SGD<false>{lr, momentum, weight_decay, first, nesterov != 0});
    else
      run(device, count, parameters,
          SGD<true>{lr, momentum, weight_decay, first, nesterov != 0});
    return AL_OK;
  });
}
