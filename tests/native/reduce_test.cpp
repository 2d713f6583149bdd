/** al_loss_reduce: each loss at the borders of tiles, then random lists. */
#include <deque>
#include <vector>

#include "library_test.h"
#include "on_device.h"
#include "random_task.h"

namespace native {
namespace {

/** Elements around the borders of a tile (192) and of a block (12288). */
constexpr int64_t kSizes[] = {0,     1,     2,     3,     5,     191,
                              192,   193,   385,   12287, 12288, 12289,
                              12480, 24575, 24576, 24577};

/** Of the cases that need one thread, how many a build for threads leaves. */
#ifdef __SANITIZE_THREAD__
constexpr int kEvery = 5;
#else
constexpr int kEvery = 1;
#endif

constexpr int32_t kLossCount = sizeof kLosses / sizeof *kLosses;

void reduce_one(al_device* device, const TaskOptions& options, Random& random,
                const char* what) {
  RandomTask task(options, random);
  succeeds(al_loss_reduce(device, 1, &task.task(), nullptr), what);
  task.check_result(what);
}

void test_borders(al_device* device) {
  Random random(4);
  int number = 0;
  for (int32_t loss = 0; loss < kLossCount; ++loss)
    for (const int32_t dtype : kFloatDtypes)
      for (const int64_t n : kSizes)
        for (const bool plain : {true, false}) {
          if (++number % kEvery != 0) continue;
          reduce_one(device, {loss, dtype, n, 1, plain}, random, "column");
          if (n % 3 == 0 || n < 400)
            reduce_one(device, {loss, dtype, n < 400 ? n : n / 3, 3, plain},
                       random, "forces");
          if (n < 400)
            reduce_one(device, {loss, dtype, n, 5, plain}, random, "five");
          if (n < 400 || kLosses[loss].per_row)
            reduce_one(device, {loss, dtype, 2, n, plain}, random, "two rows");
        }
}

/** Large enough that gradients are written past the caches. */
void test_large(al_device* device) {
  Random random(5);
  for (const int32_t dtype : kFloatDtypes) {
    const int64_t rows =
        (4 << 20) / static_cast<int64_t>(bytes_of(dtype)) / 3 + 100;
    // Elements of two dtypes, forces of the others.
    const char* const name =
        dtype == AL_FLOAT64 || dtype == AL_FLOAT16 ? "mse" : "l2norm";
    int32_t loss = 0;
    while (strcmp(kLosses[loss].name, name) != 0) ++loss;
    reduce_one(device, {loss, dtype, rows, 3, random.one_in(2)}, random,
               "large");
  }
}

/** Any number of tasks in one call, empty ones between them. */
void test_lists(al_device* device) {
  Random random(6);
  for (int round = 0; round < 60; ++round) {
    std::deque<RandomTask> tasks;
    std::vector<al_loss_task> list;
    const int64_t count = random.below(20);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t cols = random.one_in(2) ? 3 : 1 + random.below(6);
      const int64_t most = random.one_in(4) ? 20000 : 200;
      const int64_t rows = random.one_in(4) ? 0 : random.below(most);
      tasks.emplace_back(
          TaskOptions{static_cast<int32_t>(random.below(kLossCount)),
                      kFloatDtypes[random.below(4)], rows, cols},
          random);
      list.push_back(tasks.back().task());
    }
    al_loss_result total = {-1, -1, -1, -1, -1, -1};
    const bool wants_total = !random.one_in(4);
    // A list of exactly its size, and NULL if it is empty.
    succeeds(al_loss_reduce(device, static_cast<int32_t>(count), list.data(),
                            wants_total ? &total : nullptr),
             "al_loss_reduce");
    double sum = 0, magnitude = 0;
    int64_t nonfinite = 0;
    for (RandomTask& task : tasks) {
      task.check_result("list");
      sum += task.value();
      magnitude += std::fabs(task.value());
      nonfinite += task.result().inputs;
    }
    // The values have been rounded to float32, the sum has not, and may be
    // larger than float32 holds.
    if (wants_total && std::isfinite(sum))
      check(
          close(total.value, sum, 1e-6, magnitude) && total.inputs == nonfinite,
          "the total is %.17g, expected %.17g", total.value, sum);
  }
}

/** The same bits, however many threads take part. */
void test_same_bits(al_device* device) {
  Random random(7);
  RandomTask task({3, AL_FLOAT32, 40000, 3}, random);
  succeeds(al_loss_reduce(device, 1, &task.task(), nullptr), "al_loss_reduce");
  const al_loss_result first = task.result();
  for (int i = 0; i < 20; ++i) {
    succeeds(al_loss_reduce(device, 1, &task.task(), nullptr),
             "al_loss_reduce");
    // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison,cert-*): the bits
    check(memcmp(&first, &task.result(), sizeof first) == 0,
          "a second run gives other bits");
  }
}

void test_refusals(al_device* device) {
  Random random(8);
  const RandomTask good({0, AL_FLOAT32, 4, 1}, random);
  const auto reduce = [&](void (*change)(al_loss_task&)) {
    al_loss_task task = good.task();
    change(task);
    return al_loss_reduce(device, 1, &task, nullptr);
  };
  fails(reduce([](al_loss_task& task) { task.loss = 1000; }),
        AL_INVALID_ARGUMENT, "loss number 1000", "a loss that is not there");
  fails(reduce([](al_loss_task& task) { task.dtype = AL_INT64; }),
        AL_INVALID_ARGUMENT, "dtype 5", "a loss of integers");
  fails(reduce([](al_loss_task& task) { task.rows = -3; }), AL_INVALID_ARGUMENT,
        "-3 rows", "-3 rows");
  fails(reduce([](al_loss_task& task) { task.rows = task.cols = 1ll << 62; }),
        AL_INVALID_ARGUMENT, "too many", "more elements than numbers");
  fails(reduce([](al_loss_task& task) {
          task.loss = 2;
          task.natoms = nullptr;
        }),
        AL_INVALID_ARGUMENT, "needs natoms", "no natoms");
  fails(al_loss_reduce(device, -1, nullptr, nullptr), AL_INVALID_ARGUMENT,
        "-1 tasks", "-1 tasks");
}

}  // namespace

void test_reduce() {
  Device device;
  test_borders(device);
  test_large(device);
  test_lists(device);
  test_same_bits(device);
  test_refusals(device);
}

}  // namespace native
