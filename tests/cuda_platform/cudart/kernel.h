/** What the hooks of compiled code ask of the kernel that is running. */
#ifndef CUDA_PLATFORM_KERNEL_H
#define CUDA_PLATFORM_KERNEL_H

#include <vector>

#include "access.h"

namespace cuda_platform {

struct RunningBlock;

/** The block of a kernel that this thread runs; asked at every access. */
extern __thread RunningBlock* running_block
    __attribute__((tls_model("initial-exec")));

/** " in block 3, thread 17 of the kernel fill". */
std::string describe(const RunningBlock& block);

/**
 * An access by it, to an address of at least this alignment; does not return if
 * it ends the kernel.
 */
void access_in_kernel(const void* memory, size_t bytes, Kind kind,
                      size_t alignment, const void* pc);

/**
 * The shared memory of the block that a thread of the host runs: its
 * thread-local variables in the libraries that have kernels.
 */
class SharedMemory {
 public:
  /** As touch() of memory.h; false: it is not shared memory. */
  bool touch(const void* memory, size_t bytes, const Access& now,
             uint64_t serial, const void* pc);

 private:
  /** What is known of eight bytes. */
  struct Granule {
    uint64_t serial; /* of the block that wrote it */
    History history;
    uint8_t written;
  };
  /** Thread-local variables of a library. */
  struct Range {
    const char* begin;
    size_t bytes;
    Granule* granules;
  };
  const Range* find(const void* memory);
  void look_for_ranges();

  std::vector<Range> ranges_;
};

/** Whether it is of a library: a constant, a variable, code. */
bool is_of_module(const void* memory);

/** The name of a function that the debug information has. */
const char* name_of(const void* function);

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_KERNEL_H */
