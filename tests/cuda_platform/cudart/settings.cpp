/**
 * What a test sets: numbers by name, calls that are to fail, the seed. From
 * variables of the environment CUDA_PLATFORM_…, for a process that a test
 * starts, and by functions, for the test's own (control.ts).
 */
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "platform.h"
#include "report.h"

namespace cuda_platform {
namespace {

/** A call that is to fail. */
struct Failure {
  std::string call;
  int64_t left; /* calls until then */
  int code;
};

struct State {
  std::mutex mutex;
  std::map<std::string, int64_t, std::less<>> numbers; /* those that are set */
  std::vector<Failure> failures;
  std::map<std::string, int64_t> calls;
  std::atomic<uint64_t> threads{0};

  State() {
    const std::string prefix = "CUDA_PLATFORM_";
    for (char** variable = environ; *variable; ++variable) {
      const std::string text = *variable;
      const size_t equals = text.find('=');
      if (text.compare(0, prefix.size(), prefix) != 0) continue;
      const std::string name =
          text.substr(prefix.size(), equals - prefix.size());
      const std::string value = text.substr(equals + 1);
      if (name == "FAIL")
        add_failures(value);
      else
        numbers[name] = atoll(value.c_str());
    }
  }

  /** "cudaMalloc:3:2,ncclAllReduce:1:6@1": call, which one, code, rank. */
  void add_failures(const std::string& text) {
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find(',', at), text.size());
      char call[128];
      long long which = 0;
      int code = 0, rank = -1;
      const std::string one = text.substr(at, end - at);
      if (sscanf(one.c_str(), "%127[^:]:%lld:%d@%d", call, &which, &code,
                 &rank) < 3) {
        fprintf(stderr, "stand-in: no failure to make of '%s'\n", one.c_str());
        abort();
      }
      const char* const mine = getenv("RANK");
      if (rank < 0 || rank == atoi(mine ? mine : "0"))
        failures.push_back({call, which, code});
      at = end + 1;
    }
  }
};

State& state() {
  static State* const all = new State;
  return *all;
}

/** splitmix64. */
uint64_t next_random(uint64_t* seed) {
  uint64_t z = *seed += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

}  // namespace

int begin_call(const char* name) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  ++all.calls[name];
  for (auto failure = all.failures.begin(); failure != all.failures.end();
       ++failure) {
    if (failure->call != name || --failure->left > 0) continue;
    const int code = failure->code;
    all.failures.erase(failure);
    return code;
  }
  return 0;
}

int64_t setting(const char* name, int64_t otherwise) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.numbers.find(name);
  return found == all.numbers.end() ? otherwise : found->second;
}

uint64_t random_below(uint64_t limit) {
  static thread_local uint64_t seed =
      static_cast<uint64_t>(setting("SEED", 1)) << 32 ^ ++state().threads;
  return next_random(&seed) % limit;
}

void delay() {
  constexpr uint64_t kOneIn = 16, kMostMicroseconds = 400;
  if (random_below(kOneIn) != 0 || setting("DELAYS", 1) == 0) return;
  std::this_thread::sleep_for(
      std::chrono::microseconds(random_below(kMostMicroseconds)));
}

}  // namespace cuda_platform

/* ---- for control.ts ------------------------------------------------------*/

extern "C" {

/** Returns what it was; INT64_MIN, as that what nobody has set. */
int64_t cuda_platform_set(const char* name, int64_t value) {
  auto& all = cuda_platform::state();
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.numbers.find(name);
  const int64_t before = found == all.numbers.end() ? INT64_MIN : found->second;
  if (value == INT64_MIN)
    all.numbers.erase(name);
  else
    all.numbers[name] = value;
  return before;
}

/** Empty text: nothing is to fail any more. */
void cuda_platform_fail(const char* failures) {
  auto& all = cuda_platform::state();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (*failures == '\0') all.failures.clear();
  all.add_failures(failures);
}

/** {"cudaMalloc": 3}: the calls so far. Returns how many bytes it takes. */
int64_t cuda_platform_calls(char* text, int64_t capacity) {
  auto& all = cuda_platform::state();
  std::lock_guard<std::mutex> lock(all.mutex);
  std::string json = "{";
  for (const auto& [call, count] : all.calls)
    json += (json.size() > 1 ? ", \"" : "\"") + call +
            "\": " + std::to_string(count);
  json += "}";
  strncpy(text, json.c_str(), static_cast<size_t>(capacity));
  return static_cast<int64_t>(json.size()) + 1;
}

int64_t cuda_platform_reports() { return cuda_platform::reports(); }
}
