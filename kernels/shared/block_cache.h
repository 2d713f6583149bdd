/**
 * Freed blocks kept for reuse by size, and the account of those in use. A pool
 * or the system costs about as much per call as a small loss; a training step
 * asks for the same sizes again and again. Where sizes change it would keep
 * some of each for ever: so never more than was in use at once, and what was
 * kept longest goes first. Shared by both libraries, and by exported tensors
 * (dlpack.cpp), which may outlive the device.
 */
#ifndef ATOMLOSS_BLOCK_CACHE_H
#define ATOMLOSS_BLOCK_CACHE_H

#include <algorithm>
#include <cstdint>
#include <deque>
#include <list>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace atomloss {

class BlockCache {
 public:
  /** limit: the most bytes kept for reuse, whatever was in use. */
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
    const auto found = kept_of_size_.find(size);
    if (found == kept_of_size_.end() || found->second.empty()) return nullptr;
    void* block = found->second.back()->block;
    kept_.erase(found->second.back());
    found->second.pop_back();
    kept_bytes_ -= size;
    use(block, size);
    return block;
  }

  /** Accounts for a new block. */
  void add(void* block, int64_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    use(block, size);
  }

  /**
   * A block comes back from whoever took it; it stays in use while others share
   * it. False: it was not in use. The caller releases what is surplus then.
   */
  bool give(void* block, std::vector<void*>& surplus) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(block);
    if (found == used_.end() || !found->second.taken) return false;
    found->second.taken = false;
    retire(found);
    const int64_t most = std::min(limit_, most_used_bytes_);
    while (kept_bytes_ > most) surplus.push_back(drop_oldest());
    return true;
  }

  /** Keeps a block in use until unshare(). False: it is not in use. */
  bool share(void* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(block);
    if (found == used_.end() || !found->second.taken) return false;
    ++found->second.shares;
    return true;
  }

  /**
   * Ends one share(), on any thread and also after close(). True: the device is
   * closed, and the caller releases the block. Otherwise it is kept, since only
   * the device knows when it may be released: what is surplus goes with the
   * next give().
   */
  bool unshare(void* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(block);
    if (found == used_.end() || found->second.shares == 0) return false;
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
   * those that the caller releases: all but the shared ones, which the last
   * unshare() releases.
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

  struct Kept {
    void* block;
    int64_t size;
  };

  /* The mutex is held for all that follows. */

  void use(void* block, int64_t size) {
    used_[block] = {size};
    used_bytes_ += size;
    most_used_bytes_ = std::max(most_used_bytes_, used_bytes_);
  }

  /** The block kept longest, no longer accounted for. */
  void* drop_oldest() {
    const auto [block, size] = kept_.front();
    kept_of_size_[size].pop_front();
    kept_.pop_front();
    kept_bytes_ -= size;
    return block;
  }

  std::vector<void*> drain_locked() {
    std::vector<void*> blocks;
    while (!kept_.empty()) blocks.push_back(drop_oldest());
    most_used_bytes_ = used_bytes_;
    return blocks;
  }

  /** Keeps a block if nobody uses it any more. True: closed, it is not kept. */
  bool retire(std::unordered_map<void*, Used>::iterator found) {
    const auto [block, used] = *found;
    if (used.taken || used.shares > 0) return false;
    used_.erase(found);
    used_bytes_ -= used.size;
    if (closed_) return true;
    kept_.push_back({block, used.size});
    kept_of_size_[used.size].push_back(std::prev(kept_.end()));
    kept_bytes_ += used.size;
    return false;
  }

  std::mutex mutex_;
  std::list<Kept> kept_; /* longest first */
  std::unordered_map<int64_t, std::deque<std::list<Kept>::iterator>>
      kept_of_size_; /* longest first */
  std::unordered_map<void*, Used> used_;
  int64_t kept_bytes_ = 0;
  int64_t used_bytes_ = 0;
  int64_t most_used_bytes_ = 0; /* since the last drain() */
  bool closed_ = false;
  const int64_t limit_;
};

}  // namespace atomloss

#endif /* ATOMLOSS_BLOCK_CACHE_H */
