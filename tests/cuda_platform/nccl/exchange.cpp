#include "exchange.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace cuda_platform {
namespace {

/** Whoever waits looks again so often, whatever it was told. */
constexpr long kLookNanoseconds = 2'000'000;

/** A process that has ended may still be there for its parent. */
bool is_dead(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return true;
  const size_t end = text.rfind(')');
  const char state = end + 2 < text.size() ? text[end + 2] : 'X';
  return state == 'Z' || state == 'X';
}

}  // namespace

struct Exchange::Shared {
  std::atomic<uint32_t> epoch; /* a futex: something has changed */
  struct Rank {
    std::atomic<int32_t> pid; /* not 0: it is here */
    char gpu[64];
    std::atomic<uint32_t> connected; /* bits */
    uint64_t hash;                   /* of the step that is posted */
    std::atomic<uint64_t> posted;    /* steps whose bytes are in its area */
    std::atomic<uint64_t> taken;     /* steps of which it has the others' */
    std::atomic<bool> left;
  } ranks[kMaxRanks];
};

Exchange::Exchange(const std::string& name, int rank, int ranks)
    : path_("/dev/shm/" + name), rank_(rank), ranks_(ranks) {
  if (ranks > kMaxRanks)
    throw std::string("more ranks than this stand-in has room for");
  bytes_ = sizeof(Shared) + static_cast<size_t>(ranks) * kChunkBytes;
  const int file = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes_)) != 0)
    throw path_ + ": " + strerror(errno);
  // A new file is all 0, which is how everything begins.
  void* const memory =
      mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) throw path_ + ": " + strerror(errno);
  shared_ = static_cast<Shared*>(memory);
}

Exchange::~Exchange() {
  unlink(path_.c_str());
  munmap(shared_, bytes_);
}

char* Exchange::area(int rank) const {
  return reinterpret_cast<char*>(shared_) + sizeof(Shared) +
         static_cast<size_t>(rank) * kChunkBytes;
}

void Exchange::changed() {
  shared_->epoch.fetch_add(1);
  syscall(SYS_futex, &shared_->epoch, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

bool Exchange::wait(const std::function<bool()>& ready, const Stop& stop) {
  for (;;) {
    const uint32_t epoch = shared_->epoch.load();
    if (ready()) return true;
    if (stop()) return false;
    const timespec limit = {0, kLookNanoseconds};
    syscall(SYS_futex, &shared_->epoch, FUTEX_WAIT, epoch, &limit, nullptr, 0);
  }
}

bool Exchange::join(const std::string& gpu, const Stop& stop) {
  Shared::Rank& mine = shared_->ranks[rank_];
  snprintf(mine.gpu, sizeof mine.gpu, "%s", gpu.c_str());
  mine.pid = getpid();
  changed();
  const auto all_here = [&] {
    for (int i = 0; i < ranks_; ++i)
      if (shared_->ranks[i].pid == 0) return false;
    return true;
  };
  if (!wait(all_here, stop)) return false;
  unlink(path_.c_str());  // nobody needs its name any more
  return true;
}

std::string Exchange::same_gpu() const {
  for (int i = 0; i < ranks_; ++i)
    for (int j = 0; j < i; ++j)
      if (strcmp(shared_->ranks[i].gpu, shared_->ranks[j].gpu) == 0)
        return std::to_string(j) + " and " + std::to_string(i);
  return "";
}

bool Exchange::connect(unsigned bits, const Stop& stop) {
  shared_->ranks[rank_].connected |= bits;
  changed();
  const auto all_connected = [&] {
    for (int i = 0; i < ranks_; ++i)
      if ((shared_->ranks[i].connected & bits) != bits) return false;
    return true;
  };
  return wait(all_connected, stop);
}

bool Exchange::step(uint64_t hash, const void* bytes, size_t count,
                    const std::function<void(const char*)>& take,
                    const Stop& stop) {
  Shared::Rank& mine = shared_->ranks[rank_];
  const uint64_t number = ++steps_;
  const auto last_is_taken = [&] {
    for (int i = 0; i < ranks_; ++i)
      if (shared_->ranks[i].taken < number - 1) return false;
    return true;
  };
  if (!wait(last_is_taken, stop)) return false;
  memcpy(area(rank_), bytes, count);
  mine.hash = hash;
  mine.posted = number;
  changed();
  const auto all_posted = [&] {
    for (int i = 0; i < ranks_; ++i)
      if (shared_->ranks[i].posted < number || shared_->ranks[i].hash != hash)
        return false;
    return true;
  };
  if (!wait(all_posted, stop)) return false;
  take(area(0));
  mine.taken = number;
  changed();
  return true;
}

void Exchange::leave() {
  shared_->ranks[rank_].left = true;
  changed();
}

bool Exchange::all_have_left(const Stop& stop) {
  const auto nobody_there = [&] {
    for (int i = 0; i < ranks_; ++i) {
      const Shared::Rank& rank = shared_->ranks[i];
      if (rank.pid != 0 && !rank.left && !is_dead(rank.pid)) return false;
    }
    return true;
  };
  return wait(nobody_there, stop);
}

bool Exchange::a_rank_died() const {
  for (int i = 0; i < ranks_; ++i) {
    const Shared::Rank& rank = shared_->ranks[i];
    if (i != rank_ && rank.pid != 0 && !rank.left && is_dead(rank.pid))
      return true;
  }
  return false;
}

}  // namespace cuda_platform
