/**
 * Streams and events: each stream is a thread with a queue of few places, which
 * sometimes rests. An event is what the stream knew when it came by.
 */
#ifndef CUDA_PLATFORM_WORK_H
#define CUDA_PLATFORM_WORK_H

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>

#include "access.h"
#include "platform.h"

namespace cuda_platform {

/** A moment of a stream: over when its thread has come there. */
class Moment {
 public:
  /** Waits until it is over. */
  void wait();
  bool is_over();
  void end(const Clocks& known, int64_t microseconds);
  /** What is known to have happened before; once it is over. */
  const Clocks& known() const { return known_; }
  int64_t microseconds() const { return microseconds_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  Clocks known_;
  int64_t microseconds_ = 0;
};

/** The access that this thread would make: of its work, or of the host. */
Access access_of_thread(Kind kind);

/** Whether this thread runs work of a stream. */
bool runs_work();

/** The work of this thread for a scope: a thread that helps a stream's. */
class Running {
 public:
  Running(const Operation& operation, const Clocks* known);
  ~Running();
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
};

/**
 * As enqueue(), for work that is told what the stream knows and may add to it,
 * in the order of legacy streams. `name` is interned.
 */
cudaError_t enqueue_work(cudaStream_t stream, const char* name,
                         std::function<void(Clocks* known)> work);

/** The moment behind what the stream has now; nullptr: there is no stream. */
std::shared_ptr<Moment> mark(cudaStream_t stream);

/** Waits for all work of a device; the host then knows of it. */
void wait_for_device(int device);

/** What each stream has to do: a line each. */
std::string describe_streams();

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_WORK_H */
