/** The unreduced losses and their gradients: a thread per element or row. */
#ifndef ATOMLOSS_CUDA_UNREDUCED_KERNELS_CUH
#define ATOMLOSS_CUDA_UNREDUCED_KERNELS_CUH

#include "task.cuh"

namespace atomloss {
namespace {

/** Atoms of an element's row, where the loss reads them; otherwise 1. */
template <class Loss, class S>
__device__ __forceinline__ compute_t<S> natoms_at(const TaskView<S>& in,
                                                  int64_t element) {
  if constexpr (!Loss::uses_natoms) return 1;
  return static_cast<compute_t<S>>(natoms_of(in.task)[in.row_of(element)]);
}

/** A row with all its numbers. */
template <class Loss, class S>
__device__ __forceinline__ auto read_row(const TaskView<S>& in, int64_t row) {
  const int64_t cols = Loss::columns > 0 ? Loss::columns : in.cols;
  typename Loss::template Row<compute_t<S>> sums;
  AL_UNROLL
  for (int64_t j = 0; j < cols; ++j)
    sums.add(j, load(in.pred[row * cols + j]), load(in.target[row * cols + j]));
  return sums;
}

template <class Loss, class S>
__global__ __launch_bounds__(kThreads, kMinBlocks) void unreduced(
    const __grid_constant__ al_loss_task task, S* out) {
  const TaskView<S> in(task);
  const Parameters<compute_t<S>> c(task.parameters);
  const int64_t n = Loss::kind == AL_PER_ROW ? in.rows : in.elements();
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    if constexpr (Loss::kind == AL_PER_ROW)
      out[i] = store<S>(read_row<Loss>(in, i).value(c));
    else
      out[i] = store<S>(Loss::value(load(in.pred[i]), load(in.target[i]),
                                    natoms_at<Loss>(in, i), c));
  }
}

/** grad of the task = grad_output (NULL: ones) times the gradient. */
template <class Loss, class S>
__global__ __launch_bounds__(kThreads, kMinBlocks) void unreduced_grad(
    const __grid_constant__ al_loss_task task, const S* grad_output) {
  using T = compute_t<S>;
  const TaskView<S> in(task);
  const Parameters<T> c(task.parameters);
  const int64_t n = Loss::kind == AL_PER_ROW ? in.rows : in.elements();
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    const T upstream = grad_output ? load(grad_output[i]) : T(1);
    if constexpr (Loss::kind == AL_PER_ROW) {
      const int64_t cols = Loss::columns > 0 ? Loss::columns : in.cols;
      auto sums = read_row<Loss>(in, i);
      sums.differentiate(c, upstream);
      AL_UNROLL
      for (int64_t j = 0; j < cols; ++j) {
        const int64_t at = i * cols + j;
        in.grad[at] =
            store<S>(sums.grad(j, load(in.pred[at]), load(in.target[at])));
      }
    } else {
      in.grad[i] =
          store<S>(upstream * Loss::grad(load(in.pred[i]), load(in.target[i]),
                                         natoms_at<Loss>(in, i), c));
    }
  }
}

}  // namespace
}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_UNREDUCED_KERNELS_CUH */
