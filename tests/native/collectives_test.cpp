/** The collectives between replicas that all do the same. */
#include <deque>
#include <thread>
#include <vector>

#include "array.h"
#include "library_test.h"
#include "ranks.h"

namespace native {
namespace {

constexpr int32_t kDtypes[] = {AL_FLOAT32,  AL_FLOAT64, AL_FLOAT16,
                               AL_BFLOAT16, AL_INT32,   AL_INT64};

/** What a rank has at an element: small integers, which every dtype holds. */
double number_at(int32_t rank, int64_t i) {
  return static_cast<double>((i * 7 + rank * 5) % 11 - 5);
}

double reduced(int32_t op, int64_t i) {
  double sum = 0, most = number_at(0, i), least = most;
  for (int32_t rank = 0; rank < kRanks; ++rank) {
    sum += number_at(rank, i);
    most = std::fmax(most, number_at(rank, i));
    least = std::fmin(least, number_at(rank, i));
  }
  const double results[] = {sum, sum / kRanks, most, least};
  return results[op];
}

void test_all_reduce(const Rank& rank, int32_t dtype, int32_t op,
                     const std::vector<int64_t>& sizes, bool shifted) {
  std::deque<Array> arrays;
  std::vector<void*> buffers;
  for (const int64_t size : sizes) {
    arrays.emplace_back(dtype, size, shifted);
    for (int64_t i = 0; i < size; ++i)
      arrays.back().set(i, number_at(rank.rank, i));
    buffers.push_back(arrays.back().data());
  }
  double origin = AL_ORIGIN_NONE;
  succeeds(
      al_all_reduce(rank.group, dtype, op, static_cast<int32_t>(sizes.size()),
                    buffers.data(), sizes.data(), &origin),
      "al_all_reduce");
  check(origin > AL_ORIGIN_NONE, "what was reduced has no origin");
  int64_t wrong = 0;
  for (const Array& array : arrays)
    for (int64_t i = 0; i < array.size(); ++i)
      wrong += !close(array.get(i), reduced(op, i), tolerance(dtype));
  check(wrong == 0, "%lld of an all_reduce differ, dtype %d, op %d",
        static_cast<long long>(wrong), dtype, op);
}

void test_broadcast(const Rank& rank, int32_t root, int64_t n, bool shifted) {
  Array array(AL_FLOAT32, n, shifted);
  for (int64_t i = 0; i < n; ++i) array.set(i, number_at(rank.rank, i));
  double origin = AL_ORIGIN_NONE;
  succeeds(al_broadcast(rank.group, array.data(), array.bytes(), root, &origin),
           "al_broadcast");
  check(origin > AL_ORIGIN_NONE, "what was sent has no origin");
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; ++i) wrong += array.get(i) != number_at(root, i);
  check(wrong == 0, "%lld of a broadcast differ",
        static_cast<long long>(wrong));
}

void test_counts(const Rank& rank) {
  const std::vector<double> mine = {static_cast<double>(rank.rank), 5, -40};
  const std::vector<double> sums = {3, 15, -120};
  int64_t first = 0, second = 0, none = 0;
  double origin = AL_ORIGIN_NONE;
  succeeds(
      al_count_all_reduce(rank.group, 3, mine.data(), nullptr, &origin, &first),
      "al_count_all_reduce");
  succeeds(al_count_all_reduce(rank.group, 3, nullptr, mine.data(), &origin,
                               &second),
           "al_count_all_reduce of the device");
  succeeds(al_count_all_reduce(rank.group, 0, nullptr, nullptr, &origin, &none),
           "al_count_all_reduce of nothing");
  // On another thread, while this one goes on to the next collectives.
  std::thread other([&] {
    for (const int64_t ticket : {second, first}) {
      std::vector<double> totals(3, -1), factors(3, -1);
      succeeds(al_count_totals(rank.device, rank.group, ticket, 3, nullptr, 1,
                               nullptr, totals.data(), factors.data()),
               "al_count_totals");
      check(factors[1] == 1.0 / 15 && factors[2] == 1, "factors");
      check(totals == sums, "totals %g %g %g", totals[0], totals[1], totals[2]);
    }
  });
  // The last one is taken by nobody: it goes with the group.
  int64_t third = 0;
  for (int i = 0; i < 3; ++i)
    succeeds(al_count_all_reduce(rank.group, 3, mine.data(), nullptr, &origin,
                                 &third),
             "al_count_all_reduce");
  other.join();
  double total = 0;
  fails(al_count_totals(rank.device, rank.group, first, 3, nullptr, 1, nullptr,
                        &total, &total),
        AL_INVALID_ARGUMENT, "the ticket", "a ticket that was taken");
  fails(al_count_totals(rank.device, rank.group, none, 1, nullptr, 1, nullptr,
                        &total, &total),
        AL_INVALID_ARGUMENT, "the ticket", "a ticket of another size");
  succeeds(al_count_totals(rank.device, rank.group, none, 0, nullptr, 1,
                           nullptr, nullptr, nullptr),
           "al_count_totals of nothing");
}

void test_refusals(const Rank& rank) {
  float x = 0;
  void* const buffers[] = {&x, &x};
  const int64_t one[] = {1, 1}, negative[] = {1, -1};
  const int64_t huge[] = {INT64_MAX, INT64_MAX};
  double origin = AL_ORIGIN_NONE;
  const auto reduce = [&](int32_t dtype, int32_t op, int32_t count,
                          const int64_t* sizes) {
    return al_all_reduce(rank.group, dtype, op, count, buffers, sizes, &origin);
  };
  fails(reduce(AL_FLOAT32, 4, 1, one), AL_INVALID_ARGUMENT, "reduction 4",
        "reduction 4");
  fails(reduce(AL_BOOL, AL_SUM, 1, one), AL_INVALID_ARGUMENT, "dtype 6",
        "a reduction of bools");
  fails(reduce(AL_INT64, AL_AVG, 1, one), AL_INVALID_ARGUMENT, "avg needs",
        "the average of integers");
  fails(reduce(AL_FLOAT32, AL_SUM, -1, one), AL_INVALID_ARGUMENT, "-1 buffers",
        "-1 buffers");
  fails(reduce(AL_FLOAT32, AL_SUM, 2, negative), AL_INVALID_ARGUMENT,
        "buffer 1 has -1", "a buffer of -1 elements");
  fails(reduce(AL_FLOAT32, AL_SUM, 2, huge), AL_INVALID_ARGUMENT, "buffer 1",
        "more elements than there are numbers");
  fails(al_broadcast(rank.group, &x, 4, kRanks, &origin), AL_INVALID_ARGUMENT,
        "from rank 3 of 3", "a broadcast from no rank");
  fails(al_broadcast(rank.group, &x, -4, 0, &origin), AL_INVALID_ARGUMENT,
        "-4 bytes", "a broadcast of -4 bytes");
  int64_t ticket = 0;
  fails(al_count_all_reduce(rank.group, -1, nullptr, nullptr, &origin, &ticket),
        AL_INVALID_ARGUMENT, "-1 counts", "-1 counts");
  check(origin == AL_ORIGIN_NONE, "what was refused has an origin");
}

void test_all(Rank& rank) {
  for (const int32_t dtype : kDtypes)
    for (int32_t op = AL_SUM; op <= AL_MIN; ++op) {
      if (op == AL_AVG && dtype >= AL_INT32) continue;
      test_all_reduce(rank, dtype, op, {1}, false);
      test_all_reduce(rank, dtype, op, {1000}, true);
      test_all_reduce(rank, dtype, op, {5, 0, 33, 1}, true);
      test_all_reduce(rank, dtype, op, {0}, false);
      test_all_reduce(rank, dtype, op, {}, false);
    }
  for (int32_t root = 0; root < kRanks; ++root)
    for (const int64_t n : {0, 1, 5000})
      test_broadcast(rank, root, n, root == 1);
  test_refusals(rank);
  test_counts(rank);
  succeeds(al_barrier(rank.group), "al_barrier");
}

}  // namespace

void test_collectives() {
  with_ranks({}, test_all);
  RankOptions debug;
  debug.debug = true;
  with_ranks(debug, test_all);
}

}  // namespace native
