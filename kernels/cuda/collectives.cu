/**
 * Collectives between GPUs, by NCCL.
 *
 * They run on the device's transfer stream and are joined to its compute stream
 * by events: the host never waits. A watchdog thread looks after those that are
 * under way; when a peer dies or the timeout passes it aborts the communicator,
 * which ends its kernels, and marks the device, so that whoever reads a result
 * is told instead of getting garbage or waiting for ever.
 */
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>

#include "call_record.h"
#include "device.cuh"
#include "roll_call.h"

using atomloss::check;
using Clock = std::chrono::steady_clock;

namespace {

/** Counts that a kernel takes as its argument. */
constexpr int kMaxCounts = 256;

constexpr auto kPoll = std::chrono::milliseconds(10);

/** How long a replica that fails waits for what the others say. */
constexpr auto kPatience = std::chrono::milliseconds(1000);

/* ---- kernels -------------------------------------------------------------*/

/** Counts as a kernel's argument: no copy from the host, nothing to keep. */
struct Counts {
  int64_t values[kMaxCounts];
};

__global__ void write_counts(const __grid_constant__ Counts counts, int n,
                             int64_t* out) {
  if (threadIdx.x < n) out[threadIdx.x] = counts.values[threadIdx.x];
}

__global__ void read_counts(const int64_t* in, int n, double minimum,
                            double* totals) {
  const int i = blockIdx.x * kMaxCounts + threadIdx.x;
  if (i < n) totals[i] = fmax(static_cast<double>(in[i]), minimum);
}

/* ---- group ---------------------------------------------------------------*/

/** The counts of a collective. */
struct Slot {
  int64_t* counts = nullptr;   /* [kMaxTasks] */
  cudaEvent_t ready = nullptr; /* they have been added up */
  cudaEvent_t read = nullptr;  /* they may be overwritten */
  bool taken = false;          /* somebody has a ticket for them */
};

/** How a collective stands to the work of the compute stream. */
enum class Order {
  kBetween,       /* behind what was enqueued, before what comes next */
  kBehindCompute, /* behind what was enqueued; its reader waits for it */
  kApart          /* its reader waits for it, nothing else */
};

/** A collective under way. */
struct Pending {
  cudaEvent_t done;
  Clock::time_point deadline;
  std::string what;
};

/** An id and where to ask. */
constexpr int64_t kBlobBytes =
    sizeof(ncclUniqueId) + atomloss::RollCall::kBlobBytes;

ncclDataType_t nccl_type(int32_t dtype) {
  switch (dtype) {
    case AL_FLOAT32:
      return ncclFloat32;
    case AL_FLOAT64:
      return ncclFloat64;
    case AL_FLOAT16:
      return ncclFloat16;
    case AL_BFLOAT16:
      return ncclBfloat16;
    case AL_INT32:
      return ncclInt32;
    case AL_INT64:
      return ncclInt64;
  }
  throw al_error(
      al_fail(AL_INVALID_ARGUMENT, "dtype %d cannot be reduced", dtype));
}

ncclRedOp_t nccl_op(int32_t op) {
  switch (op) {
    case AL_AVG:
      return ncclAvg;
    case AL_MAX:
      return ncclMax;
    case AL_MIN:
      return ncclMin;
    default:
      return ncclSum;
  }
}

}  // namespace

struct al_group {
  al_device* device;
  int rank, world_size;
  int64_t timeout_ms;
  std::unique_ptr<atomloss::RollCall> roll_call;
  atomloss::CallRecord* records = nullptr; /* [world_size + 1]: debug mode */

  std::mutex calling;     /* one caller at a time; guards what follows */
  int64_t calls = 0;      /* collectives so far */
  std::deque<Slot> slots; /* as many as were ever taken at once */
  int* token = nullptr;   /* what a barrier reduces */

  /* Guards what follows. The watchdog needs it to end what hangs, so it is held
     for no call of CUDA that may wait for the GPU, as enqueueing does when too
     much is under way. Taken behind `calling`, if both are. */
  std::mutex mutex;
  std::condition_variable changed;
  ncclComm_t communicator = nullptr; /* nullptr before and after its life */
  std::string broken;                /* why, once a collective has failed */
  std::deque<Pending> pending;
  std::vector<cudaEvent_t> events; /* idle ones */
  bool closing = false;
  bool finished = true; /* nothing is being computed from a collective */
  std::thread watchdog;

  Clock::time_point deadline() const {
    return Clock::now() + std::chrono::milliseconds(timeout_ms);
  }

  cudaEvent_t take_event() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (!events.empty()) {
        const cudaEvent_t event = events.back();
        events.pop_back();
        return event;
      }
    }
    cudaEvent_t event;
    AL_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
  }

  void give_event(cudaEvent_t event) {
    std::lock_guard<std::mutex> lock(mutex);
    events.push_back(event);
  }

  /** Throws if a collective has failed; the mutex is held. */
  void check_broken(const std::string& what) const {
    if (broken.empty()) return;
    throw al_error(al_fail(AL_COLLECTIVE_FAILED,
                           "%s on rank %d of %d: the group is broken since %s",
                           what.c_str(), rank, world_size, broken.c_str()));
  }

  /** Ends the communicator; the mutex is held. Returns the status to give. */
  al_status break_off(al_status_code code, const std::string& what,
                      const char* why) {
    const auto asked = Clock::now();
    const std::string others = roll_call->ask(kPatience);
    char text[1024];
    snprintf(text, sizeof text, "%s on rank %d of %d %s %lld ms: %s%s%s",
             what.c_str(), rank, world_size,
             code == AL_TIMEOUT ? "timed out after" : "failed, timeout",
             static_cast<long long>(timeout_ms), why,
             others.empty() ? "" : "; ", others.c_str());
    // Those whose timeout comes a little later ask this one.
    if (code == AL_TIMEOUT) std::this_thread::sleep_until(asked + kPatience);
    broken = text;
    if (!finished) device->fail(code, broken);
    if (communicator != nullptr) ncclCommAbort(communicator);
    communicator = nullptr;
    return al_fail(code, "%s", text);
  }

  /** What the communicator reports of itself; the mutex is held. */
  ncclResult_t state() const {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t code = ncclCommGetAsyncError(communicator, &state);
    return code == ncclSuccess ? state : code;
  }

  /**
   * Hands a collective to the communicator, which takes it on a thread of its
   * own, and waits until it has: microseconds, unless peers are to be
   * connected.
   */
  template <class F>
  void hand_over(const std::string& what, F&& collective) {
    const Clock::time_point begin = Clock::now(), end = deadline();
    for (bool given = false;; given = true) {
      {
        std::lock_guard<std::mutex> lock(mutex);
        check_broken(what);
        ncclResult_t now = ncclSuccess;
        if (!given) now = collective();
        if (now == ncclSuccess || now == ncclInProgress) now = state();
        if (now == ncclSuccess) return;
        if (now != ncclInProgress)
          throw al_error(
              break_off(AL_COLLECTIVE_FAILED, what, ncclGetErrorString(now)));
        if (Clock::now() > end)
          throw al_error(
              break_off(AL_TIMEOUT, what,
                        "a replica hangs, or does not make the same call"));
      }
      // A sleep takes some 100 us, however short.
      if (Clock::now() - begin < std::chrono::milliseconds(1))
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  /** A slot that is free. Its ticket is its number, from 1. */
  Slot& take_slot(int64_t* ticket) {
    size_t i = 0;
    while (i < slots.size() && slots[i].taken) ++i;
    if (i == slots.size()) {
      Slot slot;
      AL_CHECK(
          cudaMalloc(&slot.counts, atomloss::kMaxTasks * sizeof *slot.counts));
      AL_CHECK(cudaEventCreateWithFlags(&slot.ready, cudaEventDisableTiming));
      AL_CHECK(cudaEventCreateWithFlags(&slot.read, cudaEventDisableTiming));
      slots.push_back(slot);
    }
    *ticket = static_cast<int64_t>(i) + 1;
    return slots[i];
  }

  Slot& taken_slot(int64_t ticket) {
    const auto i = static_cast<size_t>(ticket - 1);
    if (ticket < 1 || i >= slots.size() || !slots[i].taken)
      throw al_error(al_fail(AL_INVALID_ARGUMENT,
                             "no counts have the ticket %lld",
                             static_cast<long long>(ticket)));
    return slots[i];
  }

  /**
   * Enqueues a collective on the transfer stream, behind what `prepare`
   * enqueues there; `calling` is held. The hash is of all that replicas must
   * agree on besides its text.
   */
  template <class P, class F>
  void enqueue(const std::string& what, Order order, P&& prepare,
               F&& collective, uint64_t hash = 0) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      check_broken(what);
    }
    hash = atomloss::hash_bytes(what.data(), what.size(), hash);
    // Left with the next call: this one is under way until then.
    roll_call->enter(calls++, what, hash);
    if (records) compare_calls(what, hash);
    if (order != Order::kApart) {
      const cudaEvent_t ready = take_event();
      AL_CHECK(cudaEventRecord(ready, device->compute));
      AL_CHECK(cudaStreamWaitEvent(device->transfer, ready, 0));
      give_event(ready);  // the wait has been enqueued with its value
    }
    prepare();
    hand_over(what, collective);
    const cudaEvent_t done = take_event();
    AL_CHECK(cudaEventRecord(done, device->transfer));
    if (order == Order::kBetween)
      AL_CHECK(cudaStreamWaitEvent(device->compute, done, 0));
    std::lock_guard<std::mutex> lock(mutex);
    pending.push_back({done, deadline(), what});
    if (pending.size() == 1) changed.notify_all();
  }

  template <class F>
  void enqueue(const std::string& what, Order order, F&& collective,
               uint64_t hash = 0) {
    enqueue(
        what, order, [] {}, collective, hash);
  }

  /**
   * Debug mode: throws if a replica makes another call than this one. Waits, as
   * long as a collective may take.
   */
  void compare_calls(const std::string& what, uint64_t hash) {
    using atomloss::CallRecord;
    const auto bytes = sizeof(CallRecord);
    CallRecord* const mine = records + world_size;
    const CallRecord record = atomloss::make_record(what, hash);
    std::vector<CallRecord> all(static_cast<size_t>(world_size));
    // From pageable memory: the record has been read when the call returns.
    AL_CHECK(cudaMemcpyAsync(mine, &record, bytes, cudaMemcpyHostToDevice,
                             device->transfer));
    hand_over(what, [&] {
      return ncclAllGather(mine, records, bytes, ncclInt8, communicator,
                           device->transfer);
    });
    const cudaEvent_t done = take_event();
    AL_CHECK(cudaEventRecord(done, device->transfer));
    const Clock::time_point end = deadline();
    while (cudaEventQuery(done) == cudaErrorNotReady) {
      if (Clock::now() > end) {
        std::lock_guard<std::mutex> lock(mutex);
        throw al_error(break_off(AL_TIMEOUT, what, "no other replica is here"));
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    give_event(done);
    AL_CHECK(cudaMemcpy(all.data(), records, bytes * all.size(),
                        cudaMemcpyDeviceToHost));
    const std::string others =
        atomloss::describe_others(all.data(), world_size, rank);
    if (others.empty()) return;
    std::lock_guard<std::mutex> lock(mutex);
    broken = what + ", on which replicas disagreed";
    device->fail(AL_COLLECTIVE_FAILED, broken);
    throw al_error(al_fail(AL_COLLECTIVE_FAILED,
                           "replicas disagree: call %lld of rank %d of %d is "
                           "%s; %s",
                           static_cast<long long>(calls - 1), rank, world_size,
                           what.c_str(), others.c_str()));
  }

  /** Looks after what is under way, until the group is closed. */
  void watch() {
    cudaSetDevice(device->ordinal);
    std::unique_lock<std::mutex> lock(mutex);
    while (!closing || !pending.empty()) {
      if (pending.empty()) {
        changed.wait(lock);
        continue;
      }
      const Pending& first = pending.front();
      const cudaError_t code = cudaEventQuery(first.done);
      if (code == cudaErrorNotReady && broken.empty()) {
        const ncclResult_t now = state();
        if (now != ncclSuccess && now != ncclInProgress)
          break_off(AL_COLLECTIVE_FAILED, first.what, ncclGetErrorString(now));
        else if (Clock::now() > first.deadline)
          break_off(AL_TIMEOUT, first.what,
                    "a replica hangs, or does not make the same call");
        else
          changed.wait_for(lock, kPoll);
        continue;
      }
      // Done, or never to be waited for: an aborted one, a broken device.
      if (code != cudaSuccess && code != cudaErrorNotReady && broken.empty())
        break_off(AL_COLLECTIVE_FAILED, first.what, cudaGetErrorString(code));
      events.push_back(first.done);
      pending.pop_front();
      // The next has begun now: what was before it is no delay of a peer's.
      if (!pending.empty()) pending.front().deadline = deadline();
    }
  }
};

/* ---- ABI -----------------------------------------------------------------*/

al_status al_group_open(al_device* device, int32_t rank, int32_t world_size,
                        const char* address, int64_t timeout_ms, void* blob,
                        int64_t capacity, int64_t* blob_bytes, int32_t debug,
                        al_group** out) {
  if (world_size < 2 || rank < 0 || rank >= world_size)
    return al_fail(AL_INVALID_ARGUMENT, "rank %d of %d is no place in a group",
                   rank, world_size);
  *blob_bytes = kBlobBytes;
  if (*blob_bytes > capacity)
    return al_fail(AL_INVALID_ARGUMENT, "a blob of %lld bytes needs %lld",
                   static_cast<long long>(capacity),
                   static_cast<long long>(*blob_bytes));
  return al_guard([&]() -> al_status {
    const atomloss::CurrentDevice current(device->ordinal);
    // All connections in al_group_connect, which has a thread of its own: else
    // the first collective of each kind waits for the peers to make them.
    setenv("NCCL_RUNTIME_CONNECT", "0", 0);
    memset(blob, 0, kBlobBytes);
    if (rank == 0) AL_CHECK(ncclGetUniqueId(static_cast<ncclUniqueId*>(blob)));
    auto group = std::make_unique<al_group>();
    group->device = device;
    group->rank = rank;
    group->world_size = world_size;
    group->timeout_ms = timeout_ms;
    group->roll_call =
        std::make_unique<atomloss::RollCall>(rank, world_size, address);
    group->roll_call->publish(static_cast<char*>(blob) + sizeof(ncclUniqueId));
    if (debug)
      AL_CHECK(cudaMalloc(&group->records,
                          (world_size + 1) * sizeof *group->records));
    AL_CHECK(cudaMalloc(&group->token, sizeof *group->token));
    AL_CHECK(cudaMemset(group->token, 0, sizeof *group->token));
    *out = group.release();
    return AL_OK;
  });
}

al_status al_group_connect(al_group* group, const void* blobs, int64_t bytes) {
  const int64_t expected = kBlobBytes * group->world_size;
  if (bytes != expected)
    return al_fail(AL_INVALID_ARGUMENT, "blobs have %lld bytes, expected %lld",
                   static_cast<long long>(bytes),
                   static_cast<long long>(expected));
  return al_guard([&]() -> al_status {
    const atomloss::CurrentDevice current(group->device->ordinal);
    std::lock_guard<std::mutex> lock(group->calling);
    ncclUniqueId id;  // that of rank 0
    memcpy(&id, blobs, sizeof id);
    const char* const first = static_cast<const char*>(blobs) + sizeof id;
    for (int32_t i = 0; i < group->world_size; ++i)
      group->roll_call->meet(i, first + i * kBlobBytes);
    const std::string what = "connect";
    group->roll_call->enter(group->calls++, what,
                            atomloss::hash_bytes(what.data(), what.size()));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // so that a replica that never comes cannot hold us
    group->hand_over(what, [&] {
      return ncclCommInitRankConfig(&group->communicator, group->world_size, id,
                                    group->rank, &config);
    });
    group->roll_call->leave();
    std::lock_guard<std::mutex> state(group->mutex);
    group->finished = false;
    group->watchdog = std::thread([group] { group->watch(); });
    return AL_OK;
  });
}

al_status al_group_close(al_group* group) {
  return al_guard([&]() -> al_status {
    const atomloss::CurrentDevice current(group->device->ordinal);
    {
      std::lock_guard<std::mutex> lock(group->mutex);
      group->closing = true;
      group->changed.notify_all();
    }
    // It ends when nothing is under way: at the latest after the timeout.
    if (group->watchdog.joinable()) group->watchdog.join();
    // From here on nobody else has the group.
    group->finished = true;
    if (group->communicator != nullptr) {
      try {
        // Peers may still be receiving what this rank sent: not by abort.
        group->hand_over("close",
                         [&] { return ncclCommFinalize(group->communicator); });
        ncclCommDestroy(group->communicator);
      } catch (const al_error&) {
        // It was broken before, or has been aborted: it is to go all the same.
        if (group->communicator != nullptr) ncclCommAbort(group->communicator);
      }
    }
    for (Slot& slot : group->slots) {
      cudaEventSynchronize(slot.ready);
      cudaEventSynchronize(slot.read);
      cudaEventDestroy(slot.ready);
      cudaEventDestroy(slot.read);
      cudaFree(slot.counts);
    }
    for (cudaEvent_t event : group->events) cudaEventDestroy(event);
    cudaFree(group->token);
    cudaFree(group->records);
    cudaGetLastError();
    delete group;
    return AL_OK;
  });
}

al_status al_all_reduce(al_group* group, int32_t dtype, int32_t op,
                        int32_t count, void* const* buffers,
                        const int64_t* sizes) {
  if (op < AL_SUM || op > AL_MIN)
    return al_fail(AL_INVALID_ARGUMENT, "there is no reduction %d", op);
  if (op == AL_AVG && (dtype == AL_INT32 || dtype == AL_INT64))
    return al_fail(AL_INVALID_ARGUMENT, "avg needs a floating dtype");
  return al_guard([&]() -> al_status {
    const ncclDataType_t type = nccl_type(dtype);
    const atomloss::CurrentDevice current(group->device->ordinal);
    std::lock_guard<std::mutex> lock(group->calling);
    int64_t total = 0;
    for (int32_t i = 0; i < count; ++i) total += sizes[i];
    const auto is_taken = [](ncclResult_t code) {
      return code == ncclSuccess || code == ncclInProgress;
    };
    const auto reduce = [&] {
      ncclResult_t code = ncclGroupStart();
      if (code != ncclSuccess) return code;
      for (int32_t i = 0; i < count && is_taken(code); ++i)
        code = ncclAllReduce(buffers[i], buffers[i],
                             static_cast<size_t>(sizes[i]), type, nccl_op(op),
                             group->communicator, group->device->transfer);
      // In any case: a group left open would swallow all later collectives.
      const ncclResult_t end = ncclGroupEnd();
      return is_taken(code) ? end : code;
    };
    group->enqueue(atomloss::describe_all_reduce(dtype, op, count, total),
                   Order::kBetween, reduce,
                   atomloss::hash_bytes(
                       sizes, static_cast<size_t>(count) * sizeof *sizes));
    return AL_OK;
  });
}

al_status al_broadcast(al_group* group, void* buffer, int64_t bytes,
                       int32_t root) {
  return al_guard([&]() -> al_status {
    const atomloss::CurrentDevice current(group->device->ordinal);
    std::lock_guard<std::mutex> lock(group->calling);
    group->enqueue("broadcast of " + std::to_string(bytes) +
                       " bytes from rank " + std::to_string(root),
                   Order::kBetween, [&] {
                     return ncclBroadcast(
                         buffer, buffer, static_cast<size_t>(bytes), ncclInt8,
                         root, group->communicator, group->device->transfer);
                   });
    return AL_OK;
  });
}

al_status al_count_all_reduce(al_group* group, int32_t n, const int64_t* counts,
                              const int64_t* device_counts, int64_t* ticket) {
  if (n < 0 || n > atomloss::kMaxTasks)
    return al_fail(AL_INVALID_ARGUMENT, "%d counts, expected at most %d", n,
                   atomloss::kMaxTasks);
  return al_guard([&]() -> al_status {
    al_device* device = group->device;
    const atomloss::CurrentDevice current(device->ordinal);
    std::lock_guard<std::mutex> lock(group->calling);
    Slot& slot = group->take_slot(ticket);
    // Behind the reader of what this slot held before. Counts of the host wait
    // for nothing else, those of the device for what computes them.
    AL_CHECK(cudaStreamWaitEvent(device->transfer, slot.read, 0));
    const Order order = counts ? Order::kApart : Order::kBehindCompute;
    group->enqueue(
        "all_reduce of " + std::to_string(n) + " sample counts", order,
        [&] {
          for (int32_t i = 0; counts && i < n; i += kMaxCounts) {
            Counts argument = {};
            const int32_t some = std::min(kMaxCounts, n - i);
            std::copy(counts + i, counts + i + some, argument.values);
            atomloss::launch_kernel(write_counts, 1, kMaxCounts,
                                    device->transfer, argument, some,
                                    slot.counts + i);
          }
          if (!counts)
            AL_CHECK(
                cudaMemcpyAsync(slot.counts, device_counts,
                                static_cast<size_t>(n) * sizeof *device_counts,
                                cudaMemcpyDeviceToDevice, device->transfer));
        },
        [&] {
          return ncclAllReduce(slot.counts, slot.counts, static_cast<size_t>(n),
                               ncclInt64, ncclSum, group->communicator,
                               device->transfer);
        });
    AL_CHECK(cudaEventRecord(slot.ready, device->transfer));
    slot.taken = true;
    return AL_OK;
  });
}

al_status al_count_totals(al_device* device, al_group* group, int64_t ticket,
                          int32_t n, const int64_t* device_counts,
                          double minimum, double* totals) {
  return al_guard([&]() -> al_status {
    const atomloss::CurrentDevice current(device->ordinal);
    const int blocks = (n + kMaxCounts - 1) / kMaxCounts;
    const auto launch = [&](const int64_t* sums) {
      if (n == 0) return;
      atomloss::launch_kernel(read_counts, blocks, kMaxCounts, device->compute,
                              sums, n, minimum, totals);
    };
    if (group == nullptr) {
      launch(device_counts);
      return AL_OK;
    }
    std::lock_guard<std::mutex> lock(group->calling);
    Slot& slot = group->taken_slot(ticket);
    AL_CHECK(cudaStreamWaitEvent(device->compute, slot.ready, 0));
    launch(slot.counts);
    AL_CHECK(cudaEventRecord(slot.read, device->compute));
    slot.taken = false;
    return AL_OK;
  });
}

al_status al_barrier(al_group* group) {
  return al_guard([&]() -> al_status {
    al_device* device = group->device;
    const atomloss::CurrentDevice current(device->ordinal);
    {
      std::lock_guard<std::mutex> lock(group->calling);
      group->enqueue("barrier", Order::kBetween, [&] {
        return ncclAllReduce(group->token, group->token, 1, ncclInt32, ncclSum,
                             group->communicator, device->transfer);
      });
    }
    return al_synchronize(device);
  });
}
