/** The CPU as a device: its memory, and calls that are done when they return.
 */
#include "device.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "free_memory.h"
#include "parallel.h"
#include "shared/dlpack.h"
#include "shared/status.h"
#include "stream.h"

/* Debian's OpenBLAS and Gloo have no header that is free of other needs. */
extern "C" char* openblas_get_config(void);

using atomloss::BlockCache;

namespace {

constexpr int64_t kAlignment = 256;

/** Bytes of a huge page, and of the blocks from which on they are asked for. */
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kHugeBlock = 4 * kHugePage;

/** Bytes that one thread copies at a time. */
constexpr int64_t kCopyBlock = 1 << 18;

/**
 * Memory from the system, or NULL. A pass over more memory than the caches hold
 * looks up an address for each page: in huge ones 512 times fewer.
 */
void* new_block(int64_t size) {
  const bool huge = size >= kHugeBlock;
  void* block = nullptr;
  const auto bytes = static_cast<size_t>(size);
  if (posix_memalign(&block, huge ? kHugePage : kAlignment, bytes) != 0)
    return nullptr;
#ifdef MADV_HUGEPAGE
  // A wish: a kernel without huge pages gives small ones.
  if (huge) static_cast<void>(madvise(block, bytes, MADV_HUGEPAGE));
#endif
  return block;
}

}  // namespace

/* ---- library and device --------------------------------------------------*/

int32_t al_abi_version(void) { return AL_ABI_VERSION; }

al_status al_versions(char* text, int64_t capacity) {
  if (capacity <= 0) return AL_OK;
  static_cast<void>(snprintf(
      text, static_cast<size_t>(capacity),
      "{\"compiler\": \"g++ %d.%d.%d\", \"openblas\": \"%s\"}", __GNUC__,
      __GNUC_MINOR__, __GNUC_PATCHLEVEL__, openblas_get_config()));
  return AL_OK;
}

al_status al_device_count(int32_t* count) {
  *count = 1;
  return AL_OK;
}

al_status al_device_open(int32_t ordinal, al_device** device) {
  if (ordinal != 0)
    return al_fail(AL_NO_DEVICE, "there is one CPU device, number 0; not %d",
                   ordinal);
  return al_guard([&] {
    *device = new al_device;
    return AL_OK;
  });
}

al_status al_device_close(al_device* device) {
  for (void* block : device->blocks->close()) free(block);
  delete device;
  return AL_OK;
}

/* A collective that fails is told to its caller. */
al_status al_synchronize(al_device*, double) { return AL_OK; }

al_status al_origin_check(al_device* device, double origin) {
  return al_guard([&] {
    device->collectives->check(origin);
    return AL_OK;
  });
}

al_status al_device_stream(al_device*, void** stream) {
  *stream = nullptr;
  return AL_OK;
}

al_recording*& atomloss::recording_on(al_device* device) {
  return device->recording;
}

atomloss::Lender atomloss::lender(al_device* device) {
  return {
      device->blocks, {kDLCPU, 0}, [](void* block, int32_t) { free(block); }};
}

al_status al_memory_state(al_device* device, int64_t* state) {
  device->blocks->state(state);
  state[3] = atomloss::free_memory();
  return AL_OK;
}

/* ---- memory --------------------------------------------------------------*/

al_status al_release_memory(al_device* device) {
  device->release_kept();
  return AL_OK;
}

al_status al_alloc(al_device* device, int64_t bytes, void** memory) {
  if (bytes < 0)
    return al_fail(AL_INVALID_ARGUMENT, "cannot allocate %lld bytes",
                   static_cast<long long>(bytes));
  return al_guard([&]() -> al_status {
    const int64_t size = BlockCache::size_class(bytes);
    void* block = device->blocks->take(size);
    if (block == nullptr) {
      block = new_block(size);
      if (block == nullptr) {
        device->release_kept();
        block = new_block(size);
      }
      if (block == nullptr)
        return al_fail(AL_OUT_OF_MEMORY,
                       "out of memory: %lld bytes asked, %lld bytes free",
                       static_cast<long long>(bytes),
                       static_cast<long long>(atomloss::free_memory()));
      device->blocks->add(block, size);
    }
    *memory = block;
    return AL_OK;
  });
}

al_status al_free(al_device* device, void* memory) {
  return al_guard([&]() -> al_status {
    std::vector<void*> surplus;
    if (!device->blocks->give(memory, surplus))
      return al_fail(AL_INVALID_ARGUMENT,
                     "%p is not memory of this device, or was freed before",
                     memory);
    for (void* block : surplus) free(block);
    return AL_OK;
  });
}

al_status al_copy(al_device* device, void* destination, const void* source,
                  int64_t bytes) {
  AL_RECORD(device, al_copy, device, destination, source, bytes);
  const bool stream = bytes >= atomloss::kStreamBytes;
  atomloss::for_blocks(
      bytes, kCopyBlock, bytes / 4, [&](int64_t, int64_t begin, int64_t end) {
        char* to = static_cast<char*>(destination) + begin;
        const char* from = static_cast<const char*>(source) + begin;
        if (stream) {
          atomloss::stream_out(to, from, end - begin);
          atomloss::stream_fence();
        } else {
          memcpy(to, from, end - begin);
        }
      });
  return AL_OK;
}

al_status al_upload(al_device* device, void* memory, const void* host,
                    int64_t bytes) {
  AL_RECORD(device, al_upload, device, memory,
            atomloss::copies(static_cast<const char*>(host), bytes), bytes);
  return al_copy(device, memory, host, bytes);
}

al_status al_download(al_device* device, const void* memory, void* host,
                      int64_t bytes, double origin, int64_t* ticket) {
  *ticket = 0;
  const al_status failed = al_origin_check(device, origin);
  if (failed != AL_OK) return failed;
  return al_copy(device, host, memory, bytes);
}

al_status al_download_wait(al_device*, int64_t ticket, void*, int64_t, double) {
  return al_fail(AL_INVALID_ARGUMENT, "no download has the ticket %lld",
                 static_cast<long long>(ticket));
}

al_status al_zero(al_device* device, void* memory, int64_t bytes) {
  AL_RECORD(device, al_zero, device, memory, bytes);
  if (bytes == 0) return AL_OK;  // memset wants memory even so
  memset(memory, 0, static_cast<size_t>(bytes));
  return AL_OK;
}
