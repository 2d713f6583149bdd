/**
 * Evaluation on the CPU: one pass over the forces in blocks of atoms, whose
 * borders are not those of the structures, so that one large structure is no
 * slower than many small ones. A block adds what its atoms add, and marks the
 * structures whose forces it has seen or found out of the threshold; then one
 * pass over the structures.
 */
#include <algorithm>
#include <vector>

#include "cpu/device.h"
#include "cpu/structure_offsets.h"
#include "metrics_ops.h"
#include "parallel.h"
#include "shared/dispatch.h"
#include "shared/half.h"
#include "shared/status.h"

namespace atomloss {
namespace {

/** Atoms that go through the vector loop at a time. */
constexpr int kTile = 128;

/** Atoms of a block. */
constexpr int64_t kBlock = 32 * kTile;

/** Forces and the structures they belong to. */
struct Forces {
  const al_compared& atoms;
  double threshold;
  const std::vector<int64_t>& offsets; /* first atom of each; last: the end */

  int64_t structures() const {
    return static_cast<int64_t>(offsets.size()) - 1;
  }
};

/** Two blocks may share a structure, and then write the same value. */
void mark(uint8_t* flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }

/**
 * counts[i], missed[i]: 1 or 0, doubles as all else in the vector loop. Of
 * labels that may be missing, counts loses the atoms that have not all three.
 */
template <class S>
AtomSums sum_tile(const S* pred, const S* target, double* counts, int n,
                  bool ignore_nan, double threshold, double* missed) {
  alignas(64) double p[3 * kTile], t[3 * kTile];
#pragma omp simd
  for (int i = 0; i < 3 * n; ++i) {
    p[i] = static_cast<double>(load(pred[i]));
    t[i] = static_cast<double>(load(target[i]));
  }
  if (ignore_nan) {
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      const bool whole = (t[3 * i] == t[3 * i]) &
                         (t[3 * i + 1] == t[3 * i + 1]) &
                         (t[3 * i + 2] == t[3 * i + 2]);
      counts[i] = whole ? counts[i] : 0.0;
    }
  }
  double atoms = 0, abs = 0, square = 0, norm = 0, cosine = 0, magnitude = 0,
         nonfinite = 0;
#pragma omp simd reduction(+ : atoms, abs, square, norm, cosine, magnitude, \
                               nonfinite)
  for (int i = 0; i < n; ++i) {
    const AtomSums terms = atom_terms(p + 3 * i, t + 3 * i);
    const bool within = atom_within(p + 3 * i, t + 3 * i, threshold);
    // Chosen, not multiplied: a NaN that does not count must vanish.
    const bool on = counts[i] != 0;
    atoms += counts[i];
    abs += on ? terms.abs : 0.0;
    square += on ? terms.square : 0.0;
    norm += on ? terms.norm : 0.0;
    cosine += on ? terms.cosine : 0.0;
    magnitude += on ? terms.magnitude : 0.0;
    nonfinite += on ? terms.nonfinite : 0.0;
    missed[i] = within ? 0.0 : counts[i];
  }
  return {atoms, abs, square, norm, cosine, magnitude, nonfinite};
}

/** Atoms [begin, end); marks their structures in judged and missed. */
template <class S>
AtomSums sum_block(const Forces& forces, int64_t begin, int64_t end,
                   uint8_t* judged, uint8_t* missed) {
  alignas(64) double counts[kTile], tile_missed[kTile];
  const auto* const pred = static_cast<const S*>(forces.atoms.pred);
  const auto* const target = static_cast<const S*>(forces.atoms.target);
  const bool selective = is_selective(forces.atoms);
  AtomSums sums = {};
  int64_t structure = 0, border = begin; /* the next one's first atom */
  for (int64_t at = begin; at < end; at += kTile) {
    const int n = static_cast<int>(std::min<int64_t>(kTile, end - at));
    for (int i = 0; i < n; ++i)
      counts[i] = is_on(forces.atoms, at + i) ? 1.0 : 0.0;
    sums = sums + sum_tile(pred + 3 * at, target + 3 * at, counts, n,
                           forces.atoms.ignore_nan != 0, forces.threshold,
                           tile_missed);
    for (int i = 0; i < n; ++i) {
      // Where all atoms count the offsets say which structures have some.
      if (selective ? counts[i] == 0 : tile_missed[i] == 0) continue;
      if (at + i >= border) {
        structure =
            structure_of(at + i, forces.offsets.data(), forces.structures());
        // Too few atoms in natoms: the rest belongs to no structure.
        border = structure < forces.structures() ? forces.offsets[structure + 1]
                                                 : end;
      }
      if (structure == forces.structures()) break;
      mark(judged + structure);
      if (tile_missed[i] != 0) mark(missed + structure);
    }
  }
  return sums;
}

template <class S>
AtomSums sum_forces(const Forces& forces, uint8_t* judged, uint8_t* missed) {
  const int64_t atoms = forces.atoms.rows;
  std::vector<AtomSums> partials((atoms + kBlock - 1) / kBlock);
  for_blocks(atoms, kBlock, 3 * atoms,
             [&](int64_t i, int64_t begin, int64_t end) {
               partials[i] = sum_block<S>(forces, begin, end, judged, missed);
             });
  AtomSums total = {};
  for (const AtomSums& partial : partials) total = total + partial;
  return total;
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_metrics_add(al_device* device, int64_t structures,
                         const void* natoms, int32_t natoms_dtype,
                         const al_compared* energy, const al_compared* forces,
                         const al_compared* stress, double energy_threshold,
                         double force_threshold, al_metrics_sums* sums) {
  AL_RECORD(device, al_metrics_add, device, structures, natoms, natoms_dtype,
            copies(energy, 1), copies(forces, 1), copies(stress, 1),
            energy_threshold, force_threshold, sums);
  return al_guard([&]() -> al_status {
    const al_compared energies = or_none(energy), atoms = or_none(forces),
                      stresses = or_none(stress);
    if (al_status bad =
            check_metrics(structures, natoms_dtype, energies, atoms, stresses))
      return bad;
    const Natoms counts = {natoms, natoms_dtype == AL_INT64};
    AtomSums atom_sums = {};
    std::vector<uint8_t> judged(structures), missed(structures);
    bool bad_natoms = false;
    if (atoms.pred) {
      const std::vector<int64_t> offsets =
          structure_offsets(counts, structures, atoms.rows);
      bad_natoms = offsets.back() != atoms.rows;
      if (!is_selective(atoms)) {
        for (int64_t i = 0; i < structures; ++i)
          judged[i] = offsets[i + 1] > offsets[i];
      }
      const Forces all = {atoms, force_threshold, offsets};
      const al_status status = with_float_type(atoms.dtype, [&](auto type) {
        using S = typename decltype(type)::type;
        atom_sums = sum_forces<S>(all, judged.data(), missed.data());
        return static_cast<al_status>(AL_OK);
      });
      if (status) return status;
    }
    StructureSums structure_sums = {};
    for (int64_t i = 0; i < structures; ++i) {
      bad_natoms |= counts[i] < 0;
      structure_sums =
          structure_sums +
          structure_terms(i, counts[i], energies, stresses, energy_threshold,
                          Verdict{judged[i] != 0, missed[i] != 0});
    }
    add_sums(atom_sums, structure_sums, bad_natoms, sums);
    return AL_OK;
  });
}
