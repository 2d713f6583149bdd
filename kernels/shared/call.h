/**
 * A collective as the replicas must agree on it: what they make of it in the
 * roll call, in debug mode and in messages. Its name is made only where it is
 * asked for. Shared by both libraries.
 */
#ifndef ATOMLOSS_CALL_H
#define ATOMLOSS_CALL_H

#include <cstdint>
#include <cstring>
#include <string>

#include "atomloss.h"

namespace atomloss {

/** FNV-1a, going on from `hash`: the same on every machine. */
inline uint64_t hash_bytes(const void* bytes, size_t n,
                           uint64_t hash = 14695981039346656037u) {
  for (size_t i = 0; i < n; ++i)
    hash =
        (hash ^ static_cast<const unsigned char*>(bytes)[i]) * 1099511628211u;
  return hash;
}

struct Call {
  enum Kind : int32_t { kConnect, kAllReduce, kBroadcast, kCounts, kBarrier };

  Kind kind = kConnect;
  int32_t dtype = 0;
  int32_t op = 0;
  int32_t root = 0;
  int64_t count = 0;   /* tensors, or counts */
  int64_t total = 0;   /* elements of all tensors, or bytes */
  uint64_t shares = 0; /* hash of the tensors' sizes */

  static Call connect() { return {}; }

  static Call all_reduce(int32_t dtype, int32_t op, int32_t count,
                         const int64_t* sizes) {
    Call call;
    call.kind = kAllReduce;
    call.dtype = dtype;
    call.op = op;
    call.count = count;
    for (int32_t i = 0; i < count; ++i) call.total += sizes[i];
    call.shares = hash_bytes(sizes, static_cast<size_t>(count) * sizeof *sizes);
    return call;
  }

  static Call broadcast(int64_t bytes, int32_t root) {
    Call call;
    call.kind = kBroadcast;
    call.root = root;
    call.total = bytes;
    return call;
  }

  static Call counts(int32_t n) {
    Call call;
    call.kind = kCounts;
    call.count = n;
    return call;
  }

  static Call barrier() {
    Call call;
    call.kind = kBarrier;
    return call;
  }

  /** Of all that replicas must agree on. */
  uint64_t hash() const {
    static_assert(sizeof(Call) == 4 * sizeof(int32_t) + 3 * sizeof(int64_t),
                  "no padding, whose bytes would differ");
    return hash_bytes(this, sizeof *this);
  }

  /** "all_reduce sum of 2 tensors, 30 float32,". */
  std::string text() const {
    static constexpr const char* kOps[] = {"sum", "avg", "max", "min"};
    static constexpr const char* kDtypes[] = {"float32",  "float64", "float16",
                                              "bfloat16", "int32",   "int64"};
    const std::string number = std::to_string(count);
    const char* const plural = count == 1 ? "" : "s";
    switch (kind) {
      case kConnect:
        return "connect";
      case kAllReduce:
        return std::string("all_reduce ") + kOps[op] + " of " + number +
               " tensor" + plural + ", " + std::to_string(total) + " " +
               kDtypes[dtype] + ",";
      case kBroadcast:
        return "broadcast of " + std::to_string(total) + " bytes from rank " +
               std::to_string(root);
      case kCounts:
        return "all_reduce of " + number + " sample count" + plural;
      case kBarrier:
        break;
    }
    return "barrier";
  }
};

/**
 * What a replica says of a collective before it takes part in it, in debug
 * mode: replicas that make different calls are told so at once instead of
 * waiting for each other.
 */
struct CallRecord {
  uint64_t hash;
  char text[120];

  CallRecord() = default;
  explicit CallRecord(const Call& call) : hash(call.hash()), text() {
    call.text().copy(text, sizeof text - 1);
  }
};

/** "rank 1: …" for each that makes another call than this one. */
inline std::string describe_others(const CallRecord* records, int world_size,
                                   int rank) {
  std::string text;
  for (int other = 0; other < world_size; ++other) {
    const CallRecord& theirs = records[other];
    if (theirs.hash == records[rank].hash) continue;
    const bool sizes = strcmp(theirs.text, records[rank].text) == 0;
    text += (text.empty() ? "rank " : "; rank ") + std::to_string(other) +
            ": " +
            std::string(theirs.text, strnlen(theirs.text, sizeof theirs.text)) +
            (sizes ? " (of other shares)" : "");
  }
  return text;
}

}  // namespace atomloss

#endif /* ATOMLOSS_CALL_H */
