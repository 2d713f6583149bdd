/** Where the rows of each structure are. */
#ifndef ATOMLOSS_CPU_STRUCTURE_OFFSETS_H
#define ATOMLOSS_CPU_STRUCTURE_OFFSETS_H

#include <vector>

#include "shared/structures.h"

namespace atomloss {

/**
 * The first row of each structure, and where the last one ends, which is not at
 * `rows` if natoms is wrong.
 */
inline std::vector<int64_t> structure_offsets(const Natoms& natoms,
                                              int64_t structures,
                                              int64_t rows) {
  const AddAtoms add = {rows + 1};
  std::vector<int64_t> offsets(static_cast<size_t>(structures) + 1);
  for (int64_t i = 0; i < structures; ++i)
    offsets[i + 1] = add(offsets[i], add.clamp(natoms[i]));
  return offsets;
}

}  // namespace atomloss

#endif /* ATOMLOSS_CPU_STRUCTURE_OFFSETS_H */
