/**
 * How much memory this process can have before the system runs out of it, or
 * the limit of its container is reached, at which it is killed.
 */
#ifndef ATOMLOSS_FREE_MEMORY_H
#define ATOMLOSS_FREE_MEMORY_H

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>

namespace atomloss {

/** The number behind a name in a file of such lines; without name, the first
 * word. -1: there is none. */
inline int64_t number_in(const char* path, const std::string& name = "") {
  std::ifstream file(path);
  std::string word;
  if (!name.empty())
    while (file >> word && word != name) {
    }
  int64_t number = -1;
  return file >> number ? number : -1;
}

/** What can be had without writing anything to disk: page cache counts. */
inline int64_t free_memory() {
  const int64_t kilobytes = number_in("/proc/meminfo", "MemAvailable:");
  int64_t bytes = kilobytes >= 0
                      ? kilobytes * 1024
                      : static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) *
                            sysconf(_SC_PAGESIZE);
  // A container's own limit; "max" is no number.
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max");
  const int64_t used = number_in("/sys/fs/cgroup/memory.current");
  if (limit < 0 || used < 0) return bytes;
  const int64_t cached =
      number_in("/sys/fs/cgroup/memory.stat", "inactive_file");
  const int64_t left = limit - used + std::max<int64_t>(cached, 0);
  return std::clamp<int64_t>(left, 0, bytes);
}

}  // namespace atomloss

#endif /* ATOMLOSS_FREE_MEMORY_H */
