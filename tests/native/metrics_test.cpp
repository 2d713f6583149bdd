/** al_metrics_add against loops over structures and their atoms. */
#include <cmath>
#include <vector>

#include "array.h"
#include "library_test.h"
#include "on_device.h"

namespace native {
namespace {

constexpr double kEnergyThreshold = 0.3, kForceThreshold = 0.9;

struct Batch {
  int64_t structures, atoms;
  Array natoms, energy_pred, energy_target, forces_pred, forces_target,
      stress_pred, stress_target, mask, structure_mask;
  bool energies, forces, stresses, masked, ignore_nan;
};

/** natoms that add up, or with `wrong`, that nearly do. */
void describe_atoms(Batch& batch, bool wrong, Random& random) {
  int64_t left = batch.atoms;
  for (int64_t i = 0; i < batch.structures; ++i) {
    const bool last = i == batch.structures - 1;
    const int64_t atoms = last ? left : random.below(left + 1);
    batch.natoms.set(i, static_cast<double>(atoms));
    left -= atoms;
  }
  if (!wrong || batch.structures == 0) return;
  const int64_t any = random.below(batch.structures);
  const double wrongs[] = {-1, -2147483648.0, 2147483647.0,
                           batch.natoms.get(any) + 1};
  batch.natoms.set(any, wrongs[random.below(4)]);
}

void add_atom(const Batch& batch, int64_t atom, al_metrics_sums& sums,
              bool* within) {
  double square = 0, p_square = 0, t_square = 0, dot = 0;
  *within = true;
  for (int64_t j = 3 * atom; j < 3 * atom + 3; ++j) {
    const double p = batch.forces_pred.get(j), t = batch.forces_target.get(j);
    sums.forces_abs += std::fabs(p - t);
    square += (p - t) * (p - t);
    p_square += p * p;
    t_square += t * t;
    dot += p * t;
    *within &= std::fabs(p - t) < kForceThreshold;
    sums.forces_nonfinite += !std::isfinite(p) || !std::isfinite(t);
  }
  const double p_norm = std::sqrt(p_square), t_norm = std::sqrt(t_square);
  sums.atoms += 1;
  sums.forces_square += square;
  sums.forces_norm += std::sqrt(square);
  sums.forces_cosine +=
      dot / (std::fmax(p_norm, 1e-8) * std::fmax(t_norm, 1e-8));
  sums.forces_magnitude += std::fabs(p_norm - t_norm);
}

void add_structure(const Batch& batch, int64_t i, bool judged, bool missed,
                   al_metrics_sums& sums) {
  sums.structures += 1;
  sums.forces_judged += judged;
  sums.forces_within += judged && !missed;
  if (batch.masked && batch.structure_mask.get(i) == 0) return;
  const auto is_missing = [&](double target) {
    return batch.ignore_nan && std::isnan(target);
  };
  for (int64_t j = 6 * i; batch.stresses && j < 6 * i + 6; ++j) {
    const double p = batch.stress_pred.get(j), t = batch.stress_target.get(j);
    if (is_missing(t)) continue;
    sums.stresses += 1;
    sums.stress_abs += std::fabs(p - t);
    sums.stress_square += (p - t) * (p - t);
    sums.stress_nonfinite += !std::isfinite(p) || !std::isfinite(t);
  }
  const double p = batch.energy_pred.get(i), t = batch.energy_target.get(i);
  if (!batch.energies || is_missing(t)) return;
  const double error = std::fabs(p - t), atoms = batch.natoms.get(i);
  sums.energies += 1;
  sums.energy_abs += error;
  sums.energy_square += error * error;
  sums.energy_within += error < kEnergyThreshold;
  sums.energy_nonfinite += !std::isfinite(p) || !std::isfinite(t);
  if (atoms > 0) {
    sums.energy_per_atom_abs += error / atoms;
    sums.energies_per_atom += 1;
  }
  sums.both_judged += judged;
  sums.both_within += judged && !missed && error < kEnergyThreshold;
}

/** Whether an atom's forces are compared. */
bool counts(const Batch& batch, int64_t atom) {
  if (batch.masked && batch.mask.get(atom) == 0) return false;
  for (int64_t j = 3 * atom; batch.ignore_nan && j < 3 * atom + 3; ++j)
    if (std::isnan(batch.forces_target.get(j))) return false;
  return true;
}

void expect(const Batch& batch, al_metrics_sums& sums) {
  if (batch.forces) {
    std::vector<bool> within(static_cast<size_t>(batch.atoms));
    for (int64_t atom = 0; atom < batch.atoms; ++atom) {
      if (!counts(batch, atom)) continue;
      bool it = false;
      add_atom(batch, atom, sums, &it);
      within[static_cast<size_t>(atom)] = it;
    }
    int64_t atom = 0;
    for (int64_t i = 0; i < batch.structures; ++i) {
      bool judged = false, missed = false;
      const auto end = atom + static_cast<int64_t>(batch.natoms.get(i));
      for (; atom < end; ++atom) {
        if (!counts(batch, atom)) continue;
        judged = true;
        missed |= !within[static_cast<size_t>(atom)];
      }
      add_structure(batch, i, judged, missed, sums);
    }
  } else {
    for (int64_t i = 0; i < batch.structures; ++i)
      add_structure(batch, i, false, false, sums);
  }
}

al_status add(al_device* device, const Batch& batch, al_metrics_sums* sums) {
  const auto compared = [&](const Array& pred, const Array& target,
                            const Array& mask, int64_t rows, int32_t cols) {
    return al_compared{pred.data(),
                       target.data(),
                       batch.masked ? mask.data() : nullptr,
                       rows,
                       cols,
                       pred.dtype(),
                       batch.ignore_nan ? 1 : 0,
                       0};
  };
  const al_compared energy =
      compared(batch.energy_pred, batch.energy_target, batch.structure_mask,
               batch.structures, 1);
  const al_compared forces = compared(batch.forces_pred, batch.forces_target,
                                      batch.mask, batch.atoms, 3);
  const al_compared stress =
      compared(batch.stress_pred, batch.stress_target, batch.structure_mask,
               batch.structures, 6);
  return al_metrics_add(
      device, batch.structures, batch.natoms.data(), batch.natoms.dtype(),
      batch.energies ? &energy : nullptr, batch.forces ? &forces : nullptr,
      batch.stresses ? &stress : nullptr, kEnergyThreshold, kForceThreshold,
      sums);
}

Batch random_batch(Random& random, int64_t structures, int64_t atoms) {
  const int32_t energies = kFloatDtypes[random.below(4)];
  const int32_t forces = kFloatDtypes[random.below(4)];
  const int32_t stresses = kFloatDtypes[random.below(4)];
  const bool shifted = random.one_in(2);
  Batch batch = {
      structures,
      atoms,
      Array(random.one_in(2) ? AL_INT32 : AL_INT64, structures, shifted),
      Array(energies, structures, shifted),
      Array(energies, structures, !shifted),
      Array(forces, 3 * atoms, shifted),
      Array(forces, 3 * atoms, !shifted),
      Array(stresses, 6 * structures, shifted),
      Array(stresses, 6 * structures, !shifted),
      Array(AL_BOOL, atoms),
      Array(AL_BOOL, structures),
      !random.one_in(3),
      !random.one_in(5),
      random.one_in(2),
      random.one_in(2),
      random.one_in(2)};
  for (Array* array :
       {&batch.energy_pred, &batch.energy_target, &batch.forces_pred,
        &batch.forces_target, &batch.stress_pred, &batch.stress_target})
    array->fill_uniform(random);
  if (batch.ignore_nan) {
    for (int64_t i = 0; i < structures; i += 3) batch.energy_target.set(i, NAN);
    for (int64_t i = 0; i < atoms; i += 5)
      batch.forces_target.set(3 * i + i % 3, NAN);
    for (int64_t i = 0; i < structures; i += 2)
      batch.stress_target.set(6 * i + i % 6, NAN);
  }
  for (int64_t i = 0; i < structures; ++i)
    batch.structure_mask.set(i, static_cast<double>(random.below(2)));
  for (int64_t i = 0; i < atoms; ++i)
    batch.mask.set(i, static_cast<double>(random.below(2)));
  return batch;
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks): the batch owns it
}

/** The fields of the sums, one by one. */
constexpr int kFields = sizeof(al_metrics_sums) / sizeof(double);
double field(const al_metrics_sums& sums, int i) {
  double value;
  memcpy(&value, reinterpret_cast<const char*>(&sums) + 8 * i, sizeof value);
  return value;
}

void test_batches(al_device* device) {
  Random random(12);
  al_metrics_sums sums = {}, expected = {};
  constexpr int64_t kAtoms[] = {0, 1, 127, 128, 129, 4095, 4096, 4097, 30000};
  for (int round = 0; round < 80; ++round) {
    const int64_t atoms = kAtoms[random.below(9)];
    const int64_t structures = atoms ? 1 + random.below(40) : random.below(3);
    Batch batch = random_batch(random, structures, atoms);
    describe_atoms(batch, false, random);
    succeeds(add(device, batch, &sums), "al_metrics_add");
    expect(batch, expected);
  }
  for (int i = 0; i < kFields; ++i)
    check(close(field(sums, i), field(expected, i), 1e-10),
          "field %d of the metrics is %.17g, expected %.17g", i, field(sums, i),
          field(expected, i));
  check(sums.bad_natoms == 0, "natoms add up, and are called wrong");
}

/** Wrong natoms: counted, and nothing read that is not there. */
void test_wrong_natoms(al_device* device) {
  Random random(13);
  for (int round = 0; round < 80; ++round) {
    Batch batch =
        random_batch(random, 1 + random.below(20), random.below(5000));
    batch.forces = true;
    describe_atoms(batch, true, random);
    al_metrics_sums sums = {};
    succeeds(add(device, batch, &sums), "al_metrics_add");
    check(sums.bad_natoms == 1, "wrong natoms are counted %g times",
          sums.bad_natoms);
  }
  Batch none = random_batch(random, 0, 5);
  none.forces = true;
  al_metrics_sums sums = {};
  succeeds(add(device, none, &sums), "atoms of no structure");
  check(sums.bad_natoms == 1, "atoms of no structure are not counted");
}

void test_nan(al_device* device) {
  Random random(14);
  Batch batch = random_batch(random, 1, 2);
  batch.energies = batch.forces = true;
  batch.masked = batch.ignore_nan = false;
  batch.natoms.set(0, 2);
  batch.energy_pred.set(0, NAN);
  batch.forces_pred.set(5, INFINITY);
  al_metrics_sums sums = {};
  succeeds(add(device, batch, &sums), "al_metrics_add");
  check(std::isnan(sums.energy_abs) && sums.energy_nonfinite == 1 &&
            sums.forces_nonfinite == 1 && sums.energy_within == 0 &&
            sums.forces_within == 0 && sums.forces_judged == 1,
        "metrics of NaN");
}

void test_refusals(al_device* device) {
  const double x[3] = {};
  al_metrics_sums sums = {};
  const auto metrics = [&](int64_t structures, int64_t atoms, int32_t natoms,
                           int32_t energy, int32_t forces, int32_t cols = 6) {
    const auto compared = [&](int64_t rows, int32_t of, int32_t dtype) {
      return al_compared{x, x, nullptr, rows, of, dtype, 0, 0};
    };
    const al_compared energies = compared(structures, 1, energy);
    const al_compared all_forces = compared(atoms, 3, forces);
    const al_compared stresses = compared(structures, cols, energy);
    return al_metrics_add(device, structures, x, natoms, &energies, &all_forces,
                          &stresses, 1, 1, &sums);
  };
  fails(metrics(-1, 0, AL_INT32, AL_FLOAT32, AL_FLOAT32), AL_INVALID_ARGUMENT,
        "-1 structures", "-1 structures");
  fails(metrics(0, -1, AL_INT32, AL_FLOAT32, AL_FLOAT32), AL_INVALID_ARGUMENT,
        "-1 atoms", "-1 atoms");
  fails(metrics(1, 1, AL_FLOAT32, AL_FLOAT32, AL_FLOAT32), AL_INVALID_ARGUMENT,
        "int32 or int64", "natoms of floats");
  fails(metrics(1, 1, AL_INT32, AL_INT32, AL_FLOAT32), AL_INVALID_ARGUMENT,
        "dtype 4", "energies of integers");
  fails(metrics(1, 1, AL_INT32, AL_FLOAT32, AL_BOOL), AL_INVALID_ARGUMENT,
        "dtype 6", "forces of bools");
  fails(metrics(1, 1, AL_INT32, AL_FLOAT32, AL_FLOAT32, 5), AL_INVALID_ARGUMENT,
        "columns", "stresses of five components");
  check(sums.structures == 0 && sums.atoms == 0, "a refused call adds");
}

}  // namespace

void test_metrics() {
  Device device;
  test_batches(device);
  test_wrong_natoms(device);
  test_nan(device);
  test_refusals(device);
}

}  // namespace native
