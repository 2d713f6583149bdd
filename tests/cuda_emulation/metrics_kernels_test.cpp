/**
 * The kernels of evaluation, run on the host one after the other as their
 * launcher does, and compared with a plain loop over structures. Prints what
 * differs; ends with "N checks, N failed".
 */
#include "cuda_emulation.h"
// The emulation first: it takes the place of CUDA's own headers.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cuda/metrics_kernels.cuh"

using namespace atomloss;

namespace {

int checks = 0, failed = 0;

constexpr int kSums = sizeof(al_metrics_sums) / sizeof(double);
constexpr double kEnergyThreshold = 0.5, kForceThreshold = 0.9;

/** One more element than asked for, to see whether it is written to. */
template <class T>
std::vector<T> guarded(int64_t n, T mark) {
  return std::vector<T>(static_cast<size_t>(n + 1), mark);
}

double uniform() {
  return std::uniform_real_distribution<>(-0.5, 0.5)(emulation::random);
}

template <class S>
std::vector<S> random_values(int64_t n, bool nan) {
  std::vector<S> values(static_cast<size_t>(n));
  for (S& value : values)
    value = store<S>(static_cast<compute_t<S>>(
        nan && emulation::random() % 50 == 0 ? NAN : uniform()));
  return values;
}

struct Case {
  int structures;
  int most_atoms; /* of a structure */
  bool energy, forces, mask, nan;
  int wrong; /* 0: natoms is right, otherwise in which way it is not */
  unsigned grid;
};

/** What the kernels should add, structure after structure. */
template <class S, class Mask>
al_metrics_sums expected(const std::vector<int64_t>& natoms,
                         const std::vector<S>& energy_pred,
                         const std::vector<S>& energy_target,
                         const std::vector<S>& pred,
                         const std::vector<S>& target, const Mask& mask,
                         const Case& c) {
  al_metrics_sums sums = {};
  int64_t atom = 0;
  for (size_t i = 0; i < natoms.size(); ++i) {
    Verdict verdict = {false, false};
    AtomSums atoms = {};
    for (int64_t j = 0; c.forces && j < natoms[i]; ++j, ++atom) {
      if (c.mask && !mask[atom]) continue;
      double p[3], t[3];
      for (int k = 0; k < 3; ++k) {
        p[k] = load(pred[3 * atom + k]);
        t[k] = load(target[3 * atom + k]);
      }
      atoms = atoms + atom_terms(p, t);
      verdict.judged = true;
      verdict.missed |= !atom_within(p, t, kForceThreshold);
    }
    add_sums(atoms,
             c.energy
                 ? energy_terms(load(energy_pred[i]), load(energy_target[i]),
                                natoms[i], kEnergyThreshold, verdict)
                 : forces_terms(verdict),
             false, &sums);
  }
  return sums;
}

template <class S>
void check(const Case& c) {
  std::vector<int64_t> natoms;
  int64_t atoms = 0;
  for (int i = 0; i < c.structures; ++i) {
    natoms.push_back(emulation::random() % (c.most_atoms + 1));
    atoms += natoms.back();
  }
  const auto energy_pred = random_values<S>(c.structures, c.nan);
  const auto energy_target = random_values<S>(c.structures, false);
  const auto pred = random_values<S>(3 * atoms, c.nan);
  const auto target = random_values<S>(3 * atoms, false);
  std::vector<uint8_t> mask;
  for (int64_t i = 0; i < atoms; ++i) mask.push_back(emulation::random() % 2);
  const al_metrics_sums before =
      expected(natoms, energy_pred, energy_target, pred, target, mask, c);
  const size_t last = natoms.size() - 1;
  if (c.wrong == 1) natoms[last] += 1;
  if (c.wrong == 2) natoms[0] = -1;
  if (c.wrong == 3) natoms[last / 2] = INT64_MAX;
  if (c.wrong == 4) natoms[0] = natoms[last] = INT64_MAX;
  if (c.wrong == 5) std::fill(natoms.begin(), natoms.end(), 0);
  if (c.wrong == 6) natoms[last] = INT64_MIN;

  auto offsets = guarded<int64_t>(c.structures + 1, -7);
  auto marks = guarded<unsigned>(c.structures, 0x5a);
  auto partials = guarded<AtomSums>(c.grid, AtomSums{-7, 0, 0, 0, 0, 0, 0});
  al_metrics_sums sums = {};
  const Natoms counts = {natoms.data(), true};
  Structures all = {c.structures, nullptr, nullptr};
  const uint8_t* const masked = c.mask ? mask.data() : nullptr;
  if (c.forces) {
    all = {c.structures, offsets.data(), marks.data()};
    emulation::launch(1, kMetricsThreads,
                      [&] { metrics_offsets(counts, atoms, c.mask, all); });
    emulation::launch(c.grid, kMetricsThreads, [&] {
      metrics_forces(pred.data(), target.data(), masked, atoms, kForceThreshold,
                     all, partials.data());
    });
  }
  emulation::launch(1, kMetricsThreads, [&] {
    metrics_finish(counts, atoms, all, partials.data(),
                   c.forces ? static_cast<int>(c.grid) : 0,
                   c.energy ? energy_pred.data() : nullptr,
                   c.energy ? energy_target.data() : nullptr, kEnergyThreshold,
                   &sums);
  });

  const bool intact = offsets.back() == -7 && marks.back() == 0x5a &&
                      partials.back().atoms == -7;
  double actual[kSums], wanted[kSums];
  memcpy(actual, &sums, sizeof sums);
  memcpy(wanted, &before, sizeof before);
  int different = -1;
  for (int i = 0; i < kSums - 1 && c.wrong == 0; ++i) {
    const bool both_nan = std::isnan(actual[i]) && std::isnan(wanted[i]);
    const double off = std::fabs(actual[i] - wanted[i]);
    if (!both_nan && !(off <= 1e-11 * std::fabs(wanted[i]))) different = i;
  }
  if (sums.bad_natoms != (c.wrong == 0 ? 0 : 1)) different = kSums - 1;
  ++checks;
  if (intact && different < 0) return;
  ++failed;
  printf(
      "%zu bytes, %d structures of up to %d atoms, energy %d, forces %d, mask "
      "%d, nan %d, natoms wrong %d, %u blocks: %s",
      sizeof(S), c.structures, c.most_atoms, c.energy, c.forces, c.mask, c.nan,
      c.wrong, c.grid, intact ? "" : "guards overwritten ");
  if (different >= 0)
    printf("sum %d is %.17g for %.17g", different, actual[different],
           wanted[different]);
  printf("\n");
}

template <class S>
void check_cases() {
  // Fewer and more structures than threads; empty ones; more atoms than blocks.
  for (const int structures : {0, 1, 2, 255, 256, 257, 600})
    for (const int most_atoms : {0, 1, 5, structures < 10 ? 3000 : 12})
      for (const bool mask : {false, true})
        for (const bool nan : {false, true})
          for (const unsigned grid : {1u, 7u}) {
            const int n = structures;
            check<S>({n, most_atoms, true, true, mask, nan, 0, grid});
            check<S>({n, most_atoms, false, true, mask, nan, 0, grid});
            if (!mask) check<S>({n, most_atoms, true, false, mask, nan, 0, 1});
            if (n == 0 || most_atoms < 3) continue;
            for (const int wrong : {1, 2, 3, 4, 6})
              check<S>({n, most_atoms, true, true, mask, nan, wrong, grid});
            if (n > 10)
              check<S>({n, most_atoms, true, true, mask, nan, 5, grid});
          }
}

}  // namespace

int main() {
  check_cases<float>();
  check_cases<double>();
  check_cases<float16>();
  check_cases<bfloat16>();
  printf("%d checks, %d failed\n", checks, failed);
  return failed != 0;
}
