#include "report.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>

#include "memory.h"
#include "platform.h"

namespace cuda_platform {
namespace {

/** The status of a process that would have ended well, but for its reports. */
constexpr int kStatus = 86;

/** Reports that are printed; the rest is counted. */
constexpr int kPrinted = 20;

struct State {
  std::mutex mutex;
  int64_t count = 0;
  std::set<std::string> known; /* one of a kind */
};

State& state() {
  static State* const all = new State;
  return *all;
}

std::string format(const char* pattern, ...)
    __attribute__((format(printf, 1, 2)));
std::string format(const char* pattern, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, pattern);
  vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

/** What addr2line says of an address of code. */
std::string look_up(const char* options, const void* pc, int offset) {
  Dl_info module;
  if (pc == nullptr || dladdr(pc, &module) == 0) return "";
  const auto at = static_cast<const char*>(pc) -
                  static_cast<const char*>(module.dli_fbase) - offset;
  const std::string command =
      format("addr2line %s -Cse '%s' 0x%zx 2>/dev/null", options,
             module.dli_fname, static_cast<size_t>(at));
  FILE* const program = popen(command.c_str(), "r");
  if (program == nullptr) return "";
  std::string text;
  char line[1024];
  while (fgets(line, sizeof line, program)) text += line;
  pclose(program);
  return text;
}

const char* verb(Kind kind) {
  return kind == kRead ? "read" : kind == kWrite ? "write" : "atomic";
}

std::string describe(const Operation& operation, Kind kind,
                     const Place& place) {
  std::string text = format("%s by %s", verb(kind), operation.name);
  if (place.block != kNoBlock)
    text += format(", block %u, thread %u", place.block, place.thread);
  if (operation.lane != kHostLane)
    text += format(" (stream %u)", operation.lane);
  return text;
}

/** Where an address is: which block, and how it is named. */
std::string describe(const char* address) {
  if (!is_ours(address)) return format("%p", static_cast<const void*>(address));
  const int range = range_of(address);
  const std::string memory =
      range == kPinned ? "pinned memory" : format("memory of cuda:%d", range);
  Block block;
  if (!nearest_block(address, &block)) return memory;
  const auto at = address - block.address;
  const std::string side =
      static_cast<size_t>(at) < block.bytes
          ? format("byte %td of", at)
          : format("%td bytes behind",
                   at - static_cast<std::ptrdiff_t>(block.bytes));
  return format("%s block %" PRIu64 " (%zu bytes of %s, %s%s%s)", side.c_str(),
                block.number, block.bytes, memory.c_str(), block.allocated_by,
                block.freed_by ? ", freed by " : "",
                block.freed_by ? block.freed_by : "");
}

/** Whether a report is to be printed: there was none like it. */
bool is_new(const std::string& kind) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  ++all.count;
  return all.known.insert(kind).second && all.known.size() <= kPrinted;
}

/** Prints a report unless there was one like it. The details, which take long
 * to find out, are made when they are printed. */
template <class Details>
void print(const std::string& kind, const Details& details) {
  if (!is_new(kind)) return;
  fprintf(stderr, "== stand-in: %s\n%s", kind.c_str(), details().c_str());
  fflush(stderr);
}

std::string argument(const char* what) {
  return what ? format(" as %s", what) : "";
}

/** A process whose work has faults does not end well. */
__attribute__((destructor)) void fail_at_exit() {
  const int64_t count = reports();
  if (count == 0) return;
  fprintf(stderr, "== stand-in: %" PRId64 " reports\n", count);
  fflush(stderr);
  _exit(kStatus);
}

}  // namespace

void report_race(const char* address, const Slot& before, const Access& now,
                 const void* pc, const char* what) {
  Operation earlier;
  if (!find_operation(before.operation, &earlier)) return;
  print(format("race: %s by %s, not ordered with the %s by %s", verb(now.kind),
               now.operation.name, verb(before.kind), earlier.name),
        [&] {
          return "   " + describe(address) + argument(what) + "\n   " +
                 describe(now.operation, now.kind, now.place) + "\n" +
                 source_of(pc) + "   after the " +
                 describe(earlier, before.kind, before.place) + "\n";
        });
}

void report_dead(const char* address, size_t bytes, const Access& now,
                 const void* pc, const char* what) {
  Block block;
  const bool inside =
      nearest_block(address, &block) && address < block.address + block.bytes;
  print(format("%s: %s by %s", inside ? "use after free" : "out of bounds",
               verb(now.kind), now.operation.name),
        [&] {
          return format("   %zu bytes at ", bytes) + describe(address) +
                 argument(what) + "\n   " +
                 describe(now.operation, now.kind, now.place) + "\n" +
                 source_of(pc);
        });
}

void report_unwritten(const char* address, const Access& now, const void* pc,
                      const char* what) {
  report_at("read of what nobody has written by " +
                std::string(now.operation.name) + argument(what),
            address, now, pc);
}

void report_at(const std::string& fault, const char* address, const Access& now,
               const void* pc) {
  print(fault, [&] {
    return "   " + describe(address) + "\n   " +
           describe(now.operation, now.kind, now.place) + "\n" + source_of(pc);
  });
}

void report(const std::string& fault) {
  print(fault, [] { return std::string(); });
}

std::string source_of(const void* pc) {
  // The instruction before the one to which a call returns.
  const std::string text = look_up("-fip", pc, 1);
  std::string indented;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    indented += "      " + text.substr(at, end - at) + "\n";
    at = end + 1;
  }
  return indented;
}

std::string function_at(const void* function) {
  const std::string text = look_up("-f", function, 0);
  return text.substr(0, text.find('\n'));
}

int64_t reports() {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  return all.count;
}

}  // namespace cuda_platform
