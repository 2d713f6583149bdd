#include "watched_transport.h"

#include <gloo/common/error.h>

#include <deque>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

namespace atomloss {
namespace {

using gloo::transport::UnboundBuffer;
using std::chrono::milliseconds;

/** How often the connection that is being waited for is looked at. */
constexpr milliseconds kPoll(100);

/** A message slot that no collective uses. */
constexpr uint64_t kNoSlot = ~uint64_t{0};

/**
 * Memory that messages are sent from and received into. Gloo's own buffer does
 * not say which peer's message a wait is for, so there is one for each peer,
 * and waits take messages in the order in which they were begun.
 */
class WatchedBuffer : public UnboundBuffer {
 public:
  WatchedBuffer(WatchedTransport& transport, gloo::transport::Context& inner,
                void* memory, size_t bytes)
      : UnboundBuffer(memory, bytes), transport_(transport), inner_(inner) {}

  void send(int peer, uint64_t slot, size_t offset, size_t bytes) override {
    part(peer).send(peer, slot, offset, bytes);
    sends_.push_back(peer);
  }

  void recv(int peer, uint64_t slot, size_t offset, size_t bytes) override {
    part(peer).recv(peer, slot, offset, bytes);
    receives_.push_back(peer);
  }

  void recv(std::vector<int>, uint64_t, size_t, size_t) override {
    throw std::logic_error("a message from any peer: no collective here has");
  }

  bool waitSend(int* peer, milliseconds timeout) override {
    return wait(sends_, Direction::kSend, peer, timeout);
  }

  bool waitRecv(int* peer, milliseconds timeout) override {
    return wait(receives_, Direction::kReceive, peer, timeout);
  }

  void abortWaitSend() override {
    for (const auto& each : parts_) each.second->abortWaitSend();
  }

  void abortWaitRecv() override {
    for (const auto& each : parts_) each.second->abortWaitRecv();
  }

 private:
  UnboundBuffer& part(int peer) {
    std::unique_ptr<UnboundBuffer>& own = parts_[peer];
    if (!own) own = inner_.createUnboundBuffer(ptr, size);
    return *own;
  }

  bool wait(std::deque<int>& begun, Direction direction, int* peer,
            milliseconds timeout) {
    if (begun.empty()) throw std::logic_error("a wait for no message");
    const int first = begun.front();
    begun.pop_front();
    transport_.wait(part(first), direction, first, timeout);
    if (peer) *peer = first;
    return true;
  }

  WatchedTransport& transport_;
  gloo::transport::Context& inner_;
  std::map<int, std::unique_ptr<UnboundBuffer>> parts_;
  std::deque<int> sends_, receives_;
};

bool wait_for(UnboundBuffer& message, Direction direction,
              milliseconds timeout) {
  return direction == Direction::kSend ? message.waitSend(timeout)
                                       : message.waitRecv(timeout);
}

}  // namespace

WatchedTransport::WatchedTransport(
    std::shared_ptr<gloo::transport::Context> inner)
    : gloo::transport::Context(inner->rank, inner->size),
      inner_(std::move(inner)),
      lifelines_(static_cast<size_t>(size)),
      watcher_([this] { watch(); }) {}

WatchedTransport::~WatchedTransport() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  end_.notify_all();
  watcher_.join();
}

std::unique_ptr<gloo::transport::Pair>& WatchedTransport::getPair(int rank) {
  return inner_->getPair(rank);
}

std::unique_ptr<gloo::transport::Pair>& WatchedTransport::createPair(int rank) {
  return inner_->createPair(rank);
}

std::unique_ptr<UnboundBuffer> WatchedTransport::createUnboundBuffer(
    void* memory, size_t bytes) {
  return std::make_unique<WatchedBuffer>(*this, *inner_, memory, bytes);
}

void WatchedTransport::connected(int peer) {
  auto lifeline = inner_->createUnboundBuffer(&nothing_, 1);
  lifeline->recv(peer, kNoSlot);
  std::lock_guard<std::mutex> lock(mutex_);
  lifelines_[static_cast<size_t>(peer)] = std::move(lifeline);
}

/** Called with the lock. */
bool WatchedTransport::is_lost(int peer) {
  const auto& lifeline = lifelines_[static_cast<size_t>(peer)];
  if (!lifeline) return true;
  try {
    // Aborted beforehand, the wait returns at once, or throws what has failed.
    lifeline->abortWaitRecv();
    lifeline->waitRecv();
    return false;
  } catch (const std::exception&) {
    return true;
  }
}

std::vector<int> WatchedTransport::lost() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!lost_.empty()) return lost_;
  std::vector<int> ranks;
  for (int peer = 0; peer < size; ++peer)
    if (peer != rank && is_lost(peer)) ranks.push_back(peer);
  return ranks;
}

void WatchedTransport::wait(UnboundBuffer& message, Direction direction,
                            int peer, milliseconds timeout) {
  struct Watched {  // for as long as the wait takes
    WatchedTransport& transport;
    Watched(WatchedTransport& of, UnboundBuffer& message, Direction direction,
            int peer)
        : transport(of) {
      std::lock_guard<std::mutex> lock(transport.mutex_);
      transport.awaited_ = &message;
      transport.direction_ = direction;
      transport.peer_ = peer;
    }
    ~Watched() {
      std::lock_guard<std::mutex> lock(transport.mutex_);
      transport.awaited_ = nullptr;
    }
    Watched(const Watched&) = delete;
    Watched& operator=(const Watched&) = delete;
  };
  {
    const Watched watched(*this, message, direction, peer);
    if (wait_for(message, direction, timeout)) return;
  }
  // The watcher has ended it. The message may have come before the connection
  // broke; if not, this closes all other connections as well.
  const std::vector<int> ranks = lost();
  try {
    wait_for(message, direction, milliseconds(1));
  } catch (const gloo::IoException&) {
    std::lock_guard<std::mutex> lock(mutex_);
    lost_ = ranks;
    throw gloo::IoException(
        std::string("the connection broke in the middle of a message ") +
        (direction == Direction::kSend ? "to" : "from") + " rank " +
        std::to_string(peer));
  }
}

void WatchedTransport::watch() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!end_.wait_for(lock, kPoll, [&] { return ending_; })) {
    if (!awaited_ || !is_lost(peer_)) continue;
    if (direction_ == Direction::kSend)
      awaited_->abortWaitSend();
    else
      awaited_->abortWaitRecv();
  }
}

}  // namespace atomloss
