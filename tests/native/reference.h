/** The losses once more, in double precision and one element at a time. */
#ifndef NATIVE_REFERENCE_H
#define NATIVE_REFERENCE_H

#include <cmath>

#include "check.h"

namespace native {

struct Reference {
  const char* name;
  bool per_row, uses_natoms;
  /* Per row: of s, the sum of the squares, and the slope. */
  double (*value)(double p, double t, double n);
  double (*grad)(double p, double t, double n);
  /* Its gradient is clipped, and not defined where the error is NaN. */
  bool clips = false;
};

inline double sign_of(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

inline constexpr Reference kLosses[] = {
    {"mae", false, false,
     [](double p, double t, double) { return std::fabs(p - t); },
     [](double p, double t, double) { return sign_of(p - t); }},
    {"mse", false, false,
     [](double p, double t, double) { return (p - t) * (p - t); },
     [](double p, double t, double) { return 2 * (p - t); }},
    {"per_atom_mae", false, true,
     [](double p, double t, double n) { return std::fabs(p - t) / n; },
     [](double p, double t, double n) { return sign_of(p - t) / n; }},
    {"l2norm", true, false,
     [](double s, double, double) { return std::sqrt(s); },
     [](double s, double, double) { return s == 0 ? 0 : 1 / std::sqrt(s); }},
    {"huber", false, false,
     [](double p, double t, double) {
       const double d = std::fabs(p - t);
       return d < 1 ? d * d / 2 : d - 0.5;
     },
     [](double p, double t, double) {
       return std::fabs(p - t) < 1 ? p - t : sign_of(p - t);
     },
     true},
    {"smooth_l1", false, false,
     [](double p, double t, double) {
       const double d = std::fabs(p - t);
       return d < 1 ? d * d / 2 : d - 0.5;
     },
     [](double p, double t, double) {
       return std::fabs(p - t) < 1 ? p - t : sign_of(p - t);
     },
     true},
    {"log_cosh", false, false,
     [](double p, double t, double) {
       const double d = std::fabs(p - t);
       return d + std::log1p(std::exp(-2 * d)) - std::log(2.0);
     },
     [](double p, double t, double) { return std::tanh(p - t); }},
};

/** The number of a loss. */
inline int32_t number_of(const Reference& loss) {
  int32_t number = -1, kind = -1;
  succeeds(al_loss_find(loss.name, &number, &kind), loss.name);
  check(kind == (loss.per_row ? AL_PER_ROW : AL_PER_ELEMENT),
        "%s is of kind %d", loss.name, kind);
  return number;
}

}  // namespace native

#endif /* NATIVE_REFERENCE_H */
