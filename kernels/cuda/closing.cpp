#include "cuda/closing.h"

#include <condition_variable>
#include <cstdlib>
#include <mutex>

namespace {

/** What is being closed, on threads of its own. */
struct Closing {
  std::mutex mutex;
  std::condition_variable ended;
  int under_way = 0;

  /** Never destroyed: threads may end behind the statics of the process. */
  static Closing& all() {
    static Closing& closing = *new Closing;
    return closing;
  }
};

void wait_for_all() {
  Closing& all = Closing::all();
  std::unique_lock<std::mutex> lock(all.mutex);
  all.ended.wait(lock, [&] { return all.under_way == 0; });
}

}  // namespace

void atomloss::begin_closing() {
  // Not before: what is registered last runs first at the end of a process, and
  // CUDA and NCCL, which register their own ends when they are first used, are
  // still there then.
  static const int registered = std::atexit(wait_for_all);
  static_cast<void>(registered);
  Closing& all = Closing::all();
  std::lock_guard<std::mutex> lock(all.mutex);
  ++all.under_way;
}

void atomloss::end_closing() {
  Closing& all = Closing::all();
  std::lock_guard<std::mutex> lock(all.mutex);
  --all.under_way;
  all.ended.notify_all();
}
