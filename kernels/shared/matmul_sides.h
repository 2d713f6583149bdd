/** What both libraries ask of the sides of a matrix product. */
#ifndef ATOMLOSS_MATMUL_SIDES_H
#define ATOMLOSS_MATMUL_SIDES_H

#include "shared/status.h"

namespace atomloss {

/** Fails unless the sides are at least 0. */
inline al_status check_sides(int64_t m, int64_t n, int64_t k) {
  if (m >= 0 && n >= 0 && k >= 0) return AL_OK;
  return al_fail(AL_INVALID_ARGUMENT,
                 "a negative side of the matrix product: m %lld, n %lld, "
                 "k %lld",
                 static_cast<long long>(m), static_cast<long long>(n),
                 static_cast<long long>(k));
}

}  // namespace atomloss

#endif /* ATOMLOSS_MATMUL_SIDES_H */
