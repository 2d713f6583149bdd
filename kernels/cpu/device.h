/** The CPU as a device. */
#ifndef ATOMLOSS_CPU_DEVICE_H
#define ATOMLOSS_CPU_DEVICE_H

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "shared/block_cache.h"
#include "shared/collective_log.h"
#include "shared/recording.h"

struct al_device {
  /** More than this many freed bytes go back to the system. */
  static constexpr int64_t kCacheLimit = int64_t{2} << 30;

  /** Shared with exported tensors, which may outlive the device. */
  const std::shared_ptr<atomloss::BlockCache> blocks =
      std::make_shared<atomloss::BlockCache>(kCacheLimit);
  /** Shared with its groups, which may as well. */
  const std::shared_ptr<atomloss::CollectiveLog> collectives =
      std::make_shared<atomloss::CollectiveLog>();
  al_recording* recording = nullptr; /* that is under way */

  void release_kept() {
    for (void* block : blocks->drain()) free(block);
  }
};

#endif /* ATOMLOSS_CPU_DEVICE_H */
