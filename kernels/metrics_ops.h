/**
 * What one atom and one structure add to al_metrics_sums: written once and
 * compiled for the host and for the device. Everything is float64, also where
 * the inputs are not: the difference of two energies of thousands of eV is what
 * counts here, and an evaluation may be compared with another in its last
 * digits.
 *
 * Definitions as in fairchem.core.modules.evaluator and Chanussot et al., ACS
 * Catalysis 11, 6059 (2021).
 */
#ifndef ATOMLOSS_METRICS_OPS_H
#define ATOMLOSS_METRICS_OPS_H

#include <cfloat>
#include <cmath>

#include "shared/dispatch.h"
#include "shared/status.h"
#include "shared/structures.h"

namespace atomloss {

/** A norm is taken to be at least this in a cosine, as by torch. */
constexpr double kCosineEps = 1e-8;

/** The sums over atoms, in the order of al_metrics_sums. */
struct AtomSums {
  double atoms, abs, square, norm, cosine, magnitude, nonfinite;
};

AL_HD AtomSums operator+(const AtomSums& a, const AtomSums& b) {
  return {
      a.atoms + b.atoms,         a.abs + b.abs,       a.square + b.square,
      a.norm + b.norm,           a.cosine + b.cosine, a.magnitude + b.magnitude,
      a.nonfinite + b.nonfinite,
  };
}

/** The sums over structures, in the order of al_metrics_sums. */
struct StructureSums {
  double structures, energies, abs, square, within, nonfinite, per_atom_abs,
      per_atom, forces_judged, forces_within, both_judged, both_within,
      stresses, stress_abs, stress_square, stress_nonfinite;
};

AL_HD StructureSums operator+(const StructureSums& a, const StructureSums& b) {
  return {a.structures + b.structures,
          a.energies + b.energies,
          a.abs + b.abs,
          a.square + b.square,
          a.within + b.within,
          a.nonfinite + b.nonfinite,
          a.per_atom_abs + b.per_atom_abs,
          a.per_atom + b.per_atom,
          a.forces_judged + b.forces_judged,
          a.forces_within + b.forces_within,
          a.both_judged + b.both_judged,
          a.both_within + b.both_within,
          a.stresses + b.stresses,
          a.stress_abs + b.stress_abs,
          a.stress_square + b.stress_square,
          a.stress_nonfinite + b.stress_nonfinite};
}

/** 1 where either is NaN or infinite. */
AL_HD double not_finite(double p, double t) {
  return is_finite(p, DBL_MAX) & is_finite(t, DBL_MAX) ? 0.0 : 1.0;
}

/** What one atom adds. p and t are its three components. */
AL_HD AtomSums atom_terms(const double* p, const double* t) {
  const double x = p[0] - t[0], y = p[1] - t[1], z = p[2] - t[2];
  const double square = x * x + y * y + z * z;
  const double p_norm = std::sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
  const double t_norm = std::sqrt(t[0] * t[0] + t[1] * t[1] + t[2] * t[2]);
  // A NaN norm may become eps: the dot product is NaN then as well.
  const double p_least = p_norm > kCosineEps ? p_norm : kCosineEps;
  const double t_least = t_norm > kCosineEps ? t_norm : kCosineEps;
  const double dot = p[0] * t[0] + p[1] * t[1] + p[2] * t[2];
  return {
      1.0,
      std::fabs(x) + std::fabs(y) + std::fabs(z),
      square,
      std::sqrt(square),
      dot / (p_least * t_least),
      std::fabs(p_norm - t_norm),
      not_finite(p[0], t[0]) + not_finite(p[1], t[1]) + not_finite(p[2], t[2])};
}

/** Whether every component is below the threshold; NaN is not. */
AL_HD bool atom_within(const double* p, const double* t, double threshold) {
  return (std::fabs(p[0] - t[0]) < threshold) &
         (std::fabs(p[1] - t[1]) < threshold) &
         (std::fabs(p[2] - t[2]) < threshold);
}

/** What is known of a structure once its atoms have been seen. */
struct Verdict {
  bool judged; /* an atom's forces were compared */
  bool missed; /* and were not within the threshold */
};

/** Whether any atom may be left out: what there is, natoms does not say then.
 */
AL_HD bool is_selective(const al_compared& rows) {
  return rows.mask != nullptr || rows.ignore_nan != 0;
}

/** Whether a row is compared at all. */
AL_HD bool is_on(const al_compared& rows, int64_t row) {
  return rows.pred &&
         (!rows.mask || static_cast<const uint8_t*>(rows.mask)[row]);
}

/** Whether a target is a label. */
AL_HD bool is_label(double target, const al_compared& rows) {
  return !rows.ignore_nan | (target == target);
}

/** Adds the energies p and t of a structure of so many atoms. */
AL_HD void add_energy(double p, double t, int64_t natoms, double threshold,
                      StructureSums* sums) {
  const double error = std::fabs(p - t);
  const bool within = error < threshold;
  sums->energies += 1;
  sums->abs += error;
  sums->square += error * error;
  sums->within += within ? 1.0 : 0.0;
  sums->nonfinite += not_finite(p, t);
  if (natoms > 0) {
    sums->per_atom_abs += error / static_cast<double>(natoms);
    sums->per_atom += 1;
  }
  sums->both_judged += sums->forces_judged;
  sums->both_within += within ? sums->forces_within : 0.0;
}

/** What structure i adds, once its atoms have been seen. */
#ifdef __CUDACC__
__device__
#endif
    inline StructureSums
    structure_terms(int64_t i, int64_t natoms, const al_compared& energy,
                    const al_compared& stress, double threshold,
                    Verdict forces) {
  StructureSums sums = {};
  sums.structures = 1;
  sums.forces_judged = forces.judged ? 1.0 : 0.0;
  sums.forces_within = forces.judged & !forces.missed ? 1.0 : 0.0;
  if (is_on(energy, i)) {
    const double t = number(energy.target, energy.dtype, i);
    if (is_label(t, energy))
      add_energy(number(energy.pred, energy.dtype, i), t, natoms, threshold,
                 &sums);
  }
  for (int j = 0; is_on(stress, i) && j < stress.cols; ++j) {
    const int64_t at = i * stress.cols + j;
    const double t = number(stress.target, stress.dtype, at);
    if (!is_label(t, stress)) continue;
    const double p = number(stress.pred, stress.dtype, at);
    const double error = std::fabs(p - t);
    sums.stresses += 1;
    sums.stress_abs += error;
    sums.stress_square += error * error;
    sums.stress_nonfinite += not_finite(p, t);
  }
  return sums;
}

/** Adds a batch's sums to those of all before. */
AL_HD void add_sums(const AtomSums& atoms, const StructureSums& structures,
                    bool bad_natoms, al_metrics_sums* sums) {
  sums->atoms += atoms.atoms;
  sums->forces_abs += atoms.abs;
  sums->forces_square += atoms.square;
  sums->forces_norm += atoms.norm;
  sums->forces_cosine += atoms.cosine;
  sums->forces_magnitude += atoms.magnitude;
  sums->forces_nonfinite += atoms.nonfinite;
  sums->structures += structures.structures;
  sums->energies += structures.energies;
  sums->energy_abs += structures.abs;
  sums->energy_square += structures.square;
  sums->energy_within += structures.within;
  sums->energy_nonfinite += structures.nonfinite;
  sums->energy_per_atom_abs += structures.per_atom_abs;
  sums->energies_per_atom += structures.per_atom;
  sums->forces_judged += structures.forces_judged;
  sums->forces_within += structures.forces_within;
  sums->both_judged += structures.both_judged;
  sums->both_within += structures.both_within;
  sums->stresses += structures.stresses;
  sums->stress_abs += structures.stress_abs;
  sums->stress_square += structures.stress_square;
  sums->stress_nonfinite += structures.stress_nonfinite;
  sums->bad_natoms += bad_natoms ? 1.0 : 0.0;
}

/** Of NULL: nothing to compare. */
inline al_compared or_none(const al_compared* rows) {
  return rows ? *rows : al_compared{};
}

/** Rejects what a caller with checked shapes never passes. */
inline al_status check_metrics(int64_t structures, int32_t natoms_dtype,
                               const al_compared& energy,
                               const al_compared& forces,
                               const al_compared& stress) {
  if (structures < 0 || forces.rows < 0)
    return al_fail(AL_INVALID_ARGUMENT,
                   "negative size: %lld structures, %lld atoms",
                   static_cast<long long>(structures),
                   static_cast<long long>(forces.rows));
  if (natoms_dtype != AL_INT32 && natoms_dtype != AL_INT64)
    return al_fail(AL_INVALID_ARGUMENT, "natoms must be int32 or int64");
  const auto fits = [](const al_compared& rows, int64_t expected, bool cols) {
    return !rows.pred || (rows.rows == expected && cols);
  };
  if (!fits(energy, structures, energy.cols == 1) ||
      !fits(forces, forces.rows, forces.cols == 3) ||
      !fits(stress, structures, stress.cols == 6 || stress.cols == 9))
    return al_fail(AL_INVALID_ARGUMENT,
                   "rows or columns of a batch do not fit");
  for (const al_compared* rows : {&energy, &forces, &stress}) {
    const al_status bad = with_float_type(
        rows->dtype, [](auto) { return static_cast<al_status>(AL_OK); });
    if (rows->pred && bad) return bad;
  }
  return AL_OK;
}

/* ---- where a structure's atoms are ---------------------------------------*/

/**
 * The structure that an atom belongs to: the last whose first atom is not
 * behind it. offsets has structures + 1 ascending entries, the first 0; the
 * result is `structures` for an atom behind the last structure.
 */
AL_HD int64_t structure_of(int64_t atom, const int64_t* offsets,
                           int64_t structures) {
  int64_t low = 0, high = structures + 1; /* offsets[low] <= atom */
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const bool behind = offsets[middle] > atom;
    high = behind ? middle : high;
    low = behind ? low : middle;
  }
  return low;
}

}  // namespace atomloss

#endif /* ATOMLOSS_METRICS_OPS_H */
