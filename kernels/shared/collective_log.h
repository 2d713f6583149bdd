/**
 * The collectives of a device by number, and which of them have failed: what
 * was computed from one that failed is lost, and nothing else is. Shared by
 * both libraries.
 *
 * A number stands for whatever was computed from collectives up to it, of
 * which it is the latest: the origin of a tensor, 0 where there is none. The
 * collectives that a failure takes were begun one after another and not done;
 * so an origin that is among them, or behind them and not after the failure,
 * is lost. Numbers after a failure are of another generation: only where two
 * generations meet can the latest origin hide one that is lost.
 */
#ifndef ATOMLOSS_COLLECTIVE_LOG_H
#define ATOMLOSS_COLLECTIVE_LOG_H

#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "shared/status.h"

namespace atomloss {

class CollectiveLog {
 public:
  /**
   * The number of a new collective, on what has an origin. Throws if that is
   * lost: nothing computed from it may reach another replica. `opens`: that it
   * is done does not say that it has not failed, which end() does.
   */
  double begin(double origin, bool opens = false) {
    std::lock_guard<std::mutex> lock(mutex_);
    throw_if_lost(origin);
    if (opens) open_.insert(next_);
    return next_++;
  }

  /** One that is open has not failed. */
  void end(double collective) {
    std::lock_guard<std::mutex> lock(mutex_);
    open_.erase(collective);
    changed_.notify_all();
  }

  /** One has failed, and so have all that were begun after it until now. */
  void fail(double first, al_status_code code, const std::string& why) {
    std::lock_guard<std::mutex> lock(mutex_);
    failures_.push_back({first, next_, code, why});
    next_ = static_cast<double>(failures_.size()) * AL_ORIGIN_GENERATION;
    open_.erase(open_.lower_bound(first), open_.end());
    changed_.notify_all();
  }

  /** Throws if what has this origin is known to be lost. */
  void check(double origin) {
    if (origin == AL_ORIGIN_NONE) return;
    std::lock_guard<std::mutex> lock(mutex_);
    throw_if_lost(origin);
  }

  /** The same for what has been computed: waits until that is known. */
  void wait_and_check(double origin) {
    if (origin == AL_ORIGIN_NONE) return;
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock,
                  [&] { return open_.empty() || *open_.begin() > origin; });
    throw_if_lost(origin);
  }

  /** Throws if a collective from this number on has failed. */
  void check_since(double first) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const Failure& failure : failures_)
      if (failure.end > first) refuse(failure);
  }

 private:
  struct Failure {
    double first, end; /* origins from first to below end */
    al_status_code code;
    std::string why;
  };

  /** The mutex is held. */
  void throw_if_lost(double origin) const {
    for (const Failure& failure : failures_)
      if (failure.first <= origin &&
          (origin < failure.end || origin == AL_ORIGIN_UNKNOWN))
        refuse(failure);
  }

  [[noreturn]] static void refuse(const Failure& failure) {
    throw al_error(al_fail(failure.code, "%s", failure.why.c_str()));
  }

  std::mutex mutex_; /* guards what follows */
  std::condition_variable changed_;
  double next_ = 1;
  std::set<double> open_;
  std::vector<Failure> failures_;
};

}  // namespace atomloss

#endif /* ATOMLOSS_COLLECTIVE_LOG_H */
