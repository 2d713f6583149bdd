/**
 * A GPU as this library holds it: two streams, memory that is kept for reuse,
 * pinned staging for what crosses to the host, scratch for the reductions.
 */
#ifndef ATOMLOSS_CUDA_DEVICE_CUH
#define ATOMLOSS_CUDA_DEVICE_CUH

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "check.cuh"
#include "current_device.cuh"
#include "downloads.cuh"
#include "memory_pool.cuh"
#include "owners.cuh"
#include "scoped_block.cuh"
#include "scratch.cuh"
#include "shared/block_cache.h"
#include "shared/collective_log.h"
#include "shared/recording.h"
#include "uploads.cuh"

namespace atomloss {

/** Blocks of a reduction are at most so many per multiprocessor. */
constexpr int kBlocksPerProcessor = 64;

}  // namespace atomloss

struct al_device {
  /** The GPU is to be the thread's. */
  explicit al_device(int ordinal);
  ~al_device();

  const int ordinal;
  const int processors; /* streaming multiprocessors */
  const std::shared_ptr<atomloss::MemoryPool> pool;
  const atomloss::Stream compute; /* losses, copies, products, steps, in call
                                     order */
  std::atomic<int> holders{1};    /* whoever opened it, and its groups */

  /* Shared with exported tensors, which may outlive the device. */
  const std::shared_ptr<atomloss::BlockCache> blocks =
      std::make_shared<atomloss::BlockCache>(INT64_MAX);
  atomloss::Uploads uploads{compute};
  atomloss::Downloads downloads{this, compute};

  const atomloss::DeviceMemory<double> partials;
  const atomloss::DeviceMemory<al_loss_result> values;
  const atomloss::DeviceMemory<unsigned> tickets;
  const atomloss::DeviceMemory<unsigned long long> told;
  const atomloss::Scratch scratch; /* of the reduction that is running */

  al_recording* recording = nullptr; /* that is under way */

  std::mutex blas_mutex; /* guards what follows, up to the next */
  atomloss::Blas blas;   /* made at the first product */

  atomloss::CollectiveLog collectives; /* of all its groups */

  /** The most blocks that a reduction over so many tiles is given. */
  int grid(int64_t tiles) const {
    const int64_t most = int64_t{processors} * atomloss::kBlocksPerProcessor;
    return static_cast<int>(tiles < 1 ? 1 : tiles < most ? tiles : most);
  }
};

namespace atomloss {

/** Throws if there is no such GPU, or this library has no code for it. */
void require_gpu(int32_t ordinal);

/** Gives up a hold on a device; with the last one it ends, when its work has.
 */
void release(al_device* device);

/** A device that stays until the end of a scope, also when it is closed. */
class HeldDevice {
 public:
  explicit HeldDevice(al_device* device) : device_(device) {
    ++device->holders;
  }
  ~HeldDevice() { release(device_); }
  HeldDevice(const HeldDevice&) = delete;
  HeldDevice& operator=(const HeldDevice&) = delete;
  al_device* get() const { return device_; }
  al_device* operator->() const { return device_; }

 private:
  al_device* device_;
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_DEVICE_CUH */
