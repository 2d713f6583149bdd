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
  /** Writes row_weights; the number of structures whose loss is not 0. */
  int64_t (*weigh_structures)(const al_loss_task& task);
};

template <class Loss, class S>
inline constexpr LossKernels loss_kernels = {forward<Loss, S>,
                                             backward<Loss, S>, choose<Loss, S>,
                                             weigh_structures<Loss, S>};

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_LOSS_KERNELS_H */
