/** The arguments with which the losses of the ABI begin, as the CPU reads them.
 */
#ifndef ATOMLOSS_CPU_LOSS_INPUT_H
#define ATOMLOSS_CPU_LOSS_INPUT_H

#include "loss_ops.h"
#include "shared/dispatch.h"
#include "shared/entries.h"
#include "shared/half.h"
#include "shared/status.h"
#include "shared/structures.h"

namespace atomloss {

/** Elements that one thread takes at a time; whole force vectors. */
constexpr int64_t kBlock = 64 * 192;

struct Input {
  int32_t dtype;
  const void* pred;
  const void* target;
  const void* natoms;
  int32_t natoms_dtype;
  int64_t rows;
  int64_t cols;
  const double* parameters; /* [AL_MAX_PARAMETERS] */

  int64_t elements() const { return rows * cols; }

  int64_t natoms_at(int64_t row) const {
    return Natoms{natoms, natoms_dtype == AL_INT64}[row];
  }
};

/** coefficient * *factor, or coefficient. */
inline double factor_of(double coefficient, const double* factor) {
  return factor ? coefficient * *factor : coefficient;
}

/** Writes a value in the width that its dtype asks for, and what there is to
 * say. */
inline void write_result(int32_t dtype, double value, const Remarks& remarks,
                         al_loss_result* result) {
  result->value = 0;
  if (dtype == AL_FLOAT64) {
    result->value = value;
  } else {
    const float rounded = static_cast<float>(value);
    memcpy(&result->value, &rounded, sizeof rounded);
  }
  result->inputs = remarks.inputs;
  result->targets = remarks.targets;
  result->factors = remarks.factors;
  result->natoms = remarks.natoms;
  result->groups = remarks.groups;
}

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_LOSS_INPUT_H */
