/**
 * Which rows belong to which structure, by natoms, which nobody has checked:
 * written once and compiled for the host and for the device.
 */
#ifndef ATOMLOSS_STRUCTURES_H
#define ATOMLOSS_STRUCTURES_H

#include "loss_ops.h"

namespace atomloss {

/** natoms, or groups, as the caller has them. */
struct Integers {
  const void* values;
  bool is_64;

  AL_HD int64_t operator[](int64_t i) const {
    return is_64 ? static_cast<const int64_t*>(values)[i]
                 : static_cast<const int32_t*>(values)[i];
  }
};
using Natoms = Integers;

AL_HD Natoms natoms_of(const al_loss_task& task) {
  return {task.natoms, task.natoms_dtype == AL_INT64};
}

/**
 * Adds counts of atoms up to `limit`, one more than there are: a sum of `limit`
 * is too large however much is added, and no sum overflows. A negative count
 * counts as `limit`, so that wrong counts never add up. Associative: a scan may
 * group it as it likes.
 */
struct AddAtoms {
  int64_t limit;

  AL_HD int64_t clamp(int64_t count) const {
    return count < 0 || count > limit ? limit : count;
  }
  AL_HD int64_t operator()(int64_t a, int64_t b) const {
    return a > limit - b ? limit : a + b;
  }
};

}  // namespace atomloss

#endif /* ATOMLOSS_STRUCTURES_H */
