/**
 * The memory of the GPUs and the pinned memory of the host: one range of
 * addresses for each, reserved once, with what the checker knows about every
 * eight bytes beside it. Between blocks there are red zones.
 */
#ifndef CUDA_PLATFORM_MEMORY_H
#define CUDA_PLATFORM_MEMORY_H

#include <cstddef>
#include <cstdint>
#include <string>

#include "access.h"

namespace cuda_platform {

constexpr int kMaxGpus = 8;
constexpr int kPinned = kMaxGpus; /* the range of pinned memory */
constexpr uintptr_t kRangeBytes = uintptr_t{1} << 35;
/** Between programs and libraries: V8 takes random addresses below both. */
constexpr uintptr_t kBase = uintptr_t{3} << 45;

inline bool is_ours(const void* address) {
  return reinterpret_cast<uintptr_t>(address) - kBase <
         kRangeBytes * (kMaxGpus + 1);
}

/** Which GPU's memory, or kPinned. */
inline int range_of(const void* address) {
  return static_cast<int>((reinterpret_cast<uintptr_t>(address) - kBase) /
                          kRangeBytes);
}

/** A block of memory that somebody has asked for. */
struct Block {
  char* address = nullptr;
  size_t bytes = 0;
  const char* allocated_by = nullptr; /* the call */
  const char* freed_by = nullptr;     /* nullptr: in use */
  uint64_t number = 0;
};

/**
 * A block with addresses for it, not to be used until come_alive(); without an
 * address if the range is full. `at`: those of a block that has been retired.
 */
Block reserve_block(int range, size_t bytes, const char* call,
                    char* at = nullptr);

/** Its bytes may be used by what is ordered behind this access. */
void come_alive(const Block& block, const Access& now);

/** The block that begins here is in use no more, as the host sees it. */
void retire(const void* address, const char* call);

/** The same as a stream sees it: told is what is not ordered before it. */
void die(const Block& block, const Access& now);

/** The addresses may be given to another block. */
void give_back_addresses(const Block& block);

/** The block in use that begins here; false if there is none. */
bool find_block(const void* address, Block* found);

/** The block that holds an address or held it, or the one before it. */
bool nearest_block(const void* address, Block* found);

/**
 * Checks an access to bytes of ours and remembers it; faults are reported.
 * False: they are not of a block in use. `pc` and `what` say who, if known.
 */
bool touch(const void* address, size_t bytes, const Access& now, const void* pc,
           const char* what);

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_MEMORY_H */
