/** The losses of this library for float32: compiled beside the other dtypes. */
#include "cpu/loss_kernels.h"
#include "shared/loss_table.h"

const atomloss::LossKernels* const* atomloss::builtin_float32() {
#define AL_KERNELS(Loss) &loss_kernels<Loss, float>,
  static constexpr const LossKernels* all[] = {AL_BUILTIN_LOSSES(AL_KERNELS)};
#undef AL_KERNELS
  return all;
}
