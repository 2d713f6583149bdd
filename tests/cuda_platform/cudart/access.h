/**
 * An access to memory, and when one of them is ordered behind another: the
 * race detector's question. Between operations vector clocks answer it; within
 * a launch barriers do, and between its blocks fences and atomics.
 */
#ifndef CUDA_PLATFORM_ACCESS_H
#define CUDA_PLATFORM_ACCESS_H

#include <cstdint>

#include "clocks.h"

namespace cuda_platform {

enum Kind : uint8_t { kRead = 1, kWrite = 2, kAtomic = 3 };

/** The block of what is no kernel. */
constexpr uint32_t kNoBlock = UINT32_MAX;

/** Where in a launch: the thread, and how many of each it has passed. */
struct Place {
  uint32_t block = kNoBlock;
  uint16_t thread = 0;
  uint16_t barriers = 0;      /* of the block */
  uint16_t warp_barriers = 0; /* of the warp */
  uint8_t fences = 0;
};

/** An access as it is remembered. No operation: nothing. */
struct Slot {
  uint32_t operation = 0;
  uint8_t bytes = 0; /* which of the eight of a granule */
  Kind kind = kRead;
  Place place;
};

/** The access that is being made now. */
struct Access {
  Operation operation;
  const Clocks* known = nullptr;
  Place place;
  Kind kind = kRead;
};

/** What is remembered of a granule or a page: the last write, two reads. */
struct History {
  Slot write, reads[2];
};

/**
 * Compares an access to these bytes with what is remembered, then remembers it.
 * Returns the one that it races with, or one without an operation.
 */
Slot remember(History* history, const Access& now, uint8_t bytes);

/** Whether the remembered access is ordered before this one. */
bool is_ordered(const Slot& before, const Access& now);

/** The same for two accesses of one launch (kernel.cpp knows its blocks). */
bool is_ordered_in_launch(const Place& before, const Place& now);

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_ACCESS_H */
