/** Calls that are recorded: what they keep of their arguments, and replays. */
#include <vector>

#include "library_test.h"
#include "on_device.h"
#include "ranks.h"

namespace native {
namespace {

/** A recording for as long as its block of code lasts. */
class Recording {
 public:
  explicit Recording(al_device* device) {
    succeeds(al_record_begin(device, &recording_), "al_record_begin");
  }
  ~Recording() {
    succeeds(al_recording_close(recording_), "al_recording_close");
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  void end() { succeeds(al_record_end(recording_), "al_record_end"); }

  al_status replay(int64_t times, const double* numbers = nullptr) {
    return al_replay(recording_, times, numbers, &origin, &done);
  }

  double origin = AL_ORIGIN_NONE;
  int64_t done = -1;

 private:
  al_recording* recording_ = nullptr;
};

void test_arguments(al_device* device) {
  float weight = 1, grad = 1, copy = 0;
  Recording recording(device);
  al_recording* second = nullptr;
  fails(al_record_begin(device, &second), AL_INVALID_ARGUMENT,
        "recording already", "a second recording");
  {
    // Host memory that is gone when it is replayed.
    std::vector<al_parameter> parameters(1);
    parameters[0].param = &weight;
    parameters[0].grad = &grad;
    parameters[0].size = 1;
    parameters[0].dtype = AL_FLOAT32;
    std::vector<float> host = {5};
    succeeds(al_sgd_step(device, 1, parameters.data(), 1, 1, 0, 0, 0, nullptr),
             "al_sgd_step");
    succeeds(al_copy(device, &copy, &weight, sizeof copy), "al_copy");
    succeeds(al_upload(device, &grad, host.data(), sizeof grad), "al_upload");
    host[0] = 7;
    parameters[0].param = nullptr;
  }
  recording.end();
  check(weight == 1 && grad == 1 && copy == 0, "a recorded call was made");

  const double numbers[] = {1, 0.5, 2, 0.25};  // step and lr of each
  succeeds(recording.replay(2, numbers), "al_replay");
  // 1 - 0.5 * 1, then what was uploaded: - 0.25 * 5
  check(weight == -0.75F && copy == weight && grad == 5, "replays left %g, %g",
        static_cast<double>(weight), static_cast<double>(grad));
  check(recording.done == 4, "%lld numbers were taken",
        static_cast<long long>(recording.done));
  succeeds(recording.replay(0), "no replay");
  check(recording.done == 0, "no replay has taken numbers");
}

/** The calls behind one that fails are not made. */
void test_failure(al_device* device) {
  float x = 1;
  al_parameter parameter = {};
  parameter.param = parameter.grad = &x;
  parameter.size = 1;
  const auto step = [&] {
    succeeds(al_sgd_step(device, 1, &parameter, 1, 1, 0, 0, 0, nullptr),
             "al_sgd_step");
  };
  Recording recording(device);
  step();
  succeeds(al_fill(device, AL_INT32, &x, 1, 1, nullptr), "al_fill of integers");
  step();
  recording.end();
  const double numbers[] = {1, 0.5, 1, 0.5, 1, 0.5, 1, 0.5};
  fails(recording.replay(2, numbers), AL_INVALID_ARGUMENT, "dtype",
        "a replay with a call that fails");
  check(x == 0.5F && recording.done == 2, "%lld numbers were taken, x is %g",
        static_cast<long long>(recording.done), static_cast<double>(x));
}

/** Of replicas: counts that are taken, and counts that nobody takes. */
void test_counts(const Rank& rank) {
  std::vector<double> mine = {1, 2}, totals(2), factors(2);
  double origin = AL_ORIGIN_NONE;
  float mean = static_cast<float>(rank.rank);
  int64_t before = 0, first = 0, unused = 0;
  succeeds(al_count_all_reduce(rank.group, 2, mine.data(), nullptr, &origin,
                               &before),
           "al_count_all_reduce");
  const auto take = [&](int64_t ticket) {
    return al_count_totals(rank.device, rank.group, ticket, 2, nullptr, 1,
                           nullptr, totals.data(), factors.data());
  };
  Recording recording(rank.device);
  succeeds(
      al_count_all_reduce(rank.group, 2, nullptr, mine.data(), &origin, &first),
      "al_count_all_reduce");
  succeeds(al_count_all_reduce(rank.group, 2, mine.data(), nullptr, &origin,
                               &unused),
           "al_count_all_reduce");
  fails(take(before), AL_INVALID_ARGUMENT, "not of this recording",
        "counts of before the recording");
  succeeds(take(first), "al_count_totals");
  void* const buffers[] = {&mean};
  const int64_t sizes[] = {1};
  succeeds(
      al_all_reduce(rank.group, AL_FLOAT32, AL_SUM, 1, buffers, sizes, &origin),
      "al_all_reduce");
  recording.end();
  fails(take(unused), AL_INVALID_ARGUMENT, "the ticket",
        "counts of a recording that has ended");
  succeeds(take(before), "al_count_totals");
  check(totals[0] == kRanks, "totals of before the recording");

  for (int i = 1; i <= 3; ++i) {
    mine[0] = i;
    succeeds(recording.replay(1), "al_replay");
    check(totals[0] == i * kRanks && factors[1] == 1.0 / (2 * kRanks),
          "totals %g, factors %g", totals[0], factors[1]);
  }
  check(recording.origin > origin, "what was replayed has no origin");
  float expected = 0 + 1 + 2;
  for (int i = 1; i < 3; ++i) expected *= kRanks;
  check(mean == expected, "the sum is %g", static_cast<double>(mean));
}

}  // namespace

void test_recording() {
  const Device device;
  test_arguments(device);
  test_failure(device);
  with_ranks({}, [](const Rank& rank) { test_counts(rank); });
}

}  // namespace native
