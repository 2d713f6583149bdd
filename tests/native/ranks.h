/** Threads of this process as the replicas of a group. */
#ifndef NATIVE_RANKS_H
#define NATIVE_RANKS_H

#include <functional>

#include "on_device.h"

namespace native {

struct RankOptions {
  int64_t timeout_ms = 20000;
  bool debug = false;
};

/** A replica of a group, as its thread sees it. */
struct Rank {
  int32_t rank;
  al_device* device;
  al_group* group;

  /** Closes the group early: from then on this replica is gone. */
  void leave();
};

/** The ranks of every group. */
constexpr int32_t kRanks = 3;

/** Connects the ranks of a group, and runs f on each. */
void with_ranks(const RankOptions& options,
                const std::function<void(Rank&)>& f);

}  // namespace native

#endif /* NATIVE_RANKS_H */
