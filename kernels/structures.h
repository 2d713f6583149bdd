/**
 * Which rows belong to which structure, by natoms, which nobody has checked:
 * written once and compiled for the host and for the device.
 */
#ifndef ATOMLOSS_STRUCTURES_H
#define ATOMLOSS_STRUCTURES_H

#include "loss_ops.h"

namespace atomloss {

/** natoms as the caller has it. */
struct Natoms {
  const void* values;
  bool is_64;

  AL_HD int64_t operator[](int64_t structure) const {
    return is_64 ? static_cast<const int64_t*>(values)[structure]
                 : static_cast<const int32_t*>(values)[structure];
  }
};

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

/** What a task adds to its al_loss_result.nonfinite besides what it counts. */
AL_HD int64_t natoms_verdict(const al_loss_task& task) {
  if (!(task.flags & AL_PER_STRUCTURE)) return 0;
  const bool bad =
      task.dtype == AL_FLOAT64
          ? static_cast<const double*>(task.row_weights)[task.rows] != 0
          : static_cast<const float*>(task.row_weights)[task.rows] != 0;
  return bad ? AL_BAD_NATOMS : 0;
}

}  // namespace atomloss

#endif /* ATOMLOSS_STRUCTURES_H */
