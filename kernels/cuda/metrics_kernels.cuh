/**
 * The kernels of evaluation, apart from their launchers.
 *   metrics_offsets   one block: where the atoms of each structure begin
 *   metrics_forces    a thread per atom: sums, and marks on its structure
 *   metrics_finish    one block: the blocks' sums, the structures, the total
 * A thread per atom, not a block per structure, so that one structure of many
 * atoms is no slower than many of few. What a structure needs of its atoms is
 * two bits, which threads set by atomics: their order does not matter. Nothing
 * is indexed with what natoms holds: an atom looks up its structure.
 */
#ifndef ATOMLOSS_CUDA_METRICS_KERNELS_CUH
#define ATOMLOSS_CUDA_METRICS_KERNELS_CUH

#include <cub/block/block_reduce.cuh>

#include "metrics_ops.h"
#include "shared/dispatch.h"
#include "structure_offsets.cuh"

namespace atomloss {
namespace {

/** Threads of a block of each of these kernels. */
constexpr int kMetricsThreads = 256;

/** Structures as their atoms see them, in scratch memory. */
struct Structures {
  int64_t count;
  int64_t* offsets; /* [count + 1] */
  unsigned* marks;  /* [count] */
};

/** Marks of a structure. */
constexpr unsigned kJudged = 1, kMissed = 2;

constexpr unsigned kWholeWarp = 0xffffffffu;

struct AddSums {
  template <class Sums>
  __device__ __forceinline__ Sums operator()(const Sums& a,
                                             const Sums& b) const {
    return a + b;
  }
};

/** Sum over the block's threads, in thread 0. */
template <class Sums>
__device__ __forceinline__ Sums block_sum(const Sums& mine) {
  using Reduce = cub::BlockReduce<Sums, kMetricsThreads>;
  __shared__ typename Reduce::TempStorage storage;
  return Reduce(storage).Reduce(mine, AddSums());
}

/** Where structures begin, and nothing said of them yet. */
__global__ __launch_bounds__(kMetricsThreads) void metrics_offsets(
    Natoms natoms, int64_t atoms, bool selective, Structures structures) {
  const int64_t end = for_structures<kMetricsThreads>(
      natoms, structures.count, atoms,
      [&](int64_t i, int64_t first, int64_t next) {
        structures.offsets[i] = first;
        structures.marks[i] = !selective && next > first ? kJudged : 0;
      });
  if (threadIdx.x == 0) structures.offsets[structures.count] = end;
}

/**
 * Sets marks of the structures of a warp's atoms. Neighbours mostly set the
 * same ones: the first of them does it for all, as a thousand atomics on one
 * address are one after the other.
 */
__device__ __forceinline__ void mark(const Structures& structures,
                                     int64_t structure, unsigned marks) {
  const int64_t mine = marks == 0 ? 0 : 4 * structure + marks;
  const int64_t before = __shfl_up_sync(kWholeWarp, mine, 1);
  const bool is_first = threadIdx.x % 32 == 0 || before != mine;
  if (marks != 0 && is_first) atomicOr(&structures.marks[structure], marks);
}

/** Leaves a partial sum per block. */
template <class S>
__global__ __launch_bounds__(kMetricsThreads) void metrics_forces(
    al_compared atoms, double threshold, Structures structures,
    AtomSums* partials) {
  const auto* const pred = static_cast<const S*>(atoms.pred);
  const auto* const target = static_cast<const S*>(atoms.target);
  AtomSums sums = {};
  // All threads of a block as often, so that warps are whole in mark().
  for (int64_t first = int64_t{blockIdx.x} * kMetricsThreads;
       first < atoms.rows; first += int64_t{gridDim.x} * kMetricsThreads) {
    const int64_t atom = first + threadIdx.x;
    bool counts = atom < atoms.rows && is_on(atoms, atom);
    double p[3], t[3];
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      if (!counts) break;
      p[j] = static_cast<double>(load(pred[3 * atom + j]));
      t[j] = static_cast<double>(load(target[3 * atom + j]));
      counts = is_label(t[j], atoms);
    }
    int64_t structure = 0;
    unsigned marks = 0;
    if (counts) {
      sums = sums + atom_terms(p, t);
      // Where all atoms count the offsets say which structures have some.
      marks = (is_selective(atoms) ? kJudged : 0) |
              (atom_within(p, t, threshold) ? 0 : kMissed);
      if (marks != 0)
        structure = structure_of(atom, structures.offsets, structures.count);
      // Too few atoms in natoms: the rest belongs to no structure.
      if (structure == structures.count) marks = 0;
    }
    mark(structures, structure, marks);
  }
  const AtomSums block = block_sum(sums);
  if (threadIdx.x == 0) partials[blockIdx.x] = block;
}

/**
 * Adds `blocks` partial sums and all structures to *sums. Without forces
 * structures.offsets is NULL.
 */
__global__ __launch_bounds__(kMetricsThreads) void metrics_finish(
    Natoms natoms, int64_t atoms, Structures structures,
    const AtomSums* partials, int blocks, al_compared energy,
    al_compared stress, double threshold, al_metrics_sums* sums) {
  AtomSums of_atoms = {};
  for (int i = threadIdx.x; i < blocks; i += kMetricsThreads)
    of_atoms = of_atoms + partials[i];

  StructureSums of_structures = {};
  int negative = 0;
  for (int64_t i = threadIdx.x; i < structures.count; i += kMetricsThreads) {
    Verdict verdict = {false, false};
    if (structures.offsets) {
      verdict.judged = (structures.marks[i] & kJudged) != 0;
      verdict.missed = (structures.marks[i] & kMissed) != 0;
    }
    of_structures = of_structures + structure_terms(i, natoms[i], energy,
                                                    stress, threshold, verdict);
    negative |= natoms[i] < 0;
  }
  const AtomSums all_atoms = block_sum(of_atoms);
  const StructureSums all_structures = block_sum(of_structures);
  const int any_negative = block_sum(negative);
  if (threadIdx.x != 0) return;
  const bool bad_natoms =
      any_negative > 0 ||
      (structures.offsets && structures.offsets[structures.count] != atoms);
  add_sums(all_atoms, all_structures, bad_natoms, sums);
}

}  // namespace
}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_METRICS_KERNELS_CUH */
