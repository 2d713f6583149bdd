/** Calls of several threads at once: a device each, and one that all share. */
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "cpu/loss_kernels.h"
#include "library_test.h"
#include "on_device.h"
#include "random_task.h"
#include "shared/loss_table.h"

namespace native {
namespace {

constexpr int kThreads = 4;

/** f on several threads, which begin together: the first would end before. */
template <class F>
void on_threads(F&& f) {
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  std::atomic<int> ready{0};
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&f, &ready, i] {
      ++ready;
      while (ready < kThreads) std::this_thread::yield();
      f(i);
    });
  for (std::thread& thread : threads) thread.join();
}

/**
 * A job that is large enough for the pool, from every thread: one at a time
 * gets the helpers, the others work alone.
 */
void test_pool() {
  on_threads([](int number) {
    Device device;
    Random random(100 + static_cast<uint64_t>(number));
    const bool rows = number % 2;
    RandomTask task({rows ? 3 : 1, kFloatDtypes[number], 30000, 3}, random);
    succeeds(al_loss_reduce(device, 1, &task.task(), nullptr),
             "al_loss_reduce");
    task.check_result("threads");
    const al_loss_result first = task.result();
    for (int i = 0; i < 15; ++i) {
      succeeds(al_loss_reduce(device, 1, &task.task(), nullptr),
               "al_loss_reduce");
      // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison,cert-*): the bits
      check(memcmp(&first, &task.result(), sizeof first) == 0,
            "threads give other bits");
    }
    task.check_result("threads");
  });
}

/** Jobs of changing sizes, with rests in which the helpers fall asleep. */
void test_waking() {
  Device device;
  for (int round = 0; round < 60; ++round) {
    Array x(AL_FLOAT64, 65536 + 4096 * (round % 7));
    succeeds(al_fill(device, AL_FLOAT64, x.data(), x.size(), round, nullptr),
             "al_fill");
    al_loss_result result = {};
    succeeds(
        al_sum(device, AL_FLOAT64, x.data(), x.size(), 1, nullptr, &result),
        "al_sum");
    check(result.value ==
              static_cast<double>(round) * static_cast<double>(x.size()),
          "the sum of round %d is %g", round, result.value);
    if (round % 5 == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void test_shared_device() {
  Device device;
  on_threads([&](int number) {
    Random random(200 + static_cast<uint64_t>(number));
    for (int i = 0; i < 300; ++i) {
      const int64_t bytes = 256 * (1 + random.below(4));
      OnDevice memory(device, bytes);
      memset(memory, number, static_cast<size_t>(bytes));
      int64_t state[4];
      succeeds(al_memory_state(device, state), "al_memory_state");
      check(state[0] >= 1 && state[0] <= kThreads, "%lld blocks in use",
            static_cast<long long>(state[0]));
      bool mine = true;
      for (int64_t at = 0; at < bytes; ++at)
        mine &=
            static_cast<const char*>(static_cast<void*>(memory))[at] == number;
      check(mine, "two threads have the same block");
    }
  });
}

void test_messages() {
  on_threads([](int number) {
    for (int i = 0; i < 100; ++i) {
      const int32_t ordinal = 1000 * (number + 1) + i;
      const std::string part = "not " + std::to_string(ordinal);
      al_device* none = nullptr;
      fails(al_device_open(ordinal, &none), AL_NO_DEVICE, part.c_str(),
            "a message of several threads");
      int32_t loss = -1, kind = -1;
      succeeds(al_loss_find("mse", &loss, &kind), "al_loss_find");
    }
  });
}

/** Losses that are registered while others are looked up. */
void test_registering() {
  constexpr int kEach = 100;
  static const atomloss::LossKernels none = {};
  static std::string names[kThreads][kEach]; /* an entry does not copy it */
  for (int thread = 0; thread < kThreads; ++thread)
    for (int i = 0; i < kEach; ++i)
      names[thread][i] = std::to_string(thread) + "_" + std::to_string(i);
  on_threads([](int number) {
    for (const std::string& name : names[number]) {
      const atomloss::LossEntry entry = {name.c_str(),
                                         {AL_PER_ROW, false, 0},
                                         false,
                                         {&none, &none, &none, &none}};
      int32_t loss = -1, kind = -1;
      succeeds(al_loss_find("log_cosh", &loss, &kind), "al_loss_find");
      check(kind == AL_PER_ELEMENT, "log_cosh is of kind %d", kind);
      succeeds(atomloss::register_losses(&entry, 1), "register_losses");
      succeeds(al_loss_find(name.c_str(), &loss, &kind), "al_loss_find");
      check(kind == AL_PER_ROW, "a new loss is of kind %d", kind);
    }
  });
}

}  // namespace

void test_threads() {
  test_pool();
  test_waking();
  test_shared_device();
  test_messages();
  test_registering();
}

}  // namespace native
