/**
 * Every function of the ABI of the CPU library, called from C++ and compared
 * with plain loops in double precision; for sanitizers, which see what a test
 * from TypeScript cannot: reads behind an array, leaks, data races. Run by
 * .ci/sanitize; ends with "N checks, N failed".
 */
#include "library_test.h"

#include <csignal>
#include <cstdio>

#include "check.h"

int main() {
  using namespace native;
  // What was said survives an abort.
  static_cast<void>(setvbuf(stdout, nullptr, _IOLBF, 0));
  // As in Deno: Gloo may write to a connection that the other end has closed.
  static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
  test_half();
  test_device();
  test_dlpack();
  test_registration();
  test_losses();
  test_reduce();
  test_samples();
  test_passes();
  test_metrics();
  test_matmul();
  test_optimizers();
  test_threads();
  test_mesh();
  test_collectives();
  test_collectives_that_fail();
  test_recording();
  return report();
}
