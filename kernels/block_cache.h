/**
 * Freed blocks kept for reuse by size, and the account of those in use. A pool
 * or the system costs about as much per call as a small loss; a training step
 * asks for the same sizes again and again. Shared by both libraries, and by
 * exported tensors (dlpack.cpp), which may outlive the device.
 */
#ifndef ATOMLOSS_BLOCK_CACHE_H
#define ATOMLOSS_BLOCK_CACHE_H

#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace atomloss {

class BlockCache {
 public:
  /** limit: the most bytes kept for reuse. */
  explicit BlockCache(int64_t limit) : limit_(limit) {}

  /**
   * The size that a request is served with: sizes that differ little share
   * their blocks, at a waste of at most an eighth.
   */
  static int64_t size_class(int64_t bytes) {
    constexpr int64_t kSmallest = 256;
    if (bytes <= kSmallest) return kSmallest;
    // More than any machine has; rounding it up would overflow.
    if (bytes > INT64_MAX / 2) return INT64_MAX / kSmallest * kSmallest;
    int64_t power = kSmallest;
    while (power <= bytes / 2) power *= 2;
    const int64_t step = power / 8 > kSmallest ? power / 8 : kSmallest;
    return (bytes + step - 1) / step * step;
  }

  /** A kept block of this size class, now in use; nullptr if there is none. */
  void* take(int64_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = kept_.find(size);
    if (found == kept_.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    kept_bytes_ -= size;
    used_[block] = {size};
    used_bytes_ += size;
    return block;
  }

  /** Accounts for a new block. */
  void add(void* block, int64_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    used_[block] = {size};
    used_bytes_ += size;
  }

  enum class Freed { kKept, kSurplus, kUnknown };

  /**
   * A block comes back from whoever took it; it stays in use while others share
   * it. kSurplus: over the limit, the caller releases the block.
   */
  Freed give(void* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(block);
    if (found == used_.end() || !found->second.taken) return Freed::kUnknown;
    found->second.taken = false;
    return retire(found);
  }

  /** Keeps a block in use until unshare(). False: it is not in use. */
  bool share(void* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(block);
    if (found == used_.end() || !found->second.taken) return false;
    ++found->second.shares;
    return true;
  }

  /** Ends one share(), on any thread and also after close(). As give(). */
  Freed unshare(void* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(block);
    if (found == used_.end() || found->second.shares == 0)
      return Freed::kUnknown;
    --found->second.shares;
    return retire(found);
  }

  /** Every kept block, no longer accounted for: the caller releases them. */
  std::vector<void*> drain() {
    std::lock_guard<std::mutex> lock(mutex_);
    return drain_locked();
  }

  /**
   * Takes every block from whoever took it, and keeps none from now on. Returns
   * those that the caller releases: all but the shared ones, which are surplus
   * for the last unshare().
   */
  std::vector<void*> close() {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    std::vector<void*> blocks = drain_locked();
    for (auto entry = used_.begin(); entry != used_.end();) {
      entry->second.taken = false;
      if (entry->second.shares > 0) {
        ++entry;
        continue;
      }
      blocks.push_back(entry->first);
      used_bytes_ -= entry->second.size;
      entry = used_.erase(entry);
    }
    return blocks;
  }

  /** The first three numbers of al_memory_state(). */
  void state(int64_t* out) {
    std::lock_guard<std::mutex> lock(mutex_);
    out[0] = static_cast<int64_t>(used_.size());
    out[1] = used_bytes_;
    out[2] = kept_bytes_;
  }

 private:
  /** A block in use: by whoever took it, by those who share it, or both. */
  struct Used {
    int64_t size;
    bool taken = true;
    int64_t shares = 0;
  };

  std::vector<void*> drain_locked() {
    std::vector<void*> blocks;
    for (auto& entry : kept_)
      blocks.insert(blocks.end(), entry.second.begin(), entry.second.end());
    kept_.clear();
    kept_bytes_ = 0;
    return blocks;
  }

  /** Keeps a block if nobody uses it any more; the mutex is held. */
  Freed retire(std::unordered_map<void*, Used>::iterator found) {
    const auto [block, used] = *found;
    if (used.taken || used.shares > 0) return Freed::kKept;
    used_.erase(found);
    used_bytes_ -= used.size;
    if (closed_ || kept_bytes_ + used.size > limit_) return Freed::kSurplus;
    kept_[used.size].push_back(block);
    kept_bytes_ += used.size;
    return Freed::kKept;
  }

  std::mutex mutex_;
  std::unordered_map<int64_t, std::vector<void*>> kept_;
  std::unordered_map<void*, Used> used_;
  int64_t kept_bytes_ = 0;
  int64_t used_bytes_ = 0;
  bool closed_ = false;
  const int64_t limit_;
};

}  // namespace atomloss

#endif /* ATOMLOSS_BLOCK_CACHE_H */
