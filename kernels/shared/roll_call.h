/**
 * Who is where: while the replicas of a group compute, a thread of each answers
 * the question which collective it is in, by UDP. Asked when a collective takes
 * long, whether a replica is lost, and when one has failed, so that its error
 * can name the replicas that hang (a stopped process does not answer) or make
 * another call. Shared by both libraries.
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

#include "shared/call.h"

namespace atomloss {

struct RollAnswer;

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

  /** From now on this replica is in its `number`-th call. */
  void enter(int64_t number, const Call& call);
  /** The call has ended. */
  void leave();
  /** The call has failed, and this replica takes part in no other. */
  void give_up();

  /** What the other ranks say. */
  struct Report {
    /**
     * What sets them apart: "rank 2 does not answer; rank 1 is in call 4, …".
     * Empty if all are in the same call as this one.
     */
    std::string text;
    /**
     * Whether one of them takes part in nothing any more: it has given up, or
     * has ended. Of a rank that has never answered nobody knows that: a
     * firewall may refuse questions in its place.
     */
    bool lost = false;
  };

  /** Asks all other ranks and waits at most `patience`; one caller at a time.
   */
  Report ask(std::chrono::milliseconds patience);

 private:
  struct Peer {
    bool known = false;
    bool heard = false; /* it has answered before */
    unsigned char token[16];
    sockaddr_storage address;
    socklen_t length;
  };
  /** Where a replica is. */
  struct Place {
    int64_t number = 0;
    bool inside = false;
    bool given_up = false;
    Call call;
  };

  void listen();
  RollAnswer here();

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
