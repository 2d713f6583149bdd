/** Libraries that are loaded: their thread-local variables, and their names. */
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>

#include "kernel.h"
#include "report.h"

namespace cuda_platform {
namespace {

template <class Visit>
void for_modules(Visit visit) {
  dl_iterate_phdr(
      [](dl_phdr_info* module, size_t, void* data) {
        (*static_cast<Visit*>(data))(*module);
        return 0;
      },
      &visit);
}

}  // namespace

void SharedMemory::look_for_ranges() {
  for_modules([&](const dl_phdr_info& module) {
    if (module.dlpi_tls_data == nullptr) return;
    const auto* const begin = static_cast<const char*>(module.dlpi_tls_data);
    for (const Range& known : ranges_)
      if (known.begin == begin) return;
    for (int i = 0; i < module.dlpi_phnum; ++i) {
      const ElfW(Phdr)& segment = module.dlpi_phdr[i];
      if (segment.p_type != PT_TLS || segment.p_memsz == 0) continue;
      const size_t granules = segment.p_memsz / 8 + 2;
      void* const memory =
          mmap(nullptr, granules * sizeof(Granule), PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      ranges_.push_back(
          {begin, segment.p_memsz, static_cast<Granule*>(memory)});
    }
  });
}

const SharedMemory::Range* SharedMemory::find(const void* memory) {
  for (const Range& range : ranges_)
    if (static_cast<const char*>(memory) - range.begin <
            static_cast<std::ptrdiff_t>(range.bytes) &&
        memory >= range.begin)
      return &range;
  return nullptr;
}

bool SharedMemory::touch(const void* memory, size_t bytes, const Access& now,
                         uint64_t serial, const void* pc) {
  const Range* range = find(memory);
  if (range == nullptr) {
    // A library's are there for this thread once it has used them.
    if (is_of_module(memory)) return false;
    look_for_ranges();
    range = find(memory);
    if (range == nullptr) return false;
  }
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const auto base = reinterpret_cast<uintptr_t>(range->begin) / 8;
  const auto* const at = static_cast<const char*>(memory);
  for (size_t i = address / 8; i * 8 < address + bytes; ++i) {
    Granule& granule = range->granules[i - base];
    if (granule.serial != serial) granule = {serial, {}, 0};
    const size_t low = std::max(address, i * 8) - i * 8;
    const size_t high = std::min(address + bytes, i * 8 + 8) - i * 8;
    const auto bits =
        static_cast<uint8_t>((0xff << low) & (0xff >> (8 - high)));
    if (now.kind != kWrite && (granule.written & bits) != bits)
      report_unwritten(at, now, pc, "shared memory");
    granule.written |= bits;
    const Slot race = remember(&granule.history, now, bits);
    if (race.operation != 0) report_race(at, race, now, pc, "shared memory");
  }
  return true;
}

bool is_of_module(const void* memory) {
  bool found = false;
  const auto address = reinterpret_cast<uintptr_t>(memory);
  for_modules([&](const dl_phdr_info& module) {
    for (int i = 0; i < module.dlpi_phnum; ++i) {
      const ElfW(Phdr)& segment = module.dlpi_phdr[i];
      const uintptr_t begin = module.dlpi_addr + segment.p_vaddr;
      if (segment.p_type == PT_LOAD && address >= begin &&
          address < begin + segment.p_memsz)
        found = true;
    }
  });
  return found;
}

const char* name_of(const void* function) {
  static std::mutex mutex;
  static auto* const names = new std::map<const void*, const char*>;
  std::lock_guard<std::mutex> lock(mutex);
  const char*& name = (*names)[function];
  if (name == nullptr) name = intern(function_at(function));
  return name;
}

}  // namespace cuda_platform
