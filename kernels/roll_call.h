/**
 * Who is where: while the replicas of a group compute, a thread of each answers
 * the question which collective it is in, by UDP. Asked when a collective has
 * failed, so that its error can name the replicas that hang (a stopped process
 * does not answer) or make another call. Shared by both libraries.
 */
#ifndef ATOMLOSS_ROLL_CALL_H
#define ATOMLOSS_ROLL_CALL_H

#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace atomloss {

class RollCall {
 public:
  /** What a replica tells the others of itself: where to ask, and a token. */
  static constexpr int64_t kBlobBytes = 48;

  /** Listens at an address of this host. */
  RollCall(int rank, int world_size, const char* address);
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  /** Writes kBlobBytes. */
  void publish(void* blob) const;

  /** Takes what the rank has published. */
  void meet(int rank, const void* blob);

  /** From now on this replica is in its `number`-th call. The hash is of all
   * that replicas must agree on. */
  void enter(int64_t number, const std::string& text, uint64_t hash);
  /** The call has ended. */
  void leave();

  /**
   * Asks all other ranks, waits at most `patience`, and says what sets them
   * apart: "rank 2 does not answer; rank 1 is in call 4, …". Empty if all are
   * in the same call as this one.
   */
  std::string ask(std::chrono::milliseconds patience);

 private:
  struct Peer {
    bool known = false;
    unsigned char token[16];
    sockaddr_storage address;
    socklen_t length;
  };
  /** Where a replica is. */
  struct Place {
    int64_t number = 0;
    bool inside = false;
    std::string text;
    uint64_t hash = 0;
  };

  void answer();
  Place place();
  static std::string describe(const Place& there, const Place& here);

  int rank_, world_size_;
  int socket_ = -1;
  int wake_[2] = {-1, -1}; /* a pipe: ends the thread */
  Peer self_;
  std::vector<Peer> peers_;
  std::mutex mutex_; /* guards place_ */
  Place place_;
  std::thread thread_;
};

}  // namespace atomloss

#endif /* ATOMLOSS_ROLL_CALL_H */
