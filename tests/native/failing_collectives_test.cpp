/** Collectives that fail: every replica gets an error that says why. */
#include <chrono>
#include <thread>
#include <vector>

#include "array.h"
#include "library_test.h"
#include "ranks.h"

namespace native {
namespace {

al_status sum_of(const Rank& rank, int64_t n, double* origin) {
  Array array(AL_FLOAT32, n);
  for (int64_t i = 0; i < n; ++i) array.set(i, 1);
  void* const buffer = array.data();
  return al_all_reduce(rank.group, AL_FLOAT32, AL_SUM, 1, &buffer, &n, origin);
}

al_status sum_of(const Rank& rank, int64_t n) {
  double origin = AL_ORIGIN_NONE;
  return sum_of(rank, n, &origin);
}

/** In debug mode replicas compare their calls before they make them. */
void test_disagreement() {
  RankOptions options;
  options.debug = true;
  with_ranks(options, [](Rank& rank) {
    succeeds(sum_of(rank, 10), "a sum before");
    double origin = AL_ORIGIN_NONE;
    fails(rank.rank == 1 ? al_barrier(rank.group) : sum_of(rank, 10, &origin),
          AL_COLLECTIVE_FAILED, rank.rank == 1 ? "rank 0: all" : "rank 1: barr",
          "a call on which replicas disagree");
    check(origin == AL_ORIGIN_NONE, "a call that was not made took its buffer");
    fails(sum_of(rank, 10), AL_COLLECTIVE_FAILED, "broken since",
          "a call of a broken group");
  });
}

void test_rank_that_leaves() {
  with_ranks({}, [](Rank& rank) {
    double before = AL_ORIGIN_NONE, after = AL_ORIGIN_NONE;
    succeeds(sum_of(rank, 1000, &before), "a sum before");
    if (rank.rank == 2) return rank.leave();
    fails(sum_of(rank, 1000, &after), AL_COLLECTIVE_FAILED,
          "no connection any more to rank", "a sum after a rank has left");
    succeeds(al_origin_check(rank.device, before), "the sum before is good");
    fails(al_origin_check(rank.device, after), AL_COLLECTIVE_FAILED,
          "no connection any more to rank", "the sum that failed");
    fails(al_barrier(rank.group), AL_COLLECTIVE_FAILED, "broken since",
          "a barrier of a broken group");
  });
}

/** A rank that does not call: the roll call names it. */
void test_rank_that_hangs() {
  RankOptions options;
  options.timeout_ms = 500;
  with_ranks(options, [](Rank& rank) {
    succeeds(sum_of(rank, 10), "a sum before");
    if (rank.rank == 0)  // longer than the others take to time out and ask
      return std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    const al_status failed = sum_of(rank, 10);
    // Who is late finds the connections closed by the other's timeout.
    const std::string said = message(failed);
    const bool late = (failed & 0xff) == AL_TIMEOUT;
    check(late || (failed & 0xff) == AL_COLLECTIVE_FAILED, "status %d, %s",
          failed & 0xff, said.c_str());
    check(said.find("rank 0 is in no call, after call 1") != std::string::npos,
          "the rank that hangs is not named: %s", said.c_str());
  });
}

/** Sizes that differ, without debug mode: a timeout, and the call is named. */
void test_other_sizes() {
  RankOptions options;
  options.timeout_ms = 500;
  with_ranks(options, [](Rank& rank) {
    const al_status failed = sum_of(rank, rank.rank == 1 ? 20 : 10);
    const std::string said = message(failed);
    check(failed != AL_OK, "replicas sum different sizes");
    if (rank.rank != 1)
      check(said.find("rank 1 is in call 1") != std::string::npos &&
                said.find("20 float32") != std::string::npos,
            "the other call is not named: %s", said.c_str());
  });
}

void test_refusals() {
  Device device;
  std::vector<char> blob(4096);
  int64_t bytes = 0;
  al_group* group = nullptr;
  const auto open = [&](int32_t rank, int32_t ranks, const char* address,
                        int64_t timeout, int64_t capacity) {
    return al_group_open(device, rank, ranks, address, timeout, blob.data(),
                         capacity, &bytes, 0, &group);
  };
  fails(open(0, 1, "127.0.0.1", 1000, 4096), AL_INVALID_ARGUMENT, "rank 0 of 1",
        "a group of one");
  fails(open(2, 2, "127.0.0.1", 1000, 4096), AL_INVALID_ARGUMENT, "rank 2 of 2",
        "rank 2 of 2");
  fails(open(0, 2, "127.0.0.1", 0, 4096), AL_INVALID_ARGUMENT, "timeout 0",
        "a timeout of 0");
  fails(open(0, 2, "127.0.0.1", 1000, 10), AL_INVALID_ARGUMENT, "needs",
        "a blob of 10 bytes");
  fails(open(0, 2, "203.0.113.1", 1000, 4096), AL_COLLECTIVE_FAILED,
        "203.0.113.1", "the address of another host");
  if (!succeeds(open(0, 2, "127.0.0.1", 300, 4096), "al_group_open")) return;
  std::vector<char> blobs(static_cast<size_t>(2 * bytes));
  fails(al_group_connect(group, blobs.data(), 2 * bytes - 1),
        AL_INVALID_ARGUMENT, "blobs have", "too few bytes of blobs");
  // Blobs of zeros hold no addresses.
  const al_status failed = al_group_connect(group, blobs.data(), 2 * bytes);
  check(failed != AL_OK, "blobs of zeros connect: %s", message(failed).c_str());
  succeeds(al_group_close(group), "al_group_close");
}

/** A peer that has gone before this one connects. */
void test_absent_peer() {
  Device device;
  std::vector<char> first(4096), second(4096);
  int64_t bytes = 0;
  al_group *group = nullptr, *absent = nullptr;
  succeeds(al_group_open(device, 0, 2, "127.0.0.1", 300, first.data(), 4096,
                         &bytes, 0, &group),
           "al_group_open");
  succeeds(al_group_open(device, 1, 2, "127.0.0.1", 300, second.data(), 4096,
                         &bytes, 0, &absent),
           "al_group_open");
  first.resize(static_cast<size_t>(bytes));
  first.insert(first.end(), second.begin(), second.begin() + bytes);
  succeeds(al_group_close(absent), "al_group_close");
  const al_status failed =
      al_group_connect(group, first.data(), static_cast<int64_t>(first.size()));
  const std::string said = message(failed);
  check(failed != AL_OK && said.find("rank 1") != std::string::npos,
        "a peer that does not connect: %s", said.c_str());
  succeeds(al_group_close(group), "al_group_close");
}

}  // namespace

void test_collectives_that_fail() {
  test_disagreement();
  test_rank_that_leaves();
  test_rank_that_hangs();
  test_other_sizes();
  test_refusals();
  test_absent_peer();
}

}  // namespace native
