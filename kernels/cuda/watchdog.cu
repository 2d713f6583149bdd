/** What the watchdog of a group does; see group.cuh. */
#include <cstdio>
#include <utility>

#include "cuda/group.cuh"

using namespace atomloss;

namespace {

constexpr auto kPoll = std::chrono::milliseconds(10);

/**
 * When a collective has been at work for so long, and again after as long, the
 * others are asked whether they still take part. One that is lost twice is: the
 * first time it may have gone with its part done, which has yet to arrive.
 */
constexpr auto kDoubt = std::chrono::milliseconds(300);
constexpr auto kGlance = std::chrono::milliseconds(200);

/** How long a replica that fails waits for what the others say. */
constexpr auto kPatience = std::chrono::milliseconds(1000);

}  // namespace

void al_group::watch() {
  cudaSetDevice(device->ordinal);
  // Queries of events would end the capture of a graph that another thread of
  // this process has begun, as any call does that captures do not allow.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  roll_call.ask(kPatience);  // who can answer at all

  Lock lock(mutex);
  for (;;) {
    reap();
    if (communicator != nullptr && !broken.empty()) {
      abort(lock);
    } else if (pending.empty()) {
      if (closing) break;
      changed.wait(lock);
    } else if (!broken.empty()) {
      changed.wait_for(lock, kPoll);  // for the caller, who is told
    } else {
      look_after_first(lock);
    }
  }
  lock.unlock();
  finalize();
}

void al_group::look_after_first(Lock& lock) {
  Pending& first = pending.front();
  const ncclResult_t now = state();
  if (now != ncclSuccess && now != ncclInProgress) {
    break_off(lock, AL_COLLECTIVE_FAILED, ncclGetErrorString(now));
    return;
  }
  if (!first.started) {
    if (first.stage == Pending::kPreparing ||
        (first.ready && cudaEventQuery(first.ready) == cudaErrorNotReady)) {
      changed.wait_for(lock, kPoll);
      return;
    }
    first.started = Clock::now();
    ask_again_ = Clock::now() + kDoubt;
  }
  if (Clock::now() - *first.started > timeout) {
    break_off(lock, AL_TIMEOUT,
              "a replica hangs, or does not make the same call");
    return;
  }
  if (Clock::now() < ask_again_) {
    changed.wait_for(lock, kPoll);
    return;
  }
  const int64_t number = first.number;
  lock.unlock();
  const bool lost = roll_call.ask(kGlance).lost;
  lock.lock();
  ask_again_ = Clock::now() + kDoubt;
  reap();
  if (pending.empty() || pending.front().number != number) return;
  if (lost && lost_in_ == number)
    break_off(lock, AL_COLLECTIVE_FAILED, "a replica is lost");
  lost_in_ = lost ? number : -1;
}

/** Breaks the group, unless the collective gets done while it is found out who
 * is behind it. */
void al_group::break_off(Lock& lock, al_status_code code, const char* why) {
  const Call call = pending.front().call;
  const int64_t number = pending.front().number;
  lock.unlock();
  const auto asked = Clock::now();
  const std::string others = roll_call.ask(kPatience).text;
  // Those whose timeout comes a little later ask this one.
  if (code == AL_TIMEOUT) std::this_thread::sleep_until(asked + kPatience);
  char text[1024];
  snprintf(text, sizeof text, "%s on rank %d of %d %s %lld ms: %s%s%s",
           call.text().c_str(), rank, world_size,
           code == AL_TIMEOUT ? "timed out after" : "failed, timeout",
           static_cast<long long>(timeout.count()), why,
           others.empty() ? "" : "; ", others.c_str());
  lock.lock();
  reap();
  if (!pending.empty() && pending.front().number == number)
    set_broken(code, text);
}

/** No caller has the communicator: who finds the group broken leaves it alone.
 */
void al_group::abort(Lock& lock) {
  const ncclComm_t aborted = std::exchange(communicator, nullptr);
  lock.unlock();
  ncclCommAbort(aborted);
  lock.lock();
}

/** Ends the communicator of a group that nobody has any more, so that peers
 * receive what this replica has sent. */
void al_group::finalize() {
  if (communicator == nullptr) return;
  // Up to the timeout, whatever the roll call says: a replica that has ended
  // may have done so well, and another still receive.
  const auto begun = Clock::now();
  ncclResult_t now = ncclCommFinalize(communicator);
  if (now == ncclSuccess || now == ncclInProgress) now = state();
  while (now == ncclInProgress && Clock::now() - begun < timeout) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    now = state();
  }
  if (now == ncclSuccess)
    ncclCommDestroy(communicator);
  else
    ncclCommAbort(communicator);
}
