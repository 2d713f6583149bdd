/**
 * A GPU as this library holds it: two streams, memory that is kept for reuse,
 * pinned staging for what crosses to the host, scratch for the reductions.
 */
#ifndef ATOMLOSS_CUDA_DEVICE_CUH
#define ATOMLOSS_CUDA_DEVICE_CUH

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block_cache.h"
#include "check.cuh"
#include "current_device.cuh"
#include "scratch.cuh"

namespace atomloss {

/** A pinned host block and the event behind its last copy. */
struct Staging {
  void* memory = nullptr;
  int64_t bytes = 0;
  cudaEvent_t done = nullptr;
};

/** Blocks of a reduction are at most so many per multiprocessor. */
constexpr int kBlocksPerProcessor = 64;

}  // namespace atomloss

struct al_device {
  int ordinal;
  int processors;        /* streaming multiprocessors */
  int64_t total_bytes;   /* of its memory */
  cudaStream_t compute;  /* losses, copies, products, steps, in call order */
  cudaStream_t transfer; /* collectives */
  /* Shared with exported tensors, which may outlive the device. */
  std::shared_ptr<atomloss::BlockCache> blocks =
      std::make_shared<atomloss::BlockCache>(INT64_MAX);
  atomloss::Scratch scratch; /* of the reduction that is running */

  std::mutex mutex; /* guards what follows, up to the next */
  cublasHandle_t blas = nullptr;
  std::vector<atomloss::Staging> idle;   /* any size */
  std::deque<atomloss::Staging> uploads; /* in flight, oldest first */
  std::map<int64_t, atomloss::Staging> downloads;
  int64_t next_download = 1;

  /* Of its own, and held for no wait: the watchdog of a group needs it while an
     upload waits, with the other held, for a collective that hangs. */
  std::mutex failure_mutex;
  std::string failure; /* why results cannot be trusted any more */
  al_status_code failure_code = AL_OK;

  /** The most blocks that a reduction over so many tiles is given. */
  int grid(int64_t tiles) const {
    const int64_t most = int64_t{processors} * atomloss::kBlocksPerProcessor;
    return static_cast<int>(tiles < 1 ? 1 : tiles < most ? tiles : most);
  }

  /** A failed collective: what was computed from it is not to be read. */
  void fail(al_status_code code, const std::string& why) {
    std::lock_guard<std::mutex> lock(failure_mutex);
    if (failure_code != AL_OK) return;
    failure_code = code;
    failure = why;
  }

  /** Throws if a collective failed. */
  void check_failure() {
    std::lock_guard<std::mutex> lock(failure_mutex);
    if (failure_code != AL_OK)
      throw al_error(al_fail(failure_code, "%s", failure.c_str()));
  }
};

namespace atomloss {

/** Throws if there is no such GPU, or this library has no code for it. */
void require_gpu(int32_t ordinal);

/** Device memory until the end of a scope, for what the stream runs now. */
class ScopedBlock {
 public:
  ScopedBlock(al_device* device, int64_t bytes) : device_(device) {
    if (al_status bad = al_alloc(device, bytes, &memory_)) throw al_error(bad);
  }
  ~ScopedBlock() { al_free(device_, memory_); }
  ScopedBlock(const ScopedBlock&) = delete;
  ScopedBlock& operator=(const ScopedBlock&) = delete;
  void* memory() const { return memory_; }

 private:
  al_device* device_;
  void* memory_ = nullptr;
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_DEVICE_CUH */
