/**
 * A replica's part in the collectives between GPUs: a communicator of NCCL, a
 * stream for it, and a watchdog.
 *
 * The caller enqueues a collective and goes on. The watchdog, a thread, looks
 * after what is under way: when NCCL reports an error, when another replica is
 * lost or when the timeout passes, it aborts the communicator, which ends its
 * kernels, and marks what was under way as lost, so that whoever reads what was
 * computed from it is told instead of getting garbage or waiting for ever. It
 * also ends a group that is closed.
 *
 * NCCL does not block here. Its guide, on fault tolerance: "In order to abort
 * NCCL communicators safely, NCCL requires applications to set communicators as
 * nonblocking and make sure no thread is calling any NCCL operations while
 * calling ncclCommAbort"; a thread in a blocking call "can possibly get stuck"
 * there. (An abort frees what that thread is still using: ncclCommAbort()
 * joins the thread of a nonblocking call alone.) So a call is handed over, and
 * its caller waits until it is enqueued, without a lock that the abort needs.
 */
#ifndef ATOMLOSS_CUDA_GROUP_CUH
#define ATOMLOSS_CUDA_GROUP_CUH

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cuda/call_check.cuh"
#include "cuda/count_slots.cuh"
#include "cuda/device.cuh"
#include "cuda/owners.cuh"
#include "shared/call.h"
#include "shared/roll_call.h"

namespace atomloss {

using Clock = std::chrono::steady_clock;

/** How a collective stands to the work of the compute stream. */
enum class Order {
  kBetween,       /* behind what was enqueued, before what comes next */
  kBehindCompute, /* behind what was enqueued; its reader waits for it */
  kApart          /* its reader waits for it, nothing else */
};

/** A collective under way. */
struct Pending {
  enum Stage {
    kPreparing, /* its caller enqueues what it waits for */
    kHandedOver,
    kEnqueued, /* `done` has been recorded */
    kFailed    /* its caller has left it */
  };

  const Call call;
  const int64_t number;
  std::atomic<Stage> stage{kPreparing}; /* its caller's to move on */
  Event ready;       /* recorded behind what it waits for; nullptr: nothing */
  Event done;        /* nullptr: done when it is enqueued */
  double origin = 0; /* of its result; 0: it has none */
  CountSlot* slot = nullptr;
  std::unique_ptr<CallCheck> check;
  /* Since when it could have been at work: its time runs from there. */
  std::optional<Clock::time_point> started;

  Pending(const Call& what, int64_t which) : call(what), number(which) {}
};

}  // namespace atomloss

struct al_group {
  const atomloss::HeldDevice device;
  const int rank, world_size;
  const std::chrono::milliseconds timeout;
  const bool debug;
  const atomloss::Stream stream;
  const atomloss::DeviceMemory<int> token; /* what a barrier reduces */
  atomloss::RollCall roll_call;
  bool watched = false; /* there is a watchdog, which will end the group */

  std::mutex calling; /* one caller at a time; guards what follows */
  int64_t calls = 0;  /* collectives so far */
  atomloss::CountSlots slots;

  /* Guards what follows. The watchdog needs it to end what hangs, so it is held
     for no call that may wait: of CUDA for the GPU, as enqueueing does when too
     much is under way, or for the network. Taken behind `calling`, if both are.
   */
  std::mutex mutex;
  std::condition_variable changed;
  ncclComm_t communicator = nullptr; /* nullptr before and after its life */
  std::string broken;                /* why, once a collective has failed */
  al_status_code broken_code = AL_OK;
  std::deque<atomloss::Pending> pending; /* in the order of the stream */
  std::vector<atomloss::Event> events;   /* idle ones */
  std::vector<std::unique_ptr<atomloss::CallCheck>> checks; /* idle ones */
  bool closing = false;

  al_group(al_device* on, int this_rank, int ranks, const char* address,
           int64_t timeout_ms, bool compare);
  ~al_group();
  al_group(const al_group&) = delete;
  al_group& operator=(const al_group&) = delete;

  /**
   * Runs what makes a call of the group, as its only caller. If that fails,
   * this replica has left the order of calls, which is that of the others too:
   * its next collective would meet their last one. So the group is broken.
   */
  template <class F>
  void run(const atomloss::Call& call, F&& make) {
    std::lock_guard<std::mutex> lock(calling);
    try {
      const atomloss::CurrentDevice current(device->ordinal);
      make();
    } catch (...) {
      leave(call);
      throw;
    }
  }

  /** Enqueues a collective, within run(): `prepare` what goes before it on the
   * stream, then `collective`, which calls NCCL and gives its result. *origin
   * is that of what it reduces, and then of its result; nullptr: nobody reads
   * it.
   */
  template <class Prepare, class Collective>
  void enqueue(const atomloss::Call& call, atomloss::Order order,
               double* origin, atomloss::CountSlot* slot, Prepare&& prepare,
               Collective&& collective) {
    using namespace atomloss;
    if (debug) compare_calls(call);
    Pending& mine = begin(call, order != Order::kApart);
    if (mine.ready) {
      AL_CHECK(cudaEventRecord(mine.ready, device->compute));
      AL_CHECK(cudaStreamWaitEvent(stream, mine.ready, 0));
    }
    prepare();
    // From here on what breaks the group takes what it reduces, and not before.
    // In debug mode its exchange has yet to say that it is everybody's call.
    const auto numbered = [&] {
      if (origin)
        *origin = mine.origin = device->collectives.begin(*origin, debug);
      return collective();
    };
    hand_over(mine, numbered);
    AL_CHECK(cudaEventRecord(mine.done, stream));
    if (order == Order::kBetween)
      AL_CHECK(cudaStreamWaitEvent(device->compute, mine.done, 0));
    if (slot) {
      mine.slot = slot;
      slot->done = mine.done;
    }
    mine.stage = Pending::kEnqueued;
  }

  template <class Collective>
  void enqueue(const atomloss::Call& call, atomloss::Order order,
               double* origin, Collective&& collective) {
    enqueue(
        call, order, origin, nullptr, [] {}, collective);
  }

  /** Makes the communicator, with the unique id that rank 0 has given. */
  void connect(const ncclUniqueId& id);

  /** What to wait for on the compute stream before the counts of a slot are
   * read; nullptr: nothing. Throws if their collective has failed. */
  cudaEvent_t arrival(const atomloss::CountSlot& slot);

  /** Throws if a collective has failed. */
  void check_unbroken();

  /** Looks after what is under way until the group is closed. */
  void watch();

 private:
  /** A new entry of `pending`. Throws if a collective has failed before. */
  atomloss::Pending& begin(const atomloss::Call& call, bool waits);

  /** This replica has failed to make a call. */
  void leave(const atomloss::Call& call);

  /** Waits until NCCL has taken a call: microseconds, unless peers are to be
   * connected. */
  template <class Collective>
  void hand_over(atomloss::Pending& mine, Collective&& collective) {
    mine.stage = atomloss::Pending::kHandedOver;
    const auto begun = atomloss::Clock::now();
    bool taken = give(collective);
    while (!taken) {
      // A sleep takes some 100 us, however short.
      if (atomloss::Clock::now() - begun < std::chrono::milliseconds(1))
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      taken = give([] { return ncclSuccess; });
    }
  }

  /** Makes a call of NCCL, which does not wait; whether it is done with it. */
  template <class Collective>
  bool give(Collective&& collective) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!broken.empty())
      throw al_error(al_fail(broken_code, "%s", broken.c_str()));
    const ncclResult_t result = collective();
    const ncclResult_t now = state();
    // The watchdog finds out who is behind an error of the communicator, which
    // the call may give as its own, and breaks the group.
    if (now != ncclSuccess && now != ncclInProgress)
      changed.notify_all();
    else
      atomloss::check(result, "NCCL");
    return now == ncclSuccess;
  }

  /** What the communicator reports of itself; the mutex is held. */
  ncclResult_t state() const;

  /** Debug mode: enqueues an exchange of what the replicas are about to call;
   * the group is broken where they disagree. */
  void compare_calls(const atomloss::Call& call);

  /** An event to be recorded; the mutex is held. */
  atomloss::Event take_event();

  /** Forgets what is done; the mutex is held. */
  void reap();

  /** Breaks the group: what it has under way is lost; the mutex is held. */
  void set_broken(al_status_code code, const std::string& why);

  /* Of the watchdog: `lock` holds the mutex, and lets it go in between. */
  using Lock = std::unique_lock<std::mutex>;
  void look_after_first(Lock& lock);
  void break_off(Lock& lock, al_status_code code, const char* why);
  void abort(Lock& lock);
  void finalize();

  atomloss::Clock::time_point ask_again_{};
  int64_t lost_in_ = -1; /* a replica was lost when this call was looked at */
};

#endif /* ATOMLOSS_CUDA_GROUP_CUH */
