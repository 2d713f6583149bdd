/**
 * Gloo's TCP transport, with waits that end when the connection breaks that
 * they wait for.
 *
 * Gloo tells a broken connection to the messages that have not begun. One that
 * is under way, half sent or half received, is not told, and who waits for it
 * waits until the timeout: about one in 20 replicas that were killed while the
 * others reduced 400 kB left such a wait behind (Gloo of May 2022, where
 * Pair::signalException looks through the queues of what has not begun). So a
 * thread looks after the connection that is being waited for, and ends the
 * wait.
 */
#ifndef ATOMLOSS_WATCHED_TRANSPORT_H
#define ATOMLOSS_WATCHED_TRANSPORT_H

#include <gloo/transport/context.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace atomloss {

/** Whether a message goes out or comes in. */
enum class Direction { kSend, kReceive };

class WatchedTransport : public gloo::transport::Context {
 public:
  explicit WatchedTransport(std::shared_ptr<gloo::transport::Context> inner);
  ~WatchedTransport() override;
  WatchedTransport(const WatchedTransport&) = delete;
  WatchedTransport& operator=(const WatchedTransport&) = delete;

  std::unique_ptr<gloo::transport::Pair>& getPair(int rank) override;
  std::unique_ptr<gloo::transport::Pair>& createPair(int rank) override;
  std::unique_ptr<gloo::transport::UnboundBuffer> createUnboundBuffer(
      void* memory, size_t bytes) override;

  /** From now on the connection to a peer is looked at. */
  void connected(int peer);

  /** The peers that there is no connection to, not yet or not any more. */
  std::vector<int> lost();

  /**
   * Waits for a message from or to a peer. Throws what Gloo throws, and when
   * there is no connection to the peer any more.
   */
  void wait(gloo::transport::UnboundBuffer& message, Direction direction,
            int peer, std::chrono::milliseconds timeout);

 private:
  void watch();
  bool is_lost(int peer);

  std::shared_ptr<gloo::transport::Context> inner_;
  /** A message from each peer that never comes: it fails with the connection.
   */
  std::vector<std::unique_ptr<gloo::transport::UnboundBuffer>> lifelines_;
  char nothing_ = 0;

  std::mutex mutex_;  // guards what is below, and lifelines_
  /** The message that is being waited for, if any. */
  gloo::transport::UnboundBuffer* awaited_ = nullptr;
  Direction direction_ = Direction::kSend;
  int peer_ = 0;
  std::vector<int> lost_; /* when a wait was given up, before all was closed */
  bool ending_ = false;
  std::condition_variable end_;
  std::thread watcher_;
};

}  // namespace atomloss

#endif /* ATOMLOSS_WATCHED_TRANSPORT_H */
