/**
 * The threads. Not OpenMP's: at the end of a region its threads wait for each
 * other, spinning, and where another program wants the same processor that wait
 * becomes a time slice: calls of 20 us were seen to take 8 ms each. Here the
 * caller works as well, takes over whatever the others do not get to, and waits
 * only for blocks that have been begun; and who has nothing to do soon sleeps.
 */
#include "parallel.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>
#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace atomloss {
namespace {

/**
 * Looks that a thread takes for new work before it sleeps: some 0.3 ms. Less
 * than a wake-up takes, and it would always come too late for small work.
 */
constexpr int kLooks = 10000;

/** Looks that a caller takes before it lets a thread that is inside run. */
constexpr int kLooksBeforeYield = 100;

/** Whatever OMP_NUM_THREADS says. */
constexpr int64_t kMostHelpers = 1023;

/** Pieces per thread: large, so that each reads a long stretch of memory. */
constexpr int64_t kPieces = 8;

void pause() {
#ifdef __SSE2__
  _mm_pause();
#endif
}

/** Processors fetch lines of 64 bytes in pairs. */
constexpr size_t kLine = 128;

class Pool {
 public:
  /** One for the process, never destroyed: its threads outlive everything. */
  static Pool& get() {
    static Pool* const pool = new Pool;
    return *pool;
  }

  void run(int64_t blocks, void (*body)(void*, int64_t), void* context) {
    // One job at a time: another thread's call is done on that thread.
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn || helpers_ == 0) {
      for (int64_t block = 0; block < blocks; ++block) body(context, block);
      return;
    }
    body_ = body;
    context_ = context;
    blocks_ = blocks;
    piece_ = std::max<int64_t>(1, blocks / ((helpers_ + 1) * kPieces));
    next_ = 0;
    const uint64_t job = ++job_;
    open_ = job;
    if (sleeping_ > 0) {
      std::lock_guard<std::mutex> lock(sleep_);
      wake_.notify_all();
    }
    work();
    // Every block has been begun. Who enters from now on finds the job closed;
    // who is inside is waited for.
    open_ = 0;
    for (int looks = 0; inside_ > 0; ++looks) {
      pause();
      if (looks % kLooksBeforeYield == kLooksBeforeYield - 1)
        std::this_thread::yield();
    }
  }

 private:
  Pool() {
    const char* const text = std::getenv("OMP_NUM_THREADS");
    int64_t threads = text ? std::strtol(text, nullptr, 10) : 0;
    if (threads < 1) threads = std::thread::hardware_concurrency();
    const int64_t wanted = std::clamp<int64_t>(threads - 1, 0, kMostHelpers);
    try {
      for (; helpers_ < wanted; ++helpers_)
        std::thread([this] { help(); }).detach();
    } catch (const std::system_error&) {  // as many as the system lets us have
    }
  }

  /** Takes pieces of the open job until none is left. */
  void work() {
    for (;;) {
      const int64_t begin = next_.fetch_add(piece_);
      if (begin >= blocks_) return;
      const int64_t end = std::min(begin + piece_, blocks_);
      for (int64_t block = begin; block < end; ++block) body_(context_, block);
    }
  }

  /** What a helping thread does all its life. */
  void help() {
    for (uint64_t seen = 0;;) {
      for (int looks = 0; job_ == seen && looks < kLooks; ++looks) pause();
      if (job_ == seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        ++sleeping_;
        wake_.wait(lock, [&] { return job_ != seen; });
        --sleeping_;
      }
      seen = job_;
      // In this order, as the caller closes before it counts: either it sees
      // this thread inside, or this thread sees the job closed.
      ++inside_;
      if (open_ == seen) work();
      --inside_;
    }
  }

  std::mutex turn_; /* held by the thread whose job it is */
  int64_t helpers_ = 0;

  /* The job: written by its caller while nobody is inside. */
  void (*body_)(void*, int64_t) = nullptr;
  void* context_ = nullptr;
  int64_t blocks_ = 0;
  int64_t piece_ = 1;

  /* On lines of their own: one is polled while another is counted up. */
  alignas(kLine) std::atomic<int64_t> next_{
      0}; /* first block that nobody has taken */
  alignas(kLine) std::atomic<uint64_t> job_{0}; /* number of the latest job */
  std::atomic<uint64_t> open_{0}; /* number of the job to work on, or 0 */
  alignas(kLine) std::atomic<int> inside_{
      0}; /* helpers that may be at work on it */

  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<int> sleeping_{0};
};

}  // namespace

void run_blocks(int64_t blocks, void (*body)(void* context, int64_t block),
                void* context) {
  Pool::get().run(blocks, body, context);
}

}  // namespace atomloss
