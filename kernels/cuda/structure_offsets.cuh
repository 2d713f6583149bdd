/** Where the rows of each structure are, by one block. */
#ifndef ATOMLOSS_CUDA_STRUCTURE_OFFSETS_CUH
#define ATOMLOSS_CUDA_STRUCTURE_OFFSETS_CUH

#include <cub/block/block_scan.cuh>

#include "shared/structures.h"

namespace atomloss {
namespace {

/**
 * Calls each(structure, its first row, first row of the next) for every
 * structure. To be called by all threads of a block. Returns where the last
 * structure ends, which is not at `rows` if natoms is wrong.
 */
template <int kBlockThreads, class Each>
__device__ __forceinline__ int64_t for_structures(const Natoms& natoms,
                                                  int64_t structures,
                                                  int64_t rows,
                                                  const Each& each) {
  using Scan = cub::BlockScan<int64_t, kBlockThreads>;
  __shared__ typename Scan::TempStorage storage;
  const AddAtoms add = {rows + 1};
  // Each thread takes a run of structures; their sums are scanned.
  const int64_t run = (structures + kBlockThreads - 1) / kBlockThreads;
  const int64_t first = run * threadIdx.x;
  const int64_t end = first + run < structures ? first + run : structures;
  int64_t mine = 0;
  for (int64_t i = first; i < end; ++i) mine = add(mine, add.clamp(natoms[i]));
  int64_t offset, total;
  Scan(storage).ExclusiveScan(mine, offset, int64_t{0}, add, total);
  for (int64_t i = first; i < end; ++i) {
    const int64_t next = add(offset, add.clamp(natoms[i]));
    each(i, offset, next);
    offset = next;
  }
  return total;
}

}  // namespace
}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_STRUCTURE_OFFSETS_CUH */
