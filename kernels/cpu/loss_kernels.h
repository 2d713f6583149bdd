/** What the CPU does with a loss of a dtype, as functions without types. */
#ifndef ATOMLOSS_CPU_LOSS_KERNELS_H
#define ATOMLOSS_CPU_LOSS_KERNELS_H

#include "cpu/reduce_kernels.h"
#include "cpu/samples_kernels.h"
#include "cpu/unreduced_kernels.h"

namespace atomloss {

struct LossKernels {
  void (*forward)(const Input& in, void* out);
  void (*backward)(const Input& in, const void* grad_output, void* grad);
  /** Chooses what runs the blocks of a task in the fused pass. */
  void (*plan)(Plan& plan);
  /** Writes the samples of a task's groups, and what else it needs. */
  void (*count)(const al_loss_task& task, double* counts);
};

template <class Loss, class S>
inline constexpr LossKernels loss_kernels = {forward<Loss, S>,
                                             backward<Loss, S>, choose<Loss, S>,
                                             count_samples<Loss, S>};

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_LOSS_KERNELS_H */
