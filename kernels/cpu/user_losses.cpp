/** The losses that a user defines, for the CPU. */
#include "cpu/loss_kernels.h"
// Behind it.
#include "register_losses.h"
