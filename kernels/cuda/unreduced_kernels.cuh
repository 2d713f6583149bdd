/** The unreduced losses and their gradients: a thread per element or row. */
#ifndef ATOMLOSS_CUDA_UNREDUCED_KERNELS_CUH
#define ATOMLOSS_CUDA_UNREDUCED_KERNELS_CUH

#include "task.cuh"

namespace atomloss {
namespace {

/** Sum over a row of (p - t)^2. */
template <class S>
__device__ __forceinline__ compute_t<S> row_square(const TaskView<S>& in,
                                                   int64_t row) {
  compute_t<S> s = 0;
  for (int64_t i = row * in.cols; i < (row + 1) * in.cols; ++i) {
    const compute_t<S> d = load(in.pred[i]) - load(in.target[i]);
    s += d * d;
  }
  return s;
}

template <class Loss, class S>
__global__ __launch_bounds__(kThreads, kMinBlocks) void unreduced(
    const __grid_constant__ al_loss_task task, S* out) {
  const TaskView<S> in(task);
  const int64_t n = Loss::kind == AL_PER_ROW ? in.rows : in.elements();
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    if constexpr (Loss::kind == AL_PER_ROW)
      out[i] = store<S>(Loss::value(row_square(in, i)));
    else
      out[i] = store<S>(Loss::value(load(in.pred[i]), load(in.target[i]),
                                    in.template natoms_at<Loss>(i)));
  }
}

/** grad of the task = grad_output (NULL: ones) times the gradient. */
template <class Loss, class S>
__global__ __launch_bounds__(kThreads, kMinBlocks) void unreduced_grad(
    const __grid_constant__ al_loss_task task, const S* grad_output) {
  using T = compute_t<S>;
  const TaskView<S> in(task);
  const int64_t n = Loss::kind == AL_PER_ROW ? in.rows : in.elements();
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    const T upstream = grad_output ? load(grad_output[i]) : T(1);
    if constexpr (Loss::kind == AL_PER_ROW) {
      const T slope = upstream * Loss::slope(row_square(in, i));
      for (int64_t j = i * in.cols; j < (i + 1) * in.cols; ++j)
        in.grad[j] = store<S>(slope * (load(in.pred[j]) - load(in.target[j])));
    } else {
      in.grad[i] =
          store<S>(upstream * Loss::grad(load(in.pred[i]), load(in.target[i]),
                                         in.template natoms_at<Loss>(i)));
    }
  }
}

}  // namespace
}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_UNREDUCED_KERNELS_CUH */
