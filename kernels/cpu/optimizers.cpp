/** Optimiser steps on the CPU: the blocks of all parameters in one loop. */
#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "half.h"
#include "optimizer_ops.h"
#include "parallel.h"
#include "status.h"

namespace atomloss {
namespace {

/** Elements of a block: one thread's at a time. */
constexpr int64_t kBlock = 16384;

/** Elements that are converted from half precision at a time. */
constexpr int64_t kTile = 256;

/** Calls f(parameter, begin, end) for all blocks of all parameters. */
template <class F>
void for_parameters(int32_t count, const al_parameter* parameters, F&& f) {
  if (count < 0)
    throw al_error(al_fail(AL_INVALID_ARGUMENT, "%d parameters", count));
  std::vector<int64_t> first_block(static_cast<size_t>(count) + 1);
  int64_t elements = 0;
  for (int32_t i = 0; i < count; ++i) {
    const al_parameter& p = parameters[i];
    // Before anything is changed.
    const al_status bad =
        with_float_type(p.dtype, [](auto) -> al_status { return AL_OK; });
    if (bad) throw al_error(bad);
    first_block[i + 1] = first_block[i] + (p.size + kBlock - 1) / kBlock;
    elements += p.size;
  }
  for_blocks(
      first_block[count], 1, elements, [&](int64_t, int64_t block, int64_t) {
        // The last that begins at or before this block, and is not empty.
        const auto next =
            std::upper_bound(first_block.begin(), first_block.end(), block);
        const int64_t i = next - first_block.begin() - 1;
        const al_parameter& p = parameters[i];
        const int64_t begin = (block - first_block[i]) * kBlock;
        f(p, begin, std::min(begin + kBlock, p.size));
      });
}

/** The step of n elements, all of the compute type. */
template <class T, class Rule>
void update(const Rule rule, int64_t n, T* param, const T* grad,
            T* const* states) {
  T* const s0 = states[0];
  T* const s1 = states[1];
  T* const s2 = states[2];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    Element<T> e = {};
    e.param = param[i];
    if constexpr (Rule::kUsesGrad) e.grad = grad[i];
    if constexpr (Rule::kStates > 0) e.states[0] = s0[i];
    if constexpr (Rule::kStates > 1) e.states[1] = s1[i];
    if constexpr (Rule::kStates > 2) e.states[2] = s2[i];
    rule.update(e);
    if constexpr (Rule::kWritesParam) param[i] = e.param;
    if constexpr (Rule::kStates > 0) s0[i] = e.states[0];
    if constexpr (Rule::kStates > 1) s1[i] = e.states[1];
    if constexpr (Rule::kStates > 2) s2[i] = e.states[2];
  }
}

/** The step of elements [begin, end) of a parameter. */
template <class S, class Rule>
void update(const Rule& rule, const al_parameter& p, int64_t begin,
            int64_t end) {
  using T = compute_t<S>;
  S* const param = static_cast<S*>(p.param);
  const S* const grad = static_cast<const S*>(p.grad);
  T* states[AL_MAX_STATES] = {};
  const auto states_at = [&](int64_t i) {
    for (int k = 0; k < Rule::kStates; ++k)
      states[k] = static_cast<T*>(p.states[k]) + i;
  };
  if constexpr (std::is_same_v<S, T>) {
    states_at(begin);
    update(rule, end - begin, param + begin,
           Rule::kUsesGrad ? grad + begin : nullptr, states);
  } else {
    T values[kTile], grads[kTile];
    for (int64_t i = begin; i < end; i += kTile) {
      const int64_t n = std::min(kTile, end - i);
      states_at(i);
      load_block(param + i, n, values);
      if constexpr (Rule::kUsesGrad) load_block(grad + i, n, grads);
      update(rule, n, values, grads, states);
      if constexpr (Rule::kWritesParam) store_block(values, n, param + i);
    }
  }
}

template <class Rule>
void step(int32_t count, const al_parameter* parameters, const Rule& rule) {
  for_parameters(count, parameters,
                 [&](const al_parameter& p, int64_t begin, int64_t end) {
                   with_float_type(p.dtype, [&](auto type) -> al_status {
                     update<typename decltype(type)::type>(rule, p, begin, end);
                     return AL_OK;
                   });
                 });
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_adam_step(al_device*, int32_t count,
                       const al_parameter* parameters, int64_t step_number,
                       double lr, double beta1, double beta2, double eps,
                       double weight_decay, int32_t decoupled,
                       int32_t amsgrad) {
  return al_guard([&]() -> al_status {
    const auto run = [&](auto rule) { step(count, parameters, rule); };
    if (amsgrad)
      run(Adam<true>(step_number, lr, beta1, beta2, eps, weight_decay,
                     decoupled != 0));
    else
      run(Adam<false>(step_number, lr, beta1, beta2, eps, weight_decay,
                      decoupled != 0));
    return AL_OK;
  });
}

al_status al_sgd_step(al_device*, int32_t count, const al_parameter* parameters,
                      int64_t step_number, double lr, double momentum,
                      double weight_decay, int32_t nesterov) {
  return al_guard([&]() -> al_status {
    const bool first = step_number == 1;
    if (momentum == 0)
      step(count, parameters,
           SGD<false>{lr, momentum, weight_decay, first, nesterov != 0});
    else
      step(count, parameters,
           SGD<true>{lr, momentum, weight_decay, first, nesterov != 0});
    return AL_OK;
  });
}
