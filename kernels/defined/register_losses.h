/**
 * Tells the library of a device of the losses that a user defines: part of
 * al_register_losses(), which their own library has. To be included behind the
 * loss_kernels of the device.
 */
#include "shared/loss_table.h"

namespace atomloss {

// Not inline: what is static in an inline function is one for all the libraries
// of a process.
static al_status register_new_losses() {
  static const LossEntry entries[] = {
#define AL_ENTRY(Loss)                                       \
  {Loss::name,                                               \
   kShapeOf<Loss>,                                           \
   Loss::uses_natoms,                                        \
   {&loss_kernels<Loss, float>, &loss_kernels<Loss, double>, \
    &loss_kernels<Loss, float16>, &loss_kernels<Loss, bfloat16>}},
      AL_NEW_LOSSES(AL_ENTRY)
#undef AL_ENTRY
  };
  return register_losses(entries, sizeof entries / sizeof *entries);
}

}  // namespace atomloss
