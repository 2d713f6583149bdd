/**
 * Collectives between GPUs, by NCCL: what the ABI's functions enqueue. They run
 * on the stream of their group and are joined to the compute stream of the
 * device by events; group.cuh says who looks after them.
 */
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "cuda/closing.h"
#include "cuda/group.cuh"
#include "cuda/ordered_keys.cuh"
#include "cuda/scoped_block.cuh"
#include "shared/dispatch.h"
#include "shared/divisors.h"

using namespace atomloss;

namespace {

/** Counts that a kernel takes as its argument. */
constexpr int kMaxCounts = 256;

/* ---- kernels -------------------------------------------------------------*/

/** Counts as a kernel's argument: no copy from the host, nothing to keep. */
struct Counts {
  double values[kMaxCounts];
};

__global__ void write_counts(const __grid_constant__ Counts counts, int n,
                             double* out) {
  if (threadIdx.x < n) out[threadIdx.x] = counts.values[threadIdx.x];
}

__global__ void write_totals(const double* sums, int n, double minimum,
                             const al_divisor* divisors, double* totals,
                             double* factors) {
  const int i = blockIdx.x * kMaxCounts + threadIdx.x;
  if (i >= n) return;
  totals[i] = sums[i];
  write_factors(divisors, minimum, sums, i, factors);
}

/* ---- arguments -----------------------------------------------------------*/

/** An id and where to ask. */
constexpr int64_t kBlobBytes = sizeof(ncclUniqueId) + RollCall::kBlobBytes;

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

/* ---- all-reduce ----------------------------------------------------------*/

/** In place, of all buffers as one collective. */
ncclResult_t all_reduce(al_group* group, ncclDataType_t type, int32_t op,
                        int32_t count, void* const* buffers,
                        const int64_t* sizes) {
  const auto is_taken = [](ncclResult_t code) {
    return code == ncclSuccess || code == ncclInProgress;
  };
  ncclResult_t code = ncclGroupStart();
  if (code != ncclSuccess) return code;
  for (int32_t i = 0; i < count && is_taken(code); ++i)
    code = ncclAllReduce(buffers[i], buffers[i], static_cast<size_t>(sizes[i]),
                         type, nccl_op(op), group->communicator, group->stream);
  // In any case: a group left open would swallow all later collectives.
  const ncclResult_t end = ncclGroupEnd();
  return is_taken(code) ? end : code;
}

/** The largest or smallest, which is NaN if any is. */
template <class S>
void reduce_by_keys(al_group* group, const Call& call, int32_t op,
                    int32_t count, void* const* buffers, const int64_t* sizes,
                    int64_t total, double* origin) {
  using Key = OrderedKey<S>;
  al_device* const device = group->device.get();
  const ScopedBlock block(device, total * static_cast<int64_t>(sizeof(Key)));
  Key* const keys = static_cast<Key*>(block.memory());
  Key* next = keys;
  for (int32_t i = 0; i < count; next += sizes[i++])
    if (sizes[i] > 0)
      launch_keys(to_keys<S>, sizes[i], device->compute,
                  static_cast<const S*>(buffers[i]), sizes[i], op == AL_MAX,
                  next);
  void* const sent = keys;
  group->enqueue(call, Order::kBetween, origin, [&] {
    return all_reduce(group, sizeof(Key) == 8 ? ncclInt64 : ncclInt32, op, 1,
                      &sent, &total);
  });
  next = keys;
  for (int32_t i = 0; i < count; next += sizes[i++])
    if (sizes[i] > 0)
      launch_keys(from_keys<S>, sizes[i], device->compute,
                  static_cast<const Key*>(next), sizes[i],
                  static_cast<S*>(buffers[i]));
}

}  // namespace

/* ---- ABI -----------------------------------------------------------------*/

al_status al_group_open(al_device* device, int32_t rank, int32_t world_size,
                        const char* address, int64_t timeout_ms, void* blob,
                        int64_t capacity, int64_t* blob_bytes, int32_t debug,
                        al_group** out) {
  if (world_size < 2 || rank < 0 || rank >= world_size || timeout_ms < 1)
    return al_fail(AL_INVALID_ARGUMENT,
                   "rank %d of %d, timeout %lld ms: no place in a group", rank,
                   world_size, static_cast<long long>(timeout_ms));
  *blob_bytes = kBlobBytes;
  if (*blob_bytes > capacity)
    return al_fail(AL_INVALID_ARGUMENT, "a blob of %lld bytes needs %lld",
                   static_cast<long long>(capacity),
                   static_cast<long long>(*blob_bytes));
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    // All connections in al_group_connect, which has a thread of its own: else
    // the first collective of each kind waits for the peers to make them. NCCL
    // reads that from the environment alone: ncclConfig_t has no field for it.
    setenv("NCCL_RUNTIME_CONNECT", "0", 0);
    memset(blob, 0, kBlobBytes);
    if (rank == 0) AL_CHECK(ncclGetUniqueId(static_cast<ncclUniqueId*>(blob)));
    auto group = std::make_unique<al_group>(device, rank, world_size, address,
                                            timeout_ms, debug != 0);
    group->roll_call.publish(static_cast<char*>(blob) + sizeof(ncclUniqueId));
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
    ncclUniqueId id;  // that of rank 0
    memcpy(&id, blobs, sizeof id);
    const char* const first = static_cast<const char*>(blobs) + sizeof id;
    for (int32_t i = 0; i < group->world_size; ++i)
      group->roll_call.meet(i, first + i * kBlobBytes);
    std::thread([group] {
      group->watch();
      delete group;
      end_closing();
    }).detach();
    group->watched = true;
    group->run(Call::connect(), [&] { group->connect(id); });
    return AL_OK;
  });
}

al_status al_group_close(al_group* group) {
  return al_guard([&]() -> al_status {
    if (!group->watched) {
      const CurrentDevice current(group->device->ordinal);
      delete group;
      return AL_OK;
    }
    begin_closing();
    std::lock_guard<std::mutex> lock(group->mutex);
    group->closing = true;
    group->changed.notify_all();
    return AL_OK;
  });
}

al_status al_all_reduce(al_group* group, int32_t dtype, int32_t op,
                        int32_t count, void* const* buffers,
                        const int64_t* sizes, double* origin) {
  AL_RECORD(group->device, al_all_reduce, group, dtype, op, count,
            copies(buffers, count), copies(sizes, count), Origin());
  if (op < AL_SUM || op > AL_MIN)
    return al_fail(AL_INVALID_ARGUMENT, "there is no reduction %d", op);
  if (op == AL_AVG && (dtype == AL_INT32 || dtype == AL_INT64))
    return al_fail(AL_INVALID_ARGUMENT, "avg needs a floating dtype");
  if (count < 0)
    return al_fail(AL_INVALID_ARGUMENT, "%d buffers to reduce", count);
  int64_t total = 0;
  for (int32_t i = 0; i < count; ++i)
    if (sizes[i] < 0 || __builtin_add_overflow(total, sizes[i], &total))
      return al_fail(AL_INVALID_ARGUMENT, "buffer %d has %lld elements", i,
                     static_cast<long long>(sizes[i]));
  return al_guard([&]() -> al_status {
    const ncclDataType_t type = nccl_type(dtype);
    const Call call = Call::all_reduce(dtype, op, count, sizes);
    group->run(call, [&] {
      if ((op == AL_MAX || op == AL_MIN) && total > 0 && dtype < AL_INT32) {
        with_float_type(dtype, [&](auto stored) {
          using S = typename decltype(stored)::type;
          reduce_by_keys<S>(group, call, op, count, buffers, sizes, total,
                            origin);
          return AL_OK;
        });
        return;
      }
      group->enqueue(call, Order::kBetween, origin, [&] {
        return all_reduce(group, type, op, count, buffers, sizes);
      });
    });
    return AL_OK;
  });
}

al_status al_broadcast(al_group* group, void* buffer, int64_t bytes,
                       int32_t root, double* origin) {
  AL_RECORD(group->device, al_broadcast, group, buffer, bytes, root, Origin());
  if (root < 0 || root >= group->world_size || bytes < 0)
    return al_fail(AL_INVALID_ARGUMENT,
                   "broadcast of %lld bytes from rank %d of %d",
                   static_cast<long long>(bytes), root, group->world_size);
  return al_guard([&]() -> al_status {
    const Call call = Call::broadcast(bytes, root);
    group->run(call, [&] {
      group->enqueue(call, Order::kBetween, origin, [&] {
        return ncclBroadcast(buffer, buffer, static_cast<size_t>(bytes),
                             ncclInt8, root, group->communicator,
                             group->stream);
      });
    });
    return AL_OK;
  });
}

al_status al_count_all_reduce(al_group* group, int32_t n, const double* counts,
                              const double* device_counts, double* origin,
                              int64_t* ticket) {
  AL_RECORD(group->device, al_count_all_reduce, group, n, copies(counts, n),
            device_counts, Origin(), NewTicket{group, ticket});
  if (n < 0 || n > kMaxTotals)
    return al_fail(AL_INVALID_ARGUMENT, "%d counts, expected at most %d", n,
                   kMaxTotals);
  return al_guard([&]() -> al_status {
    const Call call = Call::counts(n);
    group->run(call, [&] {
      cudaStream_t const stream = group->stream;
      CountSlot& slot =
          group->slots.take(n, group->device->compute, stream, ticket);
      double* const sums = slot.counts;
      // Those of the device are copied in its order: the caller may free them.
      if (!counts)
        AL_CHECK(cudaMemcpyAsync(
            sums, device_counts, static_cast<size_t>(n) * sizeof *sums,
            cudaMemcpyDeviceToDevice, group->device->compute));
      const auto write = [&] {
        for (int32_t i = 0; counts && i < n; i += kMaxCounts) {
          Counts argument = {};
          const int32_t some = std::min(kMaxCounts, n - i);
          std::copy(counts + i, counts + i + some, argument.values);
          launch_kernel(write_counts, 1, kMaxCounts, stream, argument, some,
                        sums + i);
        }
      };
      // Counts of the host wait for nothing.
      group->enqueue(call, counts ? Order::kApart : Order::kBehindCompute,
                     origin, &slot, write, [&] {
                       return ncclAllReduce(sums, sums, static_cast<size_t>(n),
                                            ncclFloat64, ncclSum,
                                            group->communicator, stream);
                     });
    });
    return AL_OK;
  });
}

al_status al_count_totals(al_device* device, al_group* group, int64_t ticket,
                          int32_t n, const double* device_counts,
                          double minimum, const al_divisor* divisors,
                          double* totals, double* factors) {
  AL_RECORD(device, al_count_totals, device, group, Ticket{group, ticket}, n,
            device_counts, minimum, copies(divisors, n), totals, factors);
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    ScopedBlock table;  // of what is not divided by a plain count
    if (divisors) {
      const auto bytes = static_cast<int64_t>(sizeof *divisors) * n;
      table = ScopedBlock(device, bytes);
      const al_status failed =
          al_upload(device, table.memory(), divisors, bytes);
      if (failed != AL_OK) return failed;
    }
    const auto launch = [&](const double* sums) {
      if (n == 0) return;
      const int blocks = (n + kMaxCounts - 1) / kMaxCounts;
      launch_kernel(write_totals, blocks, kMaxCounts, device->compute, sums, n,
                    minimum, static_cast<const al_divisor*>(table.memory()),
                    totals, factors);
    };
    if (group == nullptr) {
      launch(device_counts);
      return AL_OK;
    }
    std::lock_guard<std::mutex> lock(group->calling);
    CountSlot& slot = group->slots.taken(ticket);
    if (n != slot.n)
      return al_fail(AL_INVALID_ARGUMENT,
                     "%d counts have the ticket %lld, "
                     "expected %d",
                     slot.n, static_cast<long long>(ticket), n);
    if (const cudaEvent_t arrival = group->arrival(slot))
      AL_CHECK(cudaStreamWaitEvent(device->compute, arrival, 0));
    launch(slot.counts);
    AL_CHECK(cudaEventRecord(slot.read, device->compute));
    group->slots.release(ticket);
    return AL_OK;
  });
}

al_status al_count_drop(al_group* group, int64_t ticket) {
  return al_guard([&]() -> al_status {
    std::lock_guard<std::mutex> lock(group->calling);
    group->slots.release(ticket);
    return AL_OK;
  });
}

al_status al_barrier(al_group* group) {
  return al_guard([&]() -> al_status {
    const Call call = Call::barrier();
    al_device* const device = group->device.get();
    const CurrentDevice current(device->ordinal);
    Event arrived;
    // Apart from the compute stream: a barrier is called from another thread,
    // at a time that differs between replicas. Were it ordered against what
    // they compute, two groups on one device could wait for each other's order.
    group->run(call, [&] {
      arrived = new_event();
      group->enqueue(call, Order::kApart, nullptr, [&] {
        return ncclAllReduce(group->token, group->token, 1, ncclInt32, ncclSum,
                             group->communicator, group->stream);
      });
      AL_CHECK(cudaEventRecord(arrived, group->stream));
    });
    AL_CHECK(cudaEventSynchronize(arrived));
    group->check_unbroken();
    wait_for(device->compute);
    return AL_OK;
  });
}
