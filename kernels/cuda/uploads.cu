#include <algorithm>
#include <cstring>
#include <vector>

#include "uploads.cuh"

namespace atomloss {
namespace {

/** Larger uploads are cut into pieces, smaller ones share a block. */
constexpr int64_t kBlockBytes = int64_t{1} << 20;

/**
 * So much may be under way before a call waits for the oldest that a host whose
 * batches are of many tensors can be steps ahead of the GPU.
 */
constexpr size_t kBlocks = 64;

constexpr int64_t kAlignment = 256;

}  // namespace

bool Uploads::is_done(const Block& block) {
  const cudaError_t code = cudaEventQuery(block.done);
  if (code == cudaErrorNotReady) return false;
  check(code, "cudaEventQuery");
  return true;
}

/** Begins a block: the oldest if it has been read, otherwise a new one. */
void Uploads::next_block() {
  if (current_.memory != nullptr) {
    AL_CHECK(cudaEventRecord(current_.done, stream_));
    before_.push_back(std::move(current_));
    room_ = 0;
  }
  // They are read in their order: if the oldest is not done, none is.
  const bool may_grow = before_.size() < kBlocks;
  if (before_.empty() || (may_grow && !is_done(before_.front()))) {
    current_ = {new_pinned_memory(kBlockBytes), new_event()};
  } else {
    AL_CHECK(cudaEventSynchronize(before_.front().done));
    current_ = std::move(before_.front());
    before_.pop_front();
  }
  room_ = kBlockBytes;
}

void Uploads::upload(void* to, const void* from, int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (int64_t at = 0; at < bytes;) {
    const int64_t piece = std::min(bytes - at, kBlockBytes);
    if (room_ < piece) next_block();
    // Never written before since the block began: no copy reads it yet.
    char* const pinned = current_.memory + (kBlockBytes - room_);
    memcpy(pinned, static_cast<const char*>(from) + at,
           static_cast<size_t>(piece));
    room_ -=
        std::min(room_, (piece + kAlignment - 1) / kAlignment * kAlignment);
    AL_CHECK(cudaMemcpyAsync(static_cast<char*>(to) + at, pinned,
                             static_cast<size_t>(piece), cudaMemcpyHostToDevice,
                             stream_));
    at += piece;
  }
}

void Uploads::release() {
  std::vector<Block> done;  // they end without the mutex: that may wait
  std::lock_guard<std::mutex> lock(mutex_);
  while (!before_.empty() && is_done(before_.front())) {
    done.push_back(std::move(before_.front()));
    before_.pop_front();
  }
}

}  // namespace atomloss
