/**
 * Collectives between processes on CPUs, by Gloo over TCP.
 *
 * Every rank opens one socket address per peer and publishes them; with the
 * addresses that the peers made for it, it connects to each (a full mesh, as
 * gloo::rendezvous::Context does with a store of its own). A collective holds
 * its caller until it is done, its timeout has passed or a peer's connection
 * breaks. After that the group is broken: messages of the failed collective may
 * still be under way, so every later one fails at once.
 */
#include <gloo/allreduce.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/common/error.h>
#include <gloo/context.h>
#include <gloo/math.h>
#include <gloo/transport/address.h>
#include <gloo/transport/context.h>
#include <gloo/transport/tcp/device.h>

#include <cstring>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "dispatch.h"
#include "half.h"
#include "status.h"

using namespace atomloss;

namespace {

/** Space for one address in a blob, behind its length. */
constexpr int64_t kAddressBytes = gloo::transport::Address::kMaxByteSize;
constexpr int64_t kSlotBytes = sizeof(int64_t) + kAddressBytes;

/** A Gloo context whose connections are made in two steps. */
class MeshContext : public gloo::Context {
 public:
  MeshContext(int rank, int size, const char* address,
              std::chrono::milliseconds timeout)
      : gloo::Context(rank, size) {
    gloo::transport::tcp::attr attr;
    attr.hostname = address;
    device_ = gloo::transport::tcp::CreateDevice(attr);
    setTimeout(timeout);
    transportContext_ = device_->createContext(rank, size);
    transportContext_->setTimeout(timeout);
    for (int peer = 0; peer < size; ++peer)
      if (peer != rank) transportContext_->createPair(peer);
  }

  /** This rank's addresses, a slot for each peer. */
  void publish(char* blob) {
    memset(blob, 0, static_cast<size_t>(size * kSlotBytes));
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      const std::vector<char> bytes =
          transportContext_->getPair(peer)->address().bytes();
      const auto length = static_cast<int64_t>(bytes.size());
      if (length > kAddressBytes) throw std::length_error("address too long");
      memcpy(blob + peer * kSlotBytes, &length, sizeof length);
      memcpy(blob + peer * kSlotBytes + sizeof length, bytes.data(),
             bytes.size());
    }
  }

  /** Connects to the address that each peer has for this rank. */
  void connect(const char* blobs) {
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      const char* slot = blobs + (int64_t{peer} * size + rank) * kSlotBytes;
      int64_t length;
      memcpy(&length, slot, sizeof length);
      if (length <= 0 || length > kAddressBytes)
        throw std::length_error("malformed address of rank " +
                                std::to_string(peer));
      const char* bytes = slot + sizeof length;
      transportContext_->getPair(peer)->connect(
          std::vector<char>(bytes, bytes + length));
    }
  }
};

}  // namespace

struct al_group {
  int32_t rank, world_size;
  int64_t timeout_ms;
  std::shared_ptr<MeshContext> context;
  std::mutex mutex;          // barrier and connect come from other threads
  std::string broken;        // why, once a collective has failed
  uint32_t tag = 0;          // of the next collective
  std::vector<char> packed;  // several buffers as one, kept between calls

  /** Runs a collective; what names it in an error. */
  template <class F>
  al_status run(const std::string& what, F&& collective) {
    return al_guard([&]() -> al_status {
      std::lock_guard<std::mutex> lock(mutex);
      if (!broken.empty())
        return al_fail(AL_COLLECTIVE_FAILED,
                       "%s on rank %d of %d: the group is broken since %s",
                       what.c_str(), rank, world_size, broken.c_str());
      try {
        collective(tag++);
        return AL_OK;
      } catch (const gloo::IoException& error) {
        const bool late = strstr(error.what(), "imed out") != nullptr;
        broken = what + (late ? " timed out" : " failed");
        return al_fail(late ? AL_TIMEOUT : AL_COLLECTIVE_FAILED,
                       "%s on rank %d of %d %s %lld ms: %s (Gloo: %s)",
                       what.c_str(), rank, world_size,
                       late ? "timed out after" : "failed, timeout",
                       static_cast<long long>(timeout_ms),
                       late ? "a replica hangs, or does not make the same call"
                            : "a replica is gone",
                       error.what());
      }
    });
  }
};

namespace {

/** Element-wise reduction in the type that is sent. */
template <class T>
gloo::AllreduceOptions::Func reduction(int32_t op) {
  switch (op) {
    case AL_MAX:
      return [](void* c, const void* a, const void* b, size_t n) {
        gloo::max<T>(c, a, b, n);
      };
    case AL_MIN:
      return [](void* c, const void* a, const void* b, size_t n) {
        gloo::min<T>(c, a, b, n);
      };
    default:
      return [](void* c, const void* a, const void* b, size_t n) {
        gloo::sum<T>(c, a, b, n);
      };
  }
}

template <class T>
void all_reduce(al_group* group, uint32_t tag, int32_t op, T* data, int64_t n) {
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
      const T count = static_cast<T>(group->world_size);
      for (int64_t i = 0; i < n; ++i) data[i] /= count;
    }
  }
}

/** Buffers of storage type S, sent as T. */
template <class S, class T>
al_status all_reduce_buffers(al_group* group, const std::string& what,
                             int32_t op, int32_t count, void* const* buffers,
                             const int64_t* sizes) {
  int64_t total = 0;
  for (int32_t i = 0; i < count; ++i) total += sizes[i];
  return group->run(what, [&](uint32_t tag) {
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

al_status al_group_open(al_device*, int32_t rank, int32_t world_size,
                        const char* address, int64_t timeout_ms, void* blob,
                        int64_t capacity, int64_t* blob_bytes,
                        al_group** group) {
  if (world_size < 2 || rank < 0 || rank >= world_size)
    return al_fail(AL_INVALID_ARGUMENT, "rank %d of %d is no place in a group",
                   rank, world_size);
  *blob_bytes = world_size * kSlotBytes;
  if (*blob_bytes > capacity)
    return al_fail(AL_INVALID_ARGUMENT, "a blob of %lld bytes needs %lld",
                   static_cast<long long>(capacity),
                   static_cast<long long>(*blob_bytes));
  return al_guard([&]() -> al_status {
    try {
      auto opened = std::make_unique<al_group>();
      opened->rank = rank;
      opened->world_size = world_size;
      opened->timeout_ms = timeout_ms;
      opened->context = std::make_shared<MeshContext>(
          rank, world_size, address, std::chrono::milliseconds(timeout_ms));
      opened->context->publish(static_cast<char*>(blob));
      *group = opened.release();
      return AL_OK;
    } catch (const gloo::Exception& error) {
      return al_fail(AL_COLLECTIVE_FAILED, "Gloo cannot listen on %s: %s",
                     address, error.what());
    }
  });
}

al_status al_group_connect(al_group* group, const void* blobs, int64_t bytes) {
  const int64_t expected =
      int64_t{group->world_size} * group->world_size * kSlotBytes;
  if (bytes != expected)
    return al_fail(AL_INVALID_ARGUMENT, "blobs have %lld bytes, expected %lld",
                   static_cast<long long>(bytes),
                   static_cast<long long>(expected));
  return group->run("connect", [&](uint32_t) {
    group->context->connect(static_cast<const char*>(blobs));
  });
}

al_status al_group_close(al_group* group) {
  return al_guard([&] {
    // Sockets are closed, never drained: a peer that hangs must not hold us.
    group->context->closeConnections();
    delete group;
    return AL_OK;
  });
}

al_status al_all_reduce(al_group* group, int32_t dtype, int32_t op,
                        int32_t count, void* const* buffers,
                        const int64_t* sizes) {
  const std::string what = "all_reduce of " + std::to_string(count) +
                           (count == 1 ? " tensor" : " tensors");
  const auto reduce = [&](auto stored, auto sent) {
    using S = typename decltype(stored)::type;
    using T = typename decltype(sent)::type;
    return all_reduce_buffers<S, T>(group, what, op, count, buffers, sizes);
  };
  if (op == AL_AVG && (dtype == AL_INT32 || dtype == AL_INT64))
    return al_fail(AL_INVALID_ARGUMENT, "avg needs a floating dtype");
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
}

al_status al_broadcast(al_group* group, void* buffer, int64_t bytes,
                       int32_t root) {
  return group->run(
      "broadcast from rank " + std::to_string(root), [&](uint32_t tag) {
        char nothing = 0;
        gloo::BroadcastOptions options(group->context);
        options.setOutput(bytes > 0 ? static_cast<char*>(buffer) : &nothing,
                          static_cast<size_t>(std::max<int64_t>(bytes, 1)));
        options.setRoot(root);
        options.setTag(tag);
        gloo::broadcast(options);
      });
}

al_status al_count_all_reduce(al_group* group, int32_t n, const int64_t* counts,
                              double* totals) {
  return group->run("all_reduce of the sample counts", [&](uint32_t tag) {
    std::vector<int64_t> sums(counts, counts + n);
    all_reduce(group, tag, AL_SUM, sums.data(), n);
    for (int32_t i = 0; i < n; ++i) totals[i] = static_cast<double>(sums[i]);
  });
}

al_status al_barrier(al_group* group) {
  return group->run("barrier", [&](uint32_t tag) {
    gloo::BarrierOptions options(group->context);
    options.setTag(tag);
    gloo::barrier(options);
  });
}
