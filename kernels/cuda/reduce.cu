/**
 * The fused pass of DDPLoss: one launch reads pred and target once, writes the
 * gradient once, and leaves one scalar.
 *
 * It is bound by memory, so what counts is that every access is 16 bytes wide
 * and coalesced, that several are in flight per thread before the first is
 * used, and that there are many blocks when there is much to do. Here the
 * launchers; the kernels are in reduce_kernels.cuh.
 */
#include "device.cuh"
#include "reduce_kernels.cuh"

namespace atomloss {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class Loss, bool kGrad, class S>
void launch_reduce(al_device* device, const Input<S>& in, const Output& out,
                   S* grad) {
  const bool packed = packable(in.pred, in.target, grad);
  const cudaStream_t stream = device->compute;
  // The grid follows from the sizes alone, and with it the order of the sums.
  if constexpr (Loss::kind == AL_PER_ROW) {
    if (in.cols != 3) {
      const int grid = device->grid(divide_up(in.rows, kWarps));
      reduce_rows<Loss, kGrad, S><<<grid, kThreads, 0, stream>>>(in, out, grad);
    } else if (packed) {
      constexpr int64_t kTile = int64_t{kThreads} * Pack<S>::kSize;
      const int grid = device->grid(divide_up(in.rows, kTile));
      reduce_forces<Loss, kGrad, S>
          <<<grid, kThreads, 0, stream>>>(in, out, grad);
    } else {
      const int grid = device->grid(divide_up(in.rows, kThreads));
      reduce_forces_unaligned<Loss, kGrad, S>
          <<<grid, kThreads, 0, stream>>>(in, out, grad);
    }
  } else if (packed) {
    constexpr int64_t kTile = int64_t{kThreads} * kUnroll * Pack<S>::kSize;
    const int grid = device->grid(divide_up(in.elements(), kTile));
    reduce_elements<Loss, kGrad, S>
        <<<grid, kThreads, 0, stream>>>(in, out, grad);
  } else {
    const int grid = device->grid(divide_up(in.elements(), kThreads));
    reduce_elements_unaligned<Loss, kGrad, S>
        <<<grid, kThreads, 0, stream>>>(in, out, grad);
  }
  AL_CHECK(cudaGetLastError());
}

Output make_output(al_device* device, int32_t dtype, double scale,
                   const double* normalizer, al_loss_result* result) {
  return {result, device->partials, device->ticket,
          scale,  normalizer,       dtype == AL_FLOAT64};
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_loss_reduce(al_device* device, int32_t loss, int32_t dtype,
                         const void* pred, const void* target,
                         const void* natoms, int32_t natoms_dtype, int64_t rows,
                         int64_t cols, double scale, const double* normalizer,
                         al_loss_result* result, void* grad) {
  return al_guard([&] {
    return with_loss(loss, [&](auto op) {
      using Loss = decltype(op);
      return with_float_type(dtype, [&](auto type) {
        using S = typename decltype(type)::type;
        const auto in =
            make_input<Loss, S>(pred, target, natoms, natoms_dtype, rows, cols);
        const Output out =
            make_output(device, dtype, scale, normalizer, result);
        device->use();
        S* g = static_cast<S*>(grad);
        if (g)
          launch_reduce<Loss, true, S>(device, in, out, g);
        else
          launch_reduce<Loss, false, S>(device, in, out, g);
        return static_cast<al_status>(AL_OK);
      });
    });
  });
}

al_status al_sum(al_device* device, int32_t dtype, const void* x, int64_t n,
                 double scale, const double* normalizer,
                 al_loss_result* result) {
  return al_guard([&] {
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      device->use();
      const int grid = device->grid(divide_up(n, int64_t{kThreads} * 8));
      sum_elements<S><<<grid, kThreads, 0, device->compute>>>(
          static_cast<const S*>(x), n,
          make_output(device, dtype, scale, normalizer, result));
      AL_CHECK(cudaGetLastError());
      return static_cast<al_status>(AL_OK);
    });
  });
}
