#include "ranks.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace native {
namespace {

/** Blobs as a rendezvous would exchange them: all wait until all are there. */
class Exchange {
 public:
  std::vector<char> all(int32_t rank, const std::vector<char>& mine) {
    std::unique_lock<std::mutex> lock(mutex_);
    blobs_.resize(kRanks);
    blobs_[static_cast<size_t>(rank)] = mine;
    ++there_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return there_ == kRanks; });
    std::vector<char> joined;
    for (const std::vector<char>& blob : blobs_)
      joined.insert(joined.end(), blob.begin(), blob.end());
    return joined;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int32_t there_ = 0;
  std::vector<std::vector<char>> blobs_;
};

void be_rank(int32_t number, const RankOptions& options, Exchange& exchange,
             const std::function<void(Rank&)>& f) {
  Device device;
  Rank rank = {number, device, nullptr};
  std::vector<char> blob(4096);
  int64_t bytes = 0;
  const bool open = succeeds(
      al_group_open(device, number, kRanks, "127.0.0.1", options.timeout_ms,
                    blob.data(), static_cast<int64_t>(blob.size()), &bytes,
                    options.debug, &rank.group),
      "al_group_open");
  blob.resize(static_cast<size_t>(bytes));
  const std::vector<char> blobs = exchange.all(number, blob);
  if (!open) return;
  if (succeeds(al_group_connect(rank.group, blobs.data(),
                                static_cast<int64_t>(blobs.size())),
               "al_group_connect"))
    f(rank);
  rank.leave();
}

}  // namespace

void Rank::leave() {
  if (group) succeeds(al_group_close(group), "al_group_close");
  group = nullptr;
}

void with_ranks(const RankOptions& options,
                const std::function<void(Rank&)>& f) {
  Exchange exchange;
  std::vector<std::thread> threads;
  threads.reserve(kRanks);
  for (int32_t rank = 0; rank < kRanks; ++rank)
    threads.emplace_back([&, rank] { be_rank(rank, options, exchange, f); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace native
