/** Device memory until the end of a scope, for what the stream runs until then.
 */
#ifndef ATOMLOSS_CUDA_SCOPED_BLOCK_CUH
#define ATOMLOSS_CUDA_SCOPED_BLOCK_CUH

#include <utility>

#include "shared/status.h"

namespace atomloss {

/**
 * A block of a device; nullptr if there is no room for it, also when all that
 * is kept has been released.
 */
void* take_block(al_device* device, int64_t bytes);

/** Throws what al_alloc() answers when there is no room. */
[[noreturn]] void throw_out_of_memory(al_device* device, int64_t bytes);

/** Freed behind what was enqueued until then, as by al_free(). */
class ScopedBlock {
 public:
  ScopedBlock() = default;
  ScopedBlock(al_device* device, int64_t bytes)
      : ScopedBlock(if_there_is_room(device, bytes)) {
    if (memory_ == nullptr) throw_out_of_memory(device, bytes);
  }
  /** One without memory if there is none. */
  static ScopedBlock if_there_is_room(al_device* device, int64_t bytes) {
    ScopedBlock block;
    block.device_ = device;
    block.memory_ = take_block(device, bytes);
    return block;
  }
  ScopedBlock(ScopedBlock&& other) noexcept
      : device_(other.device_),
        memory_(std::exchange(other.memory_, nullptr)) {}
  ScopedBlock& operator=(ScopedBlock&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~ScopedBlock() {
    if (memory_ != nullptr) al_free(device_, memory_);
  }
  void* memory() const { return memory_; }

 private:
  al_device* device_ = nullptr;
  void* memory_ = nullptr;
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_SCOPED_BLOCK_CUH */
