/**
 * What a GPU does with a loss of a dtype, as functions without types: they
 * launch its kernels.
 */
#ifndef ATOMLOSS_CUDA_LOSS_KERNELS_CUH
#define ATOMLOSS_CUDA_LOSS_KERNELS_CUH

#include <vector>

#include "cuda/reduce_kernels.cuh"
#include "cuda/samples_kernels.cuh"
#include "cuda/unreduced_kernels.cuh"
#include "shared/loss_table.h"
#ifdef __CUDACC__
#include "cuda/device.cuh"

namespace atomloss {

struct LossKernels {
  void (*forward)(al_device*, const al_loss_task&, void* out);
  void (*backward)(al_device*, const al_loss_task&, const void* grad_output);
  /** The fused pass over this task, the number-th of the total, alone. */
  void (*reduce)(al_device*, const al_loss_task&, int number, const Total&);
  /** Weighs the rows of structures; adds those that are samples to *count. */
  void (*weigh_structures)(al_device*, const al_loss_task&,
                           const int64_t* offsets, double* count);
};

/** The launch for any tasks, of the losses with these names. */
struct MultiReduce {
  void (*launch)(al_device*, const TaskTable&, const Total&);
  std::vector<const char*> names; /* by number */
};

const MultiReduce& builtin_multi_reduce();

/** From now on this one, which knows more losses. */
void use_multi_reduce(const MultiReduce& launch);

namespace {

template <class Loss, class S, Body kBody>
void launch_body(al_device* device, const al_loss_task& task, int64_t tiles,
                 int number, const Total& total) {
  // The grid follows from the sizes alone, and with it the order of the sums.
  launch_kernel(reduce_task<Loss, S, kBody>, device->grid(tiles), kThreads,
                device->compute, task, number, device->scratch, total);
}

template <class Loss, class S>
void launch_reduce(al_device* device, const al_loss_task& task, int number,
                   const Total& total) {
  const Work work = work_of(task, kShapeOf<Loss>, sizeof(S));
  const int64_t tiles = work.tiles;
  if constexpr (Loss::kind == AL_PER_ELEMENT) {
    if (work.body == Body::kPackedElements)
      launch_body<Loss, S, Body::kPackedElements>(device, task, tiles, number,
                                                  total);
    else
      launch_body<Loss, S, Body::kElements>(device, task, tiles, number, total);
    return;
  }
  if constexpr (Loss::of_squares)
    if (work.body == Body::kForces)
      launch_body<Loss, S, Body::kForces>(device, task, tiles, number, total);
  if constexpr (Loss::kind == AL_PER_ROW && Loss::columns == 0)
    if (work.body == Body::kLongRows)
      launch_body<Loss, S, Body::kLongRows>(device, task, tiles, number, total);
  if constexpr (Loss::kind == AL_PER_ROW)
    if (work.body == Body::kRows)
      launch_body<Loss, S, Body::kRows>(device, task, tiles, number, total);
}

/** One thread per entry of the unreduced loss. */
template <class Loss>
int unreduced_grid(const al_loss_task& task) {
  constexpr int64_t kMost = 1 << 16; /* the loops take the rest */
  const int64_t n =
      Loss::kind == AL_PER_ROW ? task.rows : task.rows * task.cols;
  return static_cast<int>(std::min(divide_up(n, kThreads), kMost));
}

template <class Loss, class S>
void launch_forward(al_device* device, const al_loss_task& task, void* out) {
  const int grid = unreduced_grid<Loss>(task);
  if (grid == 0) return;
  launch_kernel(unreduced<Loss, S>, grid, kThreads, device->compute, task,
                static_cast<S*>(out));
}

template <class Loss, class S>
void launch_backward(al_device* device, const al_loss_task& task,
                     const void* grad_output) {
  const int grid = unreduced_grid<Loss>(task);
  if (grid == 0) return;
  launch_kernel(unreduced_grad<Loss, S>, grid, kThreads, device->compute, task,
                static_cast<const S*>(grad_output));
}

template <class Loss, class S>
void launch_weigh(al_device* device, const al_loss_task& task,
                  const int64_t* offsets, double* count) {
  launch_kernel(weigh_structures<Loss, S>, device->grid(task.structures),
                kThreads, device->compute, task, offsets, count);
}

template <class Loss, class S>
constexpr LossKernels loss_kernels = {
    launch_forward<Loss, S>, launch_backward<Loss, S>, launch_reduce<Loss, S>,
    launch_weigh<Loss, S>};

}  // namespace
}  // namespace atomloss

#endif
#endif /* ATOMLOSS_CUDA_LOSS_KERNELS_CUH */
