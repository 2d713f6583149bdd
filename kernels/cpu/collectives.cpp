/**
 * Collectives between processes on CPUs, by Gloo over TCP.
 *
 * A collective holds its caller until it is done, its timeout has passed or a
 * peer's connection breaks. After that the group is broken: messages of the
 * failed collective may still be under way, so every later one fails at once.
 *
 * Messages find their collective by a tag. It holds what the call is besides
 * its number, so replicas that disagree (on sizes, dtype, operation or order)
 * time out; with the same tag Gloo would end the process on a message that is
 * larger than its buffer. In debug mode they compare their calls beforehand.
 */
#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/math.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "device.h"
#include "mesh.h"
#include "shared/call.h"
#include "shared/dispatch.h"
#include "shared/divisors.h"
#include "shared/half.h"
#include "shared/roll_call.h"
#include "shared/status.h"

using namespace atomloss;

namespace {

/** How long a replica that fails waits for what the others say. */
constexpr auto kPatience = std::chrono::milliseconds(1000);

/** Of the `number`-th call of a group. Ranks are never many calls apart. */
uint32_t tag_of(const Call& call, uint32_t number) {
  const uint64_t hash = call.hash();
  return (number & 0xfff) << 20 |
         static_cast<uint32_t>((hash ^ hash >> 20 ^ hash >> 40) & 0xfffff);
}

}  // namespace

struct al_group {
  al_device* device; /* may be closed before */
  int32_t rank, world_size;
  int64_t timeout_ms;
  bool debug;
  std::shared_ptr<atomloss::CollectiveLog> log;
  std::unique_ptr<atomloss::RollCall> roll_call;
  std::shared_ptr<Mesh> context;
  std::mutex mutex;          // barrier and connect come from other threads
  std::string broken;        // why, once a collective has failed
  uint32_t calls = 0;        // collectives so far
  std::vector<char> packed;  // several buffers as one, kept between calls
  std::map<int64_t, std::vector<double>> counts;  // that nobody has taken yet
  int64_t next_ticket = 1;

  /** Runs a collective with its tag. *origin is that of what it reduces, and
   * then of its result; nullptr: nobody reads it. */
  template <class F>
  al_status run(const Call& call, double* origin, F&& collective) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!broken.empty())
      return al_fail(AL_COLLECTIVE_FAILED,
                     "%s on rank %d of %d: the group is broken since %s",
                     call.text().c_str(), rank, world_size, broken.c_str());
    const uint32_t number = calls++;
    roll_call->enter(number, call);
    double result = AL_ORIGIN_NONE;
    try {
      result = log->begin(origin ? *origin : AL_ORIGIN_NONE);
      if (debug) {
        const std::string others = disagreement(call, number);
        if (!others.empty()) {
          broken = call.text() + ", on which replicas disagreed";
          return al_fail(AL_COLLECTIVE_FAILED,
                         "replicas disagree: call %u of rank %d of %d is %s; "
                         "%s",
                         number, rank, world_size, call.text().c_str(),
                         others.c_str());
        }
      }
      if (origin) *origin = result;  // whatever becomes of it
      collective(tag_of(call, number));
      roll_call->leave();
      return AL_OK;
    } catch (const al_error&) {
      broken = call.text() + ", of what is lost";
      throw;
    } catch (const std::bad_alloc&) {
      broken = call.text() + " ran out of memory";
      log->fail(result, AL_COLLECTIVE_FAILED, broken);
      throw;
    } catch (const std::exception& error) {  // Gloo's have no other parent
      const auto [code, text] = explain(call, error.what());
      log->fail(result, code, text);
      return al_fail(code, "%s", text.c_str());
    }
  }

  /** Why a collective has failed; names the ranks behind it. */
  std::pair<al_status_code, std::string> explain(const Call& call,
                                                 const char* why) {
    const bool late = strstr(why, "imed out") || strstr(why, "imeout");
    const std::string text = call.text();
    broken = text + (late ? " timed out" : " failed");
    const std::string here = text + " on rank " + std::to_string(rank) +
                             " of " + std::to_string(world_size);
    const std::string ms = std::to_string(timeout_ms) + " ms";
    if (late) {  // Gloo has closed every connection by now
      const auto asked = std::chrono::steady_clock::now();
      const std::string others = roll_call->ask(kPatience).text;
      // Those whose timeout comes a little later ask this one.
      std::this_thread::sleep_until(asked + kPatience);
      return {AL_TIMEOUT,
              here + " timed out after " + ms + ": " +
                  (others.empty()
                       ? "all replicas are in this call, and do not get on"
                       : others) +
                  " (call " + std::to_string(calls - 1) +
                  " here; Gloo: " + why + ")"};
    }
    const std::vector<int> lost = context->lost();
    std::string ranks;
    for (const int peer : lost)
      ranks += (ranks.empty() ? "" : ", ") + std::to_string(peer);
    const std::string others = roll_call->ask(kPatience / 2).text;
    return {AL_COLLECTIVE_FAILED, here + " failed, timeout " + ms +
                                      ": no connection any more to " + "rank " +
                                      ranks + (others.empty() ? "" : "; ") +
                                      others + " (Gloo: " + why + ")"};
  }

  /** Compares a call with those of the others; says how they differ. */
  std::string disagreement(const Call& call, uint32_t number) {
    std::vector<CallRecord> records(static_cast<size_t>(world_size));
    CallRecord mine(call);
    gloo::AllgatherOptions options(context);
    options.setInput(reinterpret_cast<char*>(&mine), sizeof mine);
    options.setOutput(reinterpret_cast<char*>(records.data()),
                      records.size() * sizeof mine);
    Call check;  // the same whatever the replicas are about to do
    options.setTag(tag_of(check, number));
    gloo::allgather(options);
    return describe_others(records.data(), world_size, rank);
  }
};

namespace {

template <class T>
bool is_nan(T x) {
  return x != x;  // NOLINT(misc-redundant-expression): only a NaN is
}

/** c[i] = choose(a[i], b[i]); c is one of the two. */
template <class T, class F>
void combine(void* c, const void* a, const void* b, size_t n, F&& choose) {
  for (size_t i = 0; i < n; ++i)
    static_cast<T*>(c)[i] =
        choose(static_cast<const T*>(a)[i], static_cast<const T*>(b)[i]);
}

/**
 * Element-wise reduction in the type that is sent. Of a NaN and a number the
 * larger, and the smaller, is the NaN: of Gloo's own it is the first or the
 * second, which differs from element to element.
 */
template <class T>
gloo::AllreduceOptions::Func reduction(int32_t op) {
  switch (op) {
    case AL_MAX:
      return [](void* c, const void* a, const void* b, size_t n) {
        combine<T>(c, a, b, n,
                   [](T x, T y) { return x > y || is_nan(x) ? x : y; });
      };
    case AL_MIN:
      return [](void* c, const void* a, const void* b, size_t n) {
        combine<T>(c, a, b, n,
                   [](T x, T y) { return x < y || is_nan(x) ? x : y; });
      };
    default:
      return [](void* c, const void* a, const void* b, size_t n) {
        gloo::sum<T>(c, a, b, n);
      };
  }
}

/**
 * A power of two that is at least n. Numbers that are divided by it before they
 * are added have the digits that they have without, and no sum of n of them is
 * larger than the largest number.
 */
double power_of_two_from(int n) {
  double power = 1;
  while (power < n) power *= 2;
  return power;
}

template <class T>
void all_reduce(al_group* group, uint32_t tag, int32_t op, T* data, int64_t n) {
  const double power = power_of_two_from(group->world_size);
  if constexpr (std::is_floating_point_v<T>) {
    const T scale = static_cast<T>(1 / power);
    for (int64_t i = 0; op == AL_AVG && i < n; ++i) data[i] *= scale;
  }
  // Gloo asks for at least one element; an empty collective still keeps step.
  T nothing = 0;
  gloo::AllreduceOptions options(group->context);
  options.setAlgorithm(gloo::AllreduceOptions::Algorithm::RING);
  options.setOutput(n > 0 ? data : &nothing,
                    static_cast<size_t>(std::max<int64_t>(n, 1)));
  options.setReduceFunction(reduction<T>(op));
  options.setTag(tag);
  gloo::allreduce(options);
  if constexpr (std::is_floating_point_v<T>) {
    if (op == AL_AVG) {
      const T rest = static_cast<T>(group->world_size / power);
      for (int64_t i = 0; i < n; ++i) data[i] /= rest;
    }
  }
}

/** Buffers of storage type S, sent as T. */
template <class S, class T>
al_status all_reduce_buffers(al_group* group, const Call& call, int32_t op,
                             int32_t count, void* const* buffers,
                             const int64_t* sizes, int64_t total,
                             double* origin) {
  return group->run(call, origin, [&](uint32_t tag) {
    if constexpr (std::is_same_v<S, T>) {
      if (count == 1) {
        all_reduce(group, tag, op, static_cast<T*>(buffers[0]), total);
        return;
      }
    }
    group->packed.resize(static_cast<size_t>(total) * sizeof(T));
    T* const packed = reinterpret_cast<T*>(group->packed.data());
    T* next = packed;
    for (int32_t i = 0; i < count; next += sizes[i++]) {
      const S* from = static_cast<const S*>(buffers[i]);
      if constexpr (std::is_same_v<S, T>) {
        memcpy(next, from, static_cast<size_t>(sizes[i]) * sizeof(T));
      } else {
        load_block(from, sizes[i], next);
      }
    }
    all_reduce(group, tag, op, packed, total);
    next = packed;
    for (int32_t i = 0; i < count; next += sizes[i++]) {
      S* to = static_cast<S*>(buffers[i]);
      if constexpr (std::is_same_v<S, T>) {
        memcpy(to, next, static_cast<size_t>(sizes[i]) * sizeof(T));
      } else {
        store_block(next, sizes[i], to);
      }
    }
  });
}

}  // namespace

al_status al_group_open(al_device* device, int32_t rank, int32_t world_size,
                        const char* address, int64_t timeout_ms, void* blob,
                        int64_t capacity, int64_t* blob_bytes, int32_t debug,
                        al_group** group) {
  if (world_size < 2 || rank < 0 || rank >= world_size || timeout_ms < 1)
    return al_fail(AL_INVALID_ARGUMENT,
                   "rank %d of %d, timeout %lld ms: no place in a group", rank,
                   world_size, static_cast<long long>(timeout_ms));
  *blob_bytes = Mesh::blob_bytes(world_size) + RollCall::kBlobBytes;
  if (*blob_bytes > capacity)
    return al_fail(AL_INVALID_ARGUMENT, "a blob of %lld bytes needs %lld",
                   static_cast<long long>(capacity),
                   static_cast<long long>(*blob_bytes));
  return al_guard([&]() -> al_status {
    try {
      auto opened = std::make_unique<al_group>();
      opened->device = device;
      opened->rank = rank;
      opened->world_size = world_size;
      opened->timeout_ms = timeout_ms;
      opened->debug = debug != 0;
      opened->log = device->collectives;
      opened->roll_call = std::make_unique<RollCall>(rank, world_size, address);
      opened->context = std::make_shared<Mesh>(
          rank, world_size, address, std::chrono::milliseconds(timeout_ms));
      char* const slots = static_cast<char*>(blob);
      opened->context->publish(slots);
      opened->roll_call->publish(slots + Mesh::blob_bytes(world_size));
      *group = opened.release();
      return AL_OK;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      return al_fail(AL_COLLECTIVE_FAILED, "Gloo cannot listen on %s: %s",
                     address, error.what());
    }
  });
}

al_status al_group_connect(al_group* group, const void* blobs, int64_t bytes) {
  const int64_t blob_bytes =
      Mesh::blob_bytes(group->world_size) + RollCall::kBlobBytes;
  const int64_t expected = group->world_size * blob_bytes;
  if (bytes != expected)
    return al_fail(AL_INVALID_ARGUMENT, "blobs have %lld bytes, expected %lld",
                   static_cast<long long>(bytes),
                   static_cast<long long>(expected));
  return al_guard([&] {
    const char* const all = static_cast<const char*>(blobs);
    for (int32_t i = 0; i < group->world_size; ++i)
      group->roll_call->meet(i,
                             all + (i + 1) * blob_bytes - RollCall::kBlobBytes);
    // Before there are connections there is nothing to compare calls by.
    const bool debug = std::exchange(group->debug, false);
    const al_status failed =
        group->run(Call::connect(), nullptr,
                   [&](uint32_t) { group->context->connect(all, blob_bytes); });
    group->debug = debug;
    return failed;
  });
}

al_status al_group_close(al_group* group) {
  return al_guard([&] {
    // Not by closeConnections(), which resets them: what the peers have yet to
    // receive of the last collective would be lost. The system goes on sending,
    // so a peer that hangs does not hold us.
    delete group;
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
  if (dtype < AL_FLOAT32 || dtype > AL_INT64)
    return al_fail(AL_INVALID_ARGUMENT, "dtype %d cannot be reduced", dtype);
  if (op == AL_AVG && (dtype == AL_INT32 || dtype == AL_INT64))
    return al_fail(AL_INVALID_ARGUMENT, "avg needs a floating dtype");
  if (count < 0)
    return al_fail(AL_INVALID_ARGUMENT, "%d buffers to reduce", count);
  return al_guard([&]() -> al_status {
    int64_t total = 0;
    for (int32_t i = 0; i < count; ++i) {
      if (sizes[i] < 0 || __builtin_add_overflow(total, sizes[i], &total))
        return al_fail(AL_INVALID_ARGUMENT, "buffer %d has %lld elements", i,
                       static_cast<long long>(sizes[i]));
    }
    const Call call = Call::all_reduce(dtype, op, count, sizes);
    const auto reduce = [&](auto stored, auto sent) {
      using S = typename decltype(stored)::type;
      using T = typename decltype(sent)::type;
      return all_reduce_buffers<S, T>(group, call, op, count, buffers, sizes,
                                      total, origin);
    };
    switch (dtype) {
      case AL_INT32:
        return reduce(Type<int32_t>(), Type<int32_t>());
      case AL_INT64:
        return reduce(Type<int64_t>(), Type<int64_t>());
    }
    return with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      return reduce(type, Type<compute_t<S>>());
    });
  });
}

al_status al_broadcast(al_group* group, void* buffer, int64_t bytes,
                       int32_t root, double* origin) {
  AL_RECORD(group->device, al_broadcast, group, buffer, bytes, root, Origin());
  if (root < 0 || root >= group->world_size || bytes < 0)
    return al_fail(AL_INVALID_ARGUMENT,
                   "broadcast of %lld bytes from rank %d of %d",
                   static_cast<long long>(bytes), root, group->world_size);
  return al_guard([&] {
    const Call call = Call::broadcast(bytes, root);
    return group->run(call, origin, [&](uint32_t tag) {
      char nothing = 0;
      gloo::BroadcastOptions options(group->context);
      options.setOutput(bytes > 0 ? static_cast<char*>(buffer) : &nothing,
                        static_cast<size_t>(std::max<int64_t>(bytes, 1)));
      options.setRoot(root);
      options.setTag(tag);
      gloo::broadcast(options);
    });
  });
}

al_status al_count_all_reduce(al_group* group, int32_t n, const double* counts,
                              const double* device_counts, double* origin,
                              int64_t* ticket) {
  AL_RECORD(group->device, al_count_all_reduce, group, n, copies(counts, n),
            device_counts, Origin(), NewTicket{group, ticket});
  if (n < 0) return al_fail(AL_INVALID_ARGUMENT, "%d counts to reduce", n);
  return al_guard([&] {
    const double* mine = counts ? counts : device_counts;
    std::vector<double> sums(mine, mine + n);
    const Call call = Call::counts(n);
    return group->run(call, origin, [&](uint32_t tag) {
      all_reduce(group, tag, AL_SUM, sums.data(), n);
      *ticket = group->next_ticket++;
      group->counts[*ticket] = std::move(sums);
    });
  });
}

al_status al_count_totals(al_device* device, al_group* group, int64_t ticket,
                          int32_t n, const double* device_counts,
                          double minimum, const al_divisor* divisors,
                          double* totals, double* factors) {
  AL_RECORD(device, al_count_totals, device, group, Ticket{group, ticket}, n,
            device_counts, minimum, copies(divisors, n), totals, factors);
  return al_guard([&]() -> al_status {
    std::vector<double> sums;
    if (group) {
      std::lock_guard<std::mutex> lock(group->mutex);
      const auto found = group->counts.find(ticket);
      if (found == group->counts.end() ||
          found->second.size() != static_cast<size_t>(n))
        return al_fail(AL_INVALID_ARGUMENT, "no %d counts have the ticket %lld",
                       n, static_cast<long long>(ticket));
      sums = std::move(found->second);
      group->counts.erase(found);
    } else {
      sums.assign(device_counts, device_counts + n);
    }
    std::copy(sums.begin(), sums.end(), totals);
    for (int32_t i = 0; i < n; ++i)
      write_factors(divisors, minimum, totals, i, factors);
    return AL_OK;
  });
}

al_status al_count_drop(al_group* group, int64_t ticket) {
  return al_guard([&]() -> al_status {
    std::lock_guard<std::mutex> lock(group->mutex);
    if (group->counts.erase(ticket) == 0)
      return al_fail(AL_INVALID_ARGUMENT, "no counts have the ticket %lld",
                     static_cast<long long>(ticket));
    return AL_OK;
  });
}

al_status al_barrier(al_group* group) {
  return al_guard([&] {
    return group->run(Call::barrier(), nullptr, [&](uint32_t tag) {
      gloo::BarrierOptions options(group->context);
      options.setTag(tag);
      gloo::barrier(options);
    });
  });
}
