/**
 * The unreduced losses on the CPU and their gradients, and the small passes
 * around losses that are written elsewhere. A training step uses the fused pass
 * of reduce.cpp instead.
 */
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/device.h"
#include "cpu/loss_kernels.h"
#include "shared/loss_table.h"

using namespace atomloss;

al_status al_loss_forward(al_device* device, int32_t loss, int32_t dtype,
                          const void* pred, const void* target,
                          const void* natoms, int32_t natoms_dtype,
                          int64_t rows, int64_t cols, const double* parameters,
                          void* out) {
  AL_RECORD(device, al_loss_forward, device, loss, dtype, pred, target, natoms,
            natoms_dtype, rows, cols, copies(parameters, AL_MAX_PARAMETERS),
            out);
  const Input in = {dtype,        pred, target, natoms,
                    natoms_dtype, rows, cols,   parameters};
  return al_guard([&]() -> al_status {
    const LossEntry& entry = loss_entry(loss);
    check_arguments(entry, rows, cols, natoms, natoms_dtype);
    entry.kernels_for(dtype).forward(in, out);
    return AL_OK;
  });
}

al_status al_loss_backward(al_device* device, int32_t loss, int32_t dtype,
                           const void* pred, const void* target,
                           const void* natoms, int32_t natoms_dtype,
                           int64_t rows, int64_t cols, const double* parameters,
                           const void* grad_output, void* grad) {
  AL_RECORD(device, al_loss_backward, device, loss, dtype, pred, target, natoms,
            natoms_dtype, rows, cols, copies(parameters, AL_MAX_PARAMETERS),
            grad_output, grad);
  const Input in = {dtype,        pred, target, natoms,
                    natoms_dtype, rows, cols,   parameters};
  return al_guard([&]() -> al_status {
    const LossEntry& entry = loss_entry(loss);
    check_arguments(entry, rows, cols, natoms, natoms_dtype);
    entry.kernels_for(dtype).backward(in, grad_output, grad);
    return AL_OK;
  });
}

al_status al_sum(al_device* device, int32_t dtype, const void* x, int64_t n,
                 double coefficient, const double* factor,
                 al_loss_result* result) {
  AL_RECORD(device, al_sum, device, dtype, x, n, coefficient, factor, result);
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      std::vector<double> partials((n + kBlock - 1) / kBlock);
      for_blocks(n, kBlock, n, [&](int64_t i, int64_t begin, int64_t end) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = begin; j < end; ++j)
          sum += static_cast<double>(load(static_cast<const S*>(x)[j]));
        partials[i] = sum;
      });
      double total = 0;
      for (const double partial : partials) total += partial;
      write_result(dtype, total * factor_of(coefficient, factor), {}, result);
      return static_cast<al_status>(AL_OK);
    });
  });
}

al_status al_fill(al_device* device, int32_t dtype, void* out, int64_t n,
                  double coefficient, const double* factor) {
  AL_RECORD(device, al_fill, device, dtype, out, n, coefficient, factor);
  return with_float_type(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const S value =
        store<S>(static_cast<compute_t<S>>(factor_of(coefficient, factor)));
    for_blocks(n, kBlock, n, [&](int64_t, int64_t begin, int64_t end) {
      std::fill(static_cast<S*>(out) + begin, static_cast<S*>(out) + end,
                value);
    });
    return static_cast<al_status>(AL_OK);
  });
}

al_status al_nan_to_num(al_device* device, int32_t dtype, const void* x,
                        int64_t n, void* out, int64_t* nonfinite) {
  AL_RECORD(device, al_nan_to_num, device, dtype, x, n, out, nonfinite);
  return with_float_type(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const S* from = static_cast<const S*>(x);
    S* to = static_cast<S*>(out);
    int64_t bad = 0;
    for (int64_t i = 0; i < n; ++i) {
      const compute_t<S> value = load(from[i]);
      bad += !is_finite(value, Dtype<S>::largest);
      to[i] = store<S>(nan_to_num(value, Dtype<S>::largest));
    }
    *nonfinite = bad;
    return static_cast<al_status>(AL_OK);
  });
}

al_status al_zero_nonfinite(al_device* device, int32_t dtype, const void* x,
                            int64_t n, void* grad) {
  AL_RECORD(device, al_zero_nonfinite, device, dtype, x, n, grad);
  return with_float_type(dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const S* from = static_cast<const S*>(x);
    S* to = static_cast<S*>(grad);
    for (int64_t i = 0; i < n; ++i)
      if (!is_finite(load(from[i]), Dtype<S>::largest)) to[i] = store<S>(0);
    return static_cast<al_status>(AL_OK);
  });
}
