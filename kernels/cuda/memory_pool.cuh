/**
 * The memory of one GPU, for all devices of this process on it: what one of
 * them has freed, any of them can have.
 */
#ifndef ATOMLOSS_CUDA_MEMORY_POOL_CUH
#define ATOMLOSS_CUDA_MEMORY_POOL_CUH

#include <memory>
#include <mutex>
#include <vector>

#include "owners.cuh"
#include "shared/block_cache.h"

namespace atomloss {

class MemoryPool {
 public:
  /** The one of a GPU, which is the thread's; it lives as long as a user. */
  static std::shared_ptr<MemoryPool> of(int ordinal);

  explicit MemoryPool(int ordinal);

  /** A block in the order of a stream; nullptr if there is no room for it. */
  void* allocate(int64_t size, cudaStream_t stream);

  /** Bytes that it has of the GPU and nobody uses. */
  int64_t idle_bytes() const;

  /** A device's kept blocks, and the stream that orders their uses. */
  struct Member {
    BlockCache* blocks;
    cudaStream_t stream;
  };
  void join(const Member& member);
  void leave(const BlockCache* blocks);

  /**
   * Gives all that is kept, here and by every device, back to the GPU. Waits
   * for the streams, whose work may still use it.
   */
  void release();

 private:
  const int64_t total_bytes_; /* of the GPU */
  const Owner<cudaMemPool_t, cudaMemPoolDestroy> pool_;
  std::mutex mutex_; /* guards the members, who cannot leave while it is held;
                        held for nothing that waits */
  std::vector<Member> members_;
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_MEMORY_POOL_CUH */
