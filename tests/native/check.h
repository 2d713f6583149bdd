/** How the native tests check, count and say what failed. */
#ifndef NATIVE_CHECK_H
#define NATIVE_CHECK_H

#include <cstdint>
#include <random>
#include <string>

#include "atomloss.h"

namespace native {

/** Counts a check; prints the message, printf-formatted, if it does not hold.
 */
__attribute__((format(printf, 2, 3))) bool check(bool holds, const char* format,
                                                 ...);

/** Checks that a call succeeds. */
bool succeeds(al_status status, const char* what);

/** Checks that a call fails with this code and a message that holds `part`. */
bool fails(al_status status, al_status_code code, const char* part,
           const char* what);

/** The message of a status, which is forgotten. */
std::string message(al_status status);

/** "N checks, N failed"; the exit status of the program. */
int report();

/** The same numbers in every run, and with every standard library. */
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  /** In [0, n). */
  int64_t below(int64_t n) {
    return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n));
  }
  /** Of n cases, one. */
  bool one_in(int64_t n) { return below(n) == 0; }
  /** In [-1, 1). */
  double uniform() {
    return static_cast<double>(engine_() >> 11) * 0x1p-52 - 1.0;
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace native

#endif /* NATIVE_CHECK_H */
