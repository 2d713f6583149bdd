#include "shared/status.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

namespace {

constexpr int kCodeBits = 8;
/** Tickets wrap long before they reach the sign bit of the status. */
constexpr int32_t kTickets = 1 << 22;
/** Messages nobody asked for are dropped, oldest first. */
constexpr size_t kKept = 256;

std::mutex mutex;
std::map<int32_t, std::string> messages;
int32_t next_ticket = 1;

}  // namespace

// The compiler checks the arguments against the format.
// NOLINTNEXTLINE(cert-dcl50-cpp)
al_status al_fail(al_status_code code, const char* format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  static_cast<void>(vsnprintf(text, sizeof text, format, arguments));
  va_end(arguments);

  std::lock_guard<std::mutex> lock(mutex);
  const int32_t ticket = next_ticket;
  next_ticket = ticket % kTickets + 1;
  if (messages.size() >= kKept) messages.erase(messages.begin());
  messages[ticket] = text;
  return static_cast<al_status>(code) | ticket << kCodeBits;
}

void al_take_error(al_status status, char* text, int64_t capacity) {
  if (capacity <= 0) return;
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = messages.find(status >> kCodeBits);
  const char* message =
      found == messages.end() ? "no message is kept" : found->second.c_str();
  static_cast<void>(
      snprintf(text, static_cast<size_t>(capacity), "%s", message));
  if (found != messages.end()) messages.erase(found);
}
