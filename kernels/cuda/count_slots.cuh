/** Counts that are being added up over the replicas, in memory of their own. */
#ifndef ATOMLOSS_CUDA_COUNT_SLOTS_CUH
#define ATOMLOSS_CUDA_COUNT_SLOTS_CUH

#include <atomic>
#include <deque>

#include "cuda/owners.cuh"
#include "cuda/scratch.cuh"

namespace atomloss {

/** Counts of one collective at most: a task with groups has many. */
constexpr int kMaxTotals = 1 << 14;

struct CountSlot {
  DeviceMemory<double> counts; /* [kMaxTotals] */
  Event read = new_event();    /* recorded behind what reads them, or, before
                                  anything does, where they are given out */
  bool taken = false;          /* somebody has a ticket for them */
  int32_t n = 0;               /* how many these are */
  /* Recorded behind their sums; nullptr once these are known to be there, which
     the watchdog of the group may find out. */
  std::atomic<cudaEvent_t> done{nullptr};
  bool failed = false; /* they never will be; guarded by the group's mutex */

  /* By the pool: cudaMalloc() may wait for what the GPU is doing, and that for
     a replica that is waiting for this one. The memory is there in the order of
     `compute`, which may be the first to write it, and from here on in that of
     `transfer`. */
  CountSlot(cudaStream_t compute, cudaStream_t transfer) {
    double* memory;
    AL_CHECK(cudaMallocAsync(&memory, kMaxTotals * sizeof *memory, compute));
    counts = DeviceMemory<double>(memory);
    AL_CHECK(cudaEventRecord(read, compute));
    AL_CHECK(cudaStreamWaitEvent(transfer, read, 0));
  }
  CountSlot(const CountSlot&) = delete;
  CountSlot& operator=(const CountSlot&) = delete;
};

/**
 * As many slots as were ever under way at once: a new collective takes one that
 * nothing uses any more, so that it waits for no reader.
 */
class CountSlots {
 public:
  /** A slot for so many counts. Its ticket is its number, from 1. */
  CountSlot& take(int32_t n, cudaStream_t compute, cudaStream_t transfer,
                  int64_t* ticket) {
    size_t i = slots_.size();
    if (!released_.empty() && is_idle(slots_[released_.front()])) {
      i = released_.front();
      released_.pop_front();
    } else {
      slots_.emplace_back(compute, transfer);
    }
    slots_[i].taken = true;
    slots_[i].n = n;
    *ticket = static_cast<int64_t>(i) + 1;
    return slots_[i];
  }

  /** The slot of a ticket. */
  CountSlot& taken(int64_t ticket) {
    const auto i = static_cast<size_t>(ticket - 1);
    if (ticket < 1 || i >= slots_.size() || !slots_[i].taken)
      throw al_error(al_fail(AL_INVALID_ARGUMENT,
                             "no counts have the ticket %lld",
                             static_cast<long long>(ticket)));
    return slots_[i];
  }

  /** Nobody needs the counts of a ticket any more, behind what was enqueued. */
  void release(int64_t ticket) {
    taken(ticket).taken = false;
    released_.push_back(static_cast<size_t>(ticket - 1));
  }

 private:
  static bool is_idle(const CountSlot& slot) {
    const cudaEvent_t done = slot.done;
    return (done == nullptr || cudaEventQuery(done) == cudaSuccess) &&
           cudaEventQuery(slot.read) == cudaSuccess;
  }

  std::deque<CountSlot> slots_;
  std::deque<size_t> released_; /* the longest ago first */
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_COUNT_SLOTS_CUH */
