#include "access.h"

namespace cuda_platform {
namespace {

bool conflict(const Slot& before, const Access& now, uint8_t bytes) {
  if (before.operation == 0 || (before.bytes & bytes) == 0) return false;
  if (before.kind == kRead && now.kind == kRead) return false;
  if (before.kind == kAtomic && now.kind == kAtomic) return false;
  return !is_ordered(before, now);
}

uint32_t lane_of(const Slot& slot) {
  Operation operation;
  return find_operation(slot.operation, &operation) ? operation.lane
                                                    : UINT32_MAX;
}

/** The one to forget for a new read: of each lane the last is kept. */
Slot& slot_for_read(History* history, const Access& now) {
  for (Slot& slot : history->reads)
    if (slot.operation == 0 || lane_of(slot) == now.operation.lane) return slot;
  return history->reads[now.operation.id % 2];
}

}  // namespace

bool is_ordered(const Slot& before, const Access& now) {
  if (before.operation == now.operation.id)
    return is_ordered_in_launch(before.place, now.place);
  Operation operation;
  if (!find_operation(before.operation, &operation)) return true;
  return operation.lane == now.operation.lane ||
         (*now.known)[operation.lane] >= operation.clock;
}

Slot remember(History* history, const Access& now, uint8_t bytes) {
  Slot race;
  if (conflict(history->write, now, bytes)) race = history->write;
  if (now.kind != kRead)
    for (const Slot& read : history->reads)
      if (conflict(read, now, bytes)) race = read;

  const Slot slot = {now.operation.id, bytes, now.kind, now.place};
  if (now.kind == kRead) {
    slot_for_read(history, now) = slot;
  } else {
    history->write = slot;
    for (Slot& read : history->reads)
      if ((read.bytes & ~bytes) == 0) read = {};
  }
  return race;
}

}  // namespace cuda_platform
