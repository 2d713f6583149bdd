#include "cuda/closing.h"

#include <condition_variable>
#include <cstdlib>
#include <mutex>

namespace {

// Never destroyed: threads may end behind the statics of the process.
std::mutex& mutex = *new std::mutex;
std::condition_variable& ended = *new std::condition_variable;
int under_way = 0;

void wait_for_all() {
  std::unique_lock<std::mutex> lock(mutex);
  ended.wait(lock, [] { return under_way == 0; });
}

}  // namespace

void atomloss::begin_closing() {
  // Not before: what is registered last runs first at the end of a process, and
  // CUDA and NCCL, which register their own ends when they are first used, are
  // still there then.
  static const int registered = std::atexit(wait_for_all);
  static_cast<void>(registered);
  std::lock_guard<std::mutex> lock(mutex);
  ++under_way;
}

void atomloss::end_closing() {
  std::lock_guard<std::mutex> lock(mutex);
  --under_way;
  ended.notify_all();
}
