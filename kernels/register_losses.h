/**
 * What the library of losses that a user defines has: al_register_losses(),
 * which tells the library of the device, with which it is linked, of them. To
 * be included behind the loss_kernels of the device.
 */
#include "loss_table.h"

extern "C" al_status al_register_losses() {
  using namespace atomloss;
  static const LossEntry entries[] = {
#define AL_ENTRY(Loss)                                       \
  {Loss::name,                                               \
   Loss::kind,                                               \
   Loss::uses_natoms,                                        \
   {&loss_kernels<Loss, float>, &loss_kernels<Loss, double>, \
    &loss_kernels<Loss, float16>, &loss_kernels<Loss, bfloat16>}},
      AL_NEW_LOSSES(AL_ENTRY)
#undef AL_ENTRY
  };
  return al_guard([] {
    return register_losses(entries, sizeof entries / sizeof *entries);
  });
}
