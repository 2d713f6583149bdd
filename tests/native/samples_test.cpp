/** al_count_samples and al_count_totals, with natoms that may be wrong. */
#include <deque>
#include <vector>

#include "library_test.h"
#include "on_device.h"
#include "random_task.h"

namespace native {
namespace {

constexpr int32_t kLossCount = sizeof kLosses / sizeof *kLosses;

void test_lists(al_device* device) {
  Random random(9);
  for (int round = 0; round < 150; ++round) {
    std::deque<RandomTask> tasks;
    std::vector<al_loss_task> list;
    const int64_t count = random.below(8);
    for (int64_t i = 0; i < count; ++i) {
      const TaskOptions options = {
          static_cast<int32_t>(random.below(kLossCount)),
          kFloatDtypes[random.below(4)],
          random.one_in(5) ? 0 : random.below(300), 1 + random.below(4)};
      tasks.emplace_back(options, random);
      if (!kLosses[options.loss].uses_natoms && !random.one_in(3))
        tasks.back().weigh_structures(random);
      list.push_back(tasks.back().task());
    }
    size_t groups = 0;
    for (const al_loss_task& task : list)
      groups += static_cast<size_t>(task.group_count);
    std::vector<double> counts(groups, -1);
    succeeds(al_count_samples(device, static_cast<int32_t>(count), list.data(),
                              counts.data()),
             "al_count_samples");
    size_t first = 0;
    for (size_t i = 0; i < tasks.size(); ++i) {
      std::vector<double> weights;
      const double expected = tasks[i].expected_samples(&weights);
      double samples = 0;  // of all groups
      for (int32_t g = 0; g < list[i].group_count; ++g)
        samples += counts[first++];
      check(samples == expected, "%g samples, expected %g", samples, expected);
      int64_t wrong = 0;
      for (size_t row = 0; row < weights.size(); ++row)
        wrong += !close(tasks[i].row_weight(static_cast<int64_t>(row)),
                        weights[row], 1e-6);
      check(wrong == 0, "%lld weights differ", static_cast<long long>(wrong));
    }
    // The weights in use.
    succeeds(al_loss_reduce(device, static_cast<int32_t>(count), list.data(),
                            nullptr),
             "al_loss_reduce");
    for (RandomTask& task : tasks) task.check_result("weighted");

    std::vector<double> totals(counts.size(), -1), factors(counts.size(), -1);
    succeeds(al_count_totals(device, nullptr, 0, static_cast<int32_t>(groups),
                             counts.data(), 3, nullptr, totals.data(),
                             factors.data()),
             "al_count_totals");
    for (size_t i = 0; i < counts.size(); ++i)
      check(totals[i] == counts[i] && factors[i] == 1 / std::fmax(3, counts[i]),
            "a total of %g, a factor of %g", totals[i], factors[i]);
  }
}

void test_refusals(al_device* device) {
  Random random(10);
  RandomTask task({2, AL_FLOAT32, 4, 1}, random);
  task.weigh_structures(random);
  double count = 0;
  fails(al_count_samples(device, 1, &task.task(), &count), AL_INVALID_ARGUMENT,
        "reads natoms", "per_atom_mae per structure");
  al_loss_task other = task.task();
  other.loss = 1000;
  fails(al_count_samples(device, 1, &other, &count), AL_INVALID_ARGUMENT,
        "loss number", "a loss that is not there");
  other.loss = 0;
  other.dtype = AL_BOOL;
  fails(al_count_samples(device, 1, &other, &count), AL_INVALID_ARGUMENT,
        "dtype 6", "the samples of bools");
  fails(al_count_samples(device, -2, &other, &count), AL_INVALID_ARGUMENT,
        "-2 tasks", "-2 tasks");

  RandomTask good({0, AL_FLOAT32, 4, 1}, random);
  good.weigh_structures(random);
  const auto refuses = [&](const char* needle, const char* what,
                           void (*change)(al_loss_task&)) {
    al_loss_task changed = good.task();
    change(changed);
    fails(al_count_samples(device, 1, &changed, &count), AL_INVALID_ARGUMENT,
          needle, what);
    fails(al_loss_reduce(device, 1, &changed, nullptr), AL_INVALID_ARGUMENT,
          needle, what);
  };
  refuses("-5 rows", "-5 rows", [](al_loss_task& t) { t.rows = -5; });
  refuses("-1 structures", "-1 structures",
          [](al_loss_task& t) { t.structures = -1; });
  refuses("needs natoms", "structures without natoms",
          [](al_loss_task& t) { t.natoms = nullptr; });
  refuses("int32 or int64", "natoms of floats",
          [](al_loss_task& t) { t.natoms_dtype = AL_FLOAT32; });
  refuses("needs structure_weights", "no place for the weights",
          [](al_loss_task& t) { t.structure_weights = nullptr; });
  refuses("needs a place for what is wrong", "no place for what is wrong",
          [](al_loss_task& t) { t.wrong = nullptr; });
  refuses("needs a group for every row", "groups without rows",
          [](al_loss_task& t) { t.group_count = 2; });
  refuses("has an entry per row", "entries of a mask where there is one a row",
          [](al_loss_task& t) {
            static const uint8_t on[4] = {1, 1, 1, 1};
            t.loss = 3;
            t.mask = {on, nullptr, 1, 1};
          });
}

void test_factors(al_device* device) {
  const double sums[] = {0.5, 0, -2, 3, 0, 6};
  const al_divisor divisors[] = {{1, 0, 1}, {1, 0, 1},  {1, 0, 0},
                                 {5, 3, 0}, {7, -1, 0}, {1, -1, 0}};
  double totals[6], factors[6];
  succeeds(al_count_totals(device, nullptr, 0, 6, sums, 1, divisors, totals,
                           factors),
           "al_count_totals");
  const double expected[] = {2, 0, 1, 5.0 / 3 / 6, 0, 1.0 / 6 / 6};
  for (int i = 0; i < 6; ++i)
    check(totals[i] == sums[i] && close(factors[i], expected[i], 1e-15),
          "factor %d is %g, expected %g", i, factors[i], expected[i]);
}

}  // namespace

void test_samples() {
  Device device;
  test_lists(device);
  test_refusals(device);
  test_factors(device);
}

}  // namespace native
