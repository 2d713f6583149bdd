/**
 * What sums are multiplied by so that they become means, from the numbers of
 * samples over all replicas: written once and compiled for the host and for the
 * device.
 */
#ifndef ATOMLOSS_DIVISORS_H
#define ATOMLOSS_DIVISORS_H

#include "loss_rows.h"

namespace atomloss {

/** Writes factors[i]; of a task of groups all its factors, with the first. */
AL_HD void write_factors(const al_divisor* divisors, double minimum,
                         const double* totals, int32_t i, double* factors) {
  const al_divisor divisor = divisors ? divisors[i] : al_divisor{1, 0, 0};
  const double n = totals[i];
  if (divisor.groups < 0) return;
  if (divisor.groups == 0) {
    const double at_least = n > minimum ? n : minimum;
    factors[i] = !divisor.of_weights ? 1 / at_least : n == 0 ? 0 : 1 / n;
    return;
  }
  double weights = 0;
  for (int32_t g = i; g < i + divisor.groups; ++g)
    if (totals[g] > 0) weights += divisors[g].group_weight;
  for (int32_t g = i; g < i + divisor.groups; ++g)
    factors[g] = totals[g] > 0 && weights > 0
                     ? divisors[g].group_weight / totals[g] / weights
                     : 0;
}

}  // namespace atomloss

#endif /* ATOMLOSS_DIVISORS_H */
