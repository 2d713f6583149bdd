/**
 * What has happened before what: each stream is a lane of work, the host (all
 * of its threads) is another. An operation knows of every lane how far it was
 * when somebody told it: a vector clock.
 */
#ifndef CUDA_PLATFORM_CLOCKS_H
#define CUDA_PLATFORM_CLOCKS_H

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace cuda_platform {

/** How far each lane is known to be. */
class Clocks {
 public:
  uint32_t operator[](size_t lane) const {
    return lane < known_.size() ? known_[lane] : 0;
  }
  void raise(size_t lane, uint32_t clock) {
    if (lane >= known_.size()) known_.resize(lane + 1);
    known_[lane] = std::max(known_[lane], clock);
  }
  void join(const Clocks& other) {
    if (known_.size() < other.known_.size()) known_.resize(other.known_.size());
    for (size_t i = 0; i < other.known_.size(); ++i)
      known_[i] = std::max(known_[i], other.known_[i]);
  }

 private:
  std::vector<uint32_t> known_;
};

/** An operation of a lane: a kernel, a copy, what the host did meanwhile. */
struct Operation {
  uint32_t id = 0;
  uint32_t lane = 0;
  uint32_t clock = 0;
  const char* name = nullptr; /* interned */
};

constexpr uint32_t kHostLane = 0;

/** A lane that nobody has; its clock goes on where its last owner left it. */
uint32_t take_lane();
void give_lane(uint32_t lane);

/** The next operation of a lane, which knows of itself from now on. */
Operation begin_operation(uint32_t lane, const char* name, Clocks* known);

/** An operation by its id; false if it is too long ago to be told. */
bool find_operation(uint32_t id, Operation* found);

/** The same text as a pointer that stays valid. */
const char* intern(const std::string& text);

/* ---- the host ------------------------------------------------------------*/

/** What the host knows, for work that it enqueues now. */
std::shared_ptr<const Clocks> tell_work();

/** The host has waited for somebody who knew this. */
void host_learns(const Clocks& known);

/** What the host is doing, and what it knows. */
Operation host_operation(std::shared_ptr<const Clocks>* known);

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_CLOCKS_H */
