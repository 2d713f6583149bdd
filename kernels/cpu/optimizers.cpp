/** Optimiser steps on the CPU: one loop per parameter, fused. */
#include "dispatch.h"
#include "half.h"
#include "optimizer_ops.h"
#include "parallel.h"
#include "status.h"

using namespace atomloss;

namespace {

constexpr int64_t kBlock = 16384;

/** Calls update(i) for every element i of a parameter. */
template <class F>
void for_elements(int64_t n, F&& update) {
  for_blocks(n, kBlock, n, [&](int64_t, int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) update(i);
  });
}

}  // namespace

al_status al_adam_step(al_device*, int32_t dtype, int32_t count,
                       void* const* params, const void* const* grads,
                       void* const* exp_avgs, void* const* exp_avg_sqs,
                       const int64_t* sizes, int64_t step, double lr,
                       double beta1, double beta2, double eps,
                       double weight_decay, int32_t decoupled) {
  return with_float_type(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = compute_t<S>;
    const Adam<T> adam = Adam<T>::prepare(step, lr, beta1, beta2, eps,
                                          weight_decay, decoupled != 0);
    for (int32_t p = 0; p < count; ++p) {
      S* param = static_cast<S*>(params[p]);
      const S* grad = static_cast<const S*>(grads[p]);
      T* exp_avg = static_cast<T*>(exp_avgs[p]);
      T* exp_avg_sq = static_cast<T*>(exp_avg_sqs[p]);
      for_elements(sizes[p], [=](int64_t i) {
        T value = load(param[i]);
        adam.update(value, load(grad[i]), exp_avg[i], exp_avg_sq[i]);
        param[i] = store<S>(value);
      });
    }
    return static_cast<al_status>(AL_OK);
  });
}

al_status al_sgd_step(al_device*, int32_t dtype, int32_t count,
                      void* const* params, const void* const* grads,
                      void* const* momentum_buffers, const int64_t* sizes,
                      int64_t step, double lr, double momentum,
                      double weight_decay, int32_t nesterov) {
  return with_float_type(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = compute_t<S>;
    const SGD<T> sgd = {T(lr), T(momentum), T(weight_decay), step == 1,
                        nesterov != 0};
    for (int32_t p = 0; p < count; ++p) {
      S* param = static_cast<S*>(params[p]);
      const S* grad = static_cast<const S*>(grads[p]);
      T* buffer =
          momentum_buffers ? static_cast<T*>(momentum_buffers[p]) : nullptr;
      for_elements(sizes[p], [=](int64_t i) {
        T value = load(param[i]);
        if (buffer) {
          sgd.update(value, load(grad[i]), buffer[i]);
        } else {
          sgd.update(value, load(grad[i]));
        }
        param[i] = store<S>(value);
      });
    }
    return static_cast<al_status>(AL_OK);
  });
}
