/** The losses that a user defines, for the CPU. */
#include "cpu/loss_kernels.h"
// Behind it.
#include "defined/register_losses.h"

extern "C" al_status al_register_losses() {
  return al_guard([] { return atomloss::register_new_losses(); });
}
