/**
 * What crosses from the host, through pinned blocks: the call returns when the
 * bytes are in one, and the GPU fetches them when it comes to it.
 */
#ifndef ATOMLOSS_CUDA_UPLOADS_CUH
#define ATOMLOSS_CUDA_UPLOADS_CUH

#include <deque>
#include <mutex>

#include "owners.cuh"

namespace atomloss {

/** The uploads of one stream, which reads the blocks in their order. */
class Uploads {
 public:
  explicit Uploads(cudaStream_t stream) : stream_(stream) {}

  /**
   * Enqueues a copy to the device. Waits for the GPU only if more is under way
   * than there may be.
   */
  void upload(void* to, const void* from, int64_t bytes);

  /** Gives back the blocks that nothing is read from any more. */
  void release();

 private:
  /** done: behind the last copy out of it. */
  struct Block {
    PinnedMemory memory;
    Event done;
  };

  void next_block();
  static bool is_done(const Block& block);

  const cudaStream_t stream_;
  std::mutex mutex_;         /* guards what follows */
  std::deque<Block> before_; /* full ones, in the order of their copies */
  Block current_;
  int64_t room_ = 0; /* bytes at the end of the current block */
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_UPLOADS_CUH */
