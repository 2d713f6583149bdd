/** Optimiser steps on the CPU: the blocks of all parameters in one loop. */
#include <algorithm>
#include <vector>

#include "cpu/device.h"
#include "optimizer_ops.h"
#include "parallel.h"
#include "shared/dispatch.h"
#include "shared/half.h"
#include "shared/status.h"

namespace atomloss {
namespace {

/** Elements of a block: one thread's at a time. */
constexpr int64_t kBlock = 16384;

/** Elements that are converted from half precision at a time. */
constexpr int64_t kTile = 256;

/** The blocks of all parameters, one after another. */
class Blocks {
 public:
  /** Throws, before anything is changed, if one cannot be stepped. */
  Blocks(int32_t count, const al_parameter* parameters)
      : parameters_(parameters) {
    if (count < 0)
      throw al_error(al_fail(AL_INVALID_ARGUMENT, "%d parameters", count));
    first_.resize(static_cast<size_t>(count) + 1);
    for (int32_t i = 0; i < count; ++i) {
      const al_parameter& p = parameters[i];
      if (al_status bad = with_float_type(p.dtype, [](auto) { return AL_OK; }))
        throw al_error(bad);
      first_[i + 1] = first_[i] + (p.size + kBlock - 1) / kBlock;
      elements_ += p.size;
    }
  }

  int64_t count() const { return first_.back(); }

  /** Calls f(block, parameter, begin, end) for each. */
  template <class F>
  void each(F&& f) const {
    for_blocks(count(), 1, elements_, [&](int64_t, int64_t block, int64_t) {
      // The last that begins at or before this block, and is not empty.
      const auto next = std::upper_bound(first_.begin(), first_.end(), block);
      const int64_t i = next - first_.begin() - 1;
      const int64_t begin = (block - first_[i]) * kBlock;
      const al_parameter& p = parameters_[i];
      f(block, p, begin, std::min(begin + kBlock, p.size));
    });
  }

 private:
  const al_parameter* parameters_;
  std::vector<int64_t> first_; /* block of each parameter, and their end */
  int64_t elements_ = 0;
};

/** The step of n elements, all of the compute type. */
template <class T, class Rule>
void update(const Rule rule, T factor, int64_t n, T* param, const T* grad,
            T* const* states) {
  T* const s0 = states[0];
  T* const s1 = states[1];
  T* const s2 = states[2];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    Element<T> e = {};
    e.param = param[i];
    if constexpr (Rule::kUsesGrad) e.grad = factor * grad[i];
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
void update(const Rule& rule, double clip, const al_parameter& p, int64_t begin,
            int64_t end) {
  using T = compute_t<S>;
  const T factor = static_cast<T>(clip);
  S* const param = static_cast<S*>(p.param);
  const S* const grad = static_cast<const S*>(p.grad);
  T* states[AL_MAX_STATES] = {};
  const auto states_at = [&](int64_t i) {
    for (int k = 0; k < Rule::kStates; ++k)
      states[k] = static_cast<T*>(p.states[k]) + i;
  };
  if constexpr (std::is_same_v<S, T>) {
    states_at(begin);
    update(rule, factor, end - begin, param + begin,
           Rule::kUsesGrad ? grad + begin : nullptr, states);
  } else {
    T values[kTile], grads[kTile];
    for (int64_t i = begin; i < end; i += kTile) {
      const int64_t n = std::min(kTile, end - i);
      states_at(i);
      load_block(param + i, n, values);
      float* const master = p.master ? p.master + i : nullptr;
      for (int64_t j = 0; master && j < n; ++j)
        if (same_bits(store<S>(master[j]), param[i + j])) values[j] = master[j];
      if constexpr (Rule::kUsesGrad) load_block(grad + i, n, grads);
      update(rule, factor, n, values, grads, states);
      if (master) memcpy(master, values, static_cast<size_t>(n) * sizeof(T));
      if constexpr (Rule::kWritesParam) store_block(values, n, param + i);
    }
  }
}

template <class Rule>
al_status step(int32_t count, const al_parameter* parameters, const Rule& rule,
               const al_clip* clip = nullptr) {
  const Blocks blocks(count, parameters);
  const Clip clipping = clip_of(clip);
  if (clipping.skips()) return AL_OK;
  const double factor = clipping.factor();
  blocks.each([&](int64_t, const al_parameter& p, int64_t begin, int64_t end) {
    with_float_type(p.dtype, [&](auto type) {
      update<typename decltype(type)::type>(rule, factor, p, begin, end);
      return AL_OK;
    });
  });
  return AL_OK;
}

/** The sum behind the norm of elements [begin, end) of a gradient. */
template <class S>
double partial_norm(const Norm norm, const S* grad, int64_t begin,
                    int64_t end) {
  compute_t<S> values[kTile];
  double sum = 0;
  for (int64_t i = begin; i < end; i += kTile) {
    const int64_t n = std::min(kTile, end - i);
    load_block(grad + i, n, values);
    if (norm.p == 2) {
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < n; ++j) {
        const double x = values[j];
        sum += x * x;
      }
    } else {
      for (int64_t j = 0; j < n; ++j)
        sum = norm.add(sum, static_cast<double>(values[j]));
    }
  }
  return sum;
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_grad_norm(al_device* device, int32_t count,
                       const al_parameter* parameters, double p,
                       al_loss_result* result) {
  AL_RECORD(device, al_grad_norm, device, count, copies(parameters, count), p,
            result);
  return al_guard([&]() -> al_status {
    const Norm norm = {p};
    const Blocks blocks(count, parameters);
    std::vector<double> sums(static_cast<size_t>(blocks.count()));
    blocks.each([&](int64_t block, const al_parameter& parameter, int64_t begin,
                    int64_t end) {
      with_float_type(parameter.dtype, [&](auto type) {
        using S = typename decltype(type)::type;
        sums[block] = partial_norm(norm, static_cast<const S*>(parameter.grad),
                                   begin, end);
        return AL_OK;
      });
    });
    double sum = 0;
    for (const double one : sums) sum = norm.join(sum, one);
    *result = Norm::result(norm.root(sum));
    return AL_OK;
  });
}

al_status al_clip_grads(al_device* device, int32_t count,
                        const al_parameter* parameters, const al_clip* clip) {
  AL_RECORD(device, al_clip_grads, device, count, copies(parameters, count),
            copies(clip, 1));
  return al_guard([&] {
    const auto grads = gradients(count, parameters);
    return step(count, grads.data(), ClipInPlace(), clip);
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
    return amsgrad ? step(count, parameters, Adam<true>{numbers}, clip)
                   : step(count, parameters, Adam<false>{numbers}, clip);
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
    return momentum == 0 ? step(count, parameters, SGD<false>{numbers}, clip)
                         : step(count, parameters, SGD<true>{numbers}, clip);
  });
}

al_status al_average_update(al_device* device, int32_t count,
                            const al_parameter* parameters, double weight) {
  AL_RECORD(device, al_average_update, device, count, copies(parameters, count),
            number(weight));
  return al_guard([&] { return step(count, parameters, Average{weight}); });
}

al_status al_average_swap(al_device*, int32_t count,
                          const al_parameter* parameters, int32_t in) {
  return al_guard([&] {
    return in ? step(count, parameters, SwapIn())
              : step(count, parameters, SwapOut());
  });
}
