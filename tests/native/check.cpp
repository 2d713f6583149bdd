#include "check.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace native {
namespace {

/** Failures that are printed; of the rest, only the number. */
constexpr int kPrinted = 50;

std::atomic<int> checks{0}, failed{0};

}  // namespace

// The compiler checks the arguments against the format.
// NOLINTNEXTLINE(cert-dcl50-cpp)
bool check(bool holds, const char* format, ...) {
  ++checks;
  if (holds || ++failed > kPrinted) return holds;
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  static_cast<void>(vsnprintf(text, sizeof text, format, arguments));
  va_end(arguments);
  printf("FAILED: %s\n", text);
  return false;
}

std::string message(al_status status) {
  char text[2048] = "";
  al_take_error(status, text, sizeof text);
  return text;
}

bool succeeds(al_status status, const char* what) {
  if (status == AL_OK) return check(true, "%s", what);
  return check(false, "%s: status %d, %s", what, status & 0xff,
               message(status).c_str());
}

bool fails(al_status status, al_status_code code, const char* part,
           const char* what) {
  const std::string said = message(status);
  return check((status & 0xff) == code && said.find(part) != std::string::npos,
               "%s: expected status %d, '%s'; got %d, '%s'", what, code, part,
               status & 0xff, said.c_str());
}

int report() {
  printf("%d checks, %d failed\n", checks.load(), failed.load());
  return failed == 0 ? 0 : 1;
}

}  // namespace native
