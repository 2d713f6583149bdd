/**
 * What a replica says of a collective before it takes part in it, in debug
 * mode: replicas that make different calls are told so at once instead of
 * waiting for each other. Shared by both libraries.
 */
#ifndef ATOMLOSS_CALL_RECORD_H
#define ATOMLOSS_CALL_RECORD_H

#include <cstdint>
#include <cstring>
#include <string>

namespace atomloss {

struct CallRecord {
  uint64_t hash; /* of all that replicas must agree on */
  char text[120];
};

inline CallRecord make_record(const std::string& text, uint64_t hash) {
  CallRecord record = {};
  record.hash = hash;
  text.copy(record.text, sizeof record.text - 1);
  return record;
}

/** FNV-1a, going on from `hash`: the same on every machine. */
inline uint64_t hash_bytes(const void* bytes, size_t n,
                           uint64_t hash = 14695981039346656037u) {
  for (size_t i = 0; i < n; ++i)
    hash =
        (hash ^ static_cast<const unsigned char*>(bytes)[i]) * 1099511628211u;
  return hash;
}

/** "all_reduce sum of 2 tensors, 30 float32,". */
inline std::string describe_all_reduce(int32_t dtype, int32_t op, int32_t count,
                                       int64_t total) {
  static constexpr const char* kOps[] = {"sum", "avg", "max", "min"};
  static constexpr const char* kDtypes[] = {"float32",  "float64", "float16",
                                            "bfloat16", "int32",   "int64"};
  return "all_reduce " + std::string(kOps[op]) + " of " +
         std::to_string(count) + (count == 1 ? " tensor, " : " tensors, ") +
         std::to_string(total) + " " + kDtypes[dtype] + ",";
}

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

#endif /* ATOMLOSS_CALL_RECORD_H */
