/**
 * Optimiser steps: one launch for all parameters. Their addresses travel as a
 * table in the kernel's arguments, which also says which blocks work on each; a
 * table that is full is launched and the next begun.
 */
#include "device.cuh"
#include "dispatch.h"
#include "optimizer_ops.h"

namespace atomloss {
namespace {

constexpr int kThreads = 256;

/** Blocks that one parameter is given at most. */
constexpr int64_t kMaxBlocks = 1024;

/** A parameter, its gradient and its states; the second may be missing. */
template <class S>
struct Entry {
  S* param;
  const S* grad;
  compute_t<S>* state1;
  compute_t<S>* state2;
  int64_t size;
};

/** As many as fit the 4 KiB of a kernel's arguments, with room for the rest. */
constexpr int kEntries = 90;

template <class S>
struct Table {
  Entry<S> entries[kEntries];
  int first_block[kEntries + 1]; /* of each, and their end */
  int count;
};

/** Which entry the block works on: the last that begins at or before it. */
template <class S>
__device__ __forceinline__ int entry_of(const Table<S>& table, int block) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.first_block[middle] <= block ? low : high) = middle;
  }
  return low;
}

/* ---- kernels -------------------------------------------------------------*/

template <class S, class T>
__device__ __forceinline__ void update(const Adam<T>& adam, const Entry<S>& e,
                                       int64_t i) {
  T value = load(e.param[i]);
  T exp_avg = e.state1[i], exp_avg_sq = e.state2[i];
  adam.update(value, load(e.grad[i]), exp_avg, exp_avg_sq);
  e.state1[i] = exp_avg;
  e.state2[i] = exp_avg_sq;
  e.param[i] = store<S>(value);
}

template <class S, class T>
__device__ __forceinline__ void update(const SGD<T>& sgd, const Entry<S>& e,
                                       int64_t i) {
  T value = load(e.param[i]);
  if (e.state1) {
    // At the first step the buffer is written, not read.
    T buffer = sgd.first ? T(0) : e.state1[i];
    sgd.update(value, load(e.grad[i]), buffer);
    e.state1[i] = buffer;
  } else {
    sgd.update(value, load(e.grad[i]));
  }
  e.param[i] = store<S>(value);
}

template <class S, class Rule>
__global__ __launch_bounds__(kThreads) void step(
    const __grid_constant__ Table<S> table, Rule rule) {
  const int block = static_cast<int>(blockIdx.x);
  const int row = entry_of(table, block);
  const int first = table.first_block[row];
  const int64_t threads =
      int64_t{table.first_block[row + 1] - first} * kThreads;
  const Entry<S>& entry = table.entries[row];
  for (int64_t i = int64_t{block - first} * kThreads + threadIdx.x;
       i < entry.size; i += threads)
    update(rule, entry, i);
}

/* ---- launchers -----------------------------------------------------------*/

template <class S, class Rule>
void launch(al_device* device, int32_t count, void* const* params,
            const void* const* grads, void* const* states1,
            void* const* states2, const int64_t* sizes, const Rule& rule) {
  using T = compute_t<S>;
  const CurrentDevice current(device->ordinal);
  for (int32_t first = 0; first < count; first += kEntries) {
    Table<S> table;
    table.count = count - first < kEntries ? count - first : kEntries;
    int blocks = 0;
    for (int row = 0; row < table.count; ++row) {
      const int32_t i = first + row;
      table.entries[row] = {
          static_cast<S*>(params[i]), static_cast<const S*>(grads[i]),
          states1 ? static_cast<T*>(states1[i]) : nullptr,
          states2 ? static_cast<T*>(states2[i]) : nullptr, sizes[i]};
      table.first_block[row] = blocks;
      const int64_t wanted = (sizes[i] + kThreads - 1) / kThreads;
      blocks += static_cast<int>(wanted < kMaxBlocks ? wanted : kMaxBlocks);
    }
    table.first_block[table.count] = blocks;
    if (blocks == 0) continue;
    static_assert(sizeof(Table<S>) + sizeof(Rule) <= 4096);
    launch_kernel(step<S, Rule>, blocks, kThreads, device->compute, table,
                  rule);
  }
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_adam_step(al_device* device, int32_t dtype, int32_t count,
                       void* const* params, const void* const* grads,
                       void* const* exp_avgs, void* const* exp_avg_sqs,
                       const int64_t* sizes, int64_t step, double lr,
                       double beta1, double beta2, double eps,
                       double weight_decay, int32_t decoupled) {
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      launch<S>(device, count, params, grads, exp_avgs, exp_avg_sqs, sizes,
                Adam<compute_t<S>>::prepare(step, lr, beta1, beta2, eps,
                                            weight_decay, decoupled != 0));
      return static_cast<al_status>(AL_OK);
    });
  });
}

al_status al_sgd_step(al_device* device, int32_t dtype, int32_t count,
                      void* const* params, const void* const* grads,
                      void* const* momentum_buffers, const int64_t* sizes,
                      int64_t step, double lr, double momentum,
                      double weight_decay, int32_t nesterov) {
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      using T = compute_t<S>;
      launch<S>(device, count, params, grads, momentum_buffers, nullptr, sizes,
                SGD<T>{T(lr), T(momentum), T(weight_decay), step == 1,
                       nesterov != 0});
      return static_cast<al_status>(AL_OK);
    });
  });
}
