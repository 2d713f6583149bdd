/**
 * The losses by number and by name, at run time: those of this library, and
 * those that users have defined since, which come in libraries of their own and
 * register here. Shared by both libraries.
 */
#ifndef ATOMLOSS_LOSS_TABLE_H
#define ATOMLOSS_LOSS_TABLE_H

#include "loss_ops.h"
#include "shared/status.h"

namespace atomloss {

/** What a device does with a loss of a dtype: of cpu/ or cuda/loss_kernels. */
struct LossKernels;

/** A loss. */
struct LossEntry {
  const char* name;
  LossShape shape;
  bool uses_natoms;
  const LossKernels* kernels[AL_BFLOAT16 + 1]; /* by dtype */

  /** Throws unless dtype is a floating one. */
  const LossKernels& kernels_for(int32_t dtype) const {
    if (dtype < AL_FLOAT32 || dtype > AL_BFLOAT16)
      throw al_error(al_fail(AL_INVALID_ARGUMENT,
                             "dtype %d is not a floating dtype", dtype));
    return *kernels[dtype];
  }
};

/** The kernels of the losses of this library, in their order, by dtype. */
const LossKernels* const* builtin_float32();
const LossKernels* const* builtin_float64();
const LossKernels* const* builtin_float16();
const LossKernels* const* builtin_bfloat16();

/** The loss of this number; throws if there is none. */
const LossEntry& loss_entry(int32_t number);

/** Throws unless the arguments are such as a caller with checked shapes has. */
void check_arguments(const LossEntry& loss, int64_t rows, int64_t cols,
                     const void* natoms, int32_t natoms_dtype);

/** The same of a task, of which the loss is `loss`. */
void check_task(const LossEntry& loss, const al_loss_task& task);

/** Adds losses. One that is there already stays if it is the same object. */
al_status register_losses(const LossEntry* entries, int32_t count);

}  // namespace atomloss

#endif /* ATOMLOSS_LOSS_TABLE_H */
