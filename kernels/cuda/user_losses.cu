/**
 * The losses that a user defines, for GPUs: their own kernels, and the launch
 * for any tasks once more, with them among the losses.
 */
#define AL_REDUCE_LOSSES(X) AL_BUILTIN_LOSSES(X) AL_USER_LOSSES(X)
#include "cuda/reduce_tasks.cuh"
// Behind it.
#include "defined/register_losses.h"

extern "C" al_status al_register_losses() {
  return al_guard([] {
    const al_status failed = atomloss::register_new_losses();
    if (failed == AL_OK) atomloss::use_multi_reduce(atomloss::multi_reduce);
    return failed;
  });
}
