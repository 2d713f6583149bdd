#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "report.h"

namespace cuda_platform {
namespace {

constexpr size_t kAlignment = 512;
constexpr size_t kRedZone = kAlignment;
constexpr size_t kPage = 4096;
constexpr size_t kGranule = 8;
constexpr size_t kPageGranules = kPage / kGranule;
constexpr uint8_t kAll = 0xff;

/** NaN in every floating type, -1 in every integer. */
constexpr int kPoison = 0xff;
/** The rest of a larger block is not filled: the checker knows all the same. */
constexpr size_t kPoisoned = 1 << 20;

/** Blocks of a size that stay unused before the oldest one's addresses are. */
constexpr size_t kQuarantine = 8;

/** Which bytes of a granule may be used, and which hold something. */
struct Granule {
  uint8_t alive = 0, written = 0;
};

/**
 * What is remembered of a page as a whole: copies are of whole pages, and need
 * not look at each granule unless a kernel has been here.
 */
struct Page {
  History history;
  bool has_granules;
};

template <class T>
T* reserve(size_t bytes, uintptr_t at = 0) {
  void* const memory =
      mmap(reinterpret_cast<void*>(at), bytes, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
               (at ? MAP_FIXED_NOREPLACE : 0),
           -1, 0);
  if (memory == MAP_FAILED) {
    perror("stand-in: cannot reserve addresses for memory");
    abort();
  }
  return static_cast<T*>(memory);
}

struct Shadow {
  static constexpr size_t kBytes = kRangeBytes * (kMaxGpus + 1);
  char* data = reserve<char>(kBytes, kBase);
  Granule* granules = reserve<Granule>(kBytes / kGranule * sizeof(Granule));
  History* histories = reserve<History>(kBytes / kGranule * sizeof(History));
  Page* pages = reserve<Page>(kBytes / kPage * sizeof(Page));
  std::atomic_flag locks[4096] = {};

  std::mutex mutex; /* guards what follows */
  std::map<char*, Block> blocks;
  size_t used[kMaxGpus + 1] = {}; /* bytes of each range given out so far */
  std::map<std::pair<int, size_t>, std::deque<char*>> idle;
  uint64_t last_number = 0;
};

Shadow& shadow() {
  static Shadow* const all = new Shadow;
  return *all;
}

/** Holds what is known about a page. */
class PageLock {
 public:
  explicit PageLock(size_t page) : flag_(shadow().locks[page % 4096]) {
    while (flag_.test_and_set(std::memory_order_acquire)) {
    }
  }
  ~PageLock() { flag_.clear(std::memory_order_release); }
  PageLock(const PageLock&) = delete;
  PageLock& operator=(const PageLock&) = delete;

 private:
  std::atomic_flag& flag_;
};

/** The same for all sizes whose addresses a pool gives to one another. */
size_t footprint(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment + kRedZone;
}

size_t offset_of(const void* address) {
  return reinterpret_cast<uintptr_t>(address) - kBase;
}

char* as_char(const void* address) {
  return static_cast<char*>(const_cast<void*>(address));
}

/** Bits of a granule for bytes [first, end) of its range. */
uint8_t bits(size_t granule, size_t first, size_t end) {
  const size_t begin = granule * kGranule;
  const size_t low = first > begin ? first - begin : 0;
  const size_t high = std::min(end - begin, kGranule);
  return static_cast<uint8_t>((kAll << low) & (kAll >> (kGranule - high)));
}

/** Calls each(granule, its bits) for the bytes [first, end). */
template <class Each>
void for_granules(size_t first, size_t end, const Each& each) {
  for (size_t i = first / kGranule; i * kGranule < end; ++i)
    each(i, bits(i, first, end));
}

/** Calls each(first, end) for the part of the bytes in each page. */
template <class Each>
void for_pages(size_t first, size_t end, const Each& each) {
  while (first < end) {
    const size_t next = std::min(end, (first / kPage + 1) * kPage);
    each(first, next);
    first = next;
  }
}

/** What the checker found about some bytes. */
struct Findings {
  size_t at = 0; /* the first byte */
  bool dead = false, unwritten = false;
  Slot race;
};

void check_order(size_t first, size_t end, const Access& now, Findings* found) {
  Shadow& all = shadow();
  Page& page = all.pages[first / kPage];
  const auto take = [&](const Slot& race, size_t at) {
    if (race.operation == 0 || found->race.operation != 0) return;
    found->race = race;
    found->at = at;
  };
  if (end - first == kPage) {
    if (page.has_granules) {
      // Each is asked; then the page as a whole stands for them.
      for_granules(first, end, [&](size_t i, uint8_t b) {
        take(remember(&all.histories[i], now, b), i * kGranule);
      });
      if (now.kind != kRead) {
        std::fill_n(all.histories + first / kGranule, kPageGranules, History());
        page.has_granules = false;
      }
    }
    take(remember(&page.history, now, kAll), first);
    return;
  }
  // With the page's history, but without a place in it.
  History past = page.history;
  take(remember(&past, now, kAll), first);
  page.has_granules = true;
  for_granules(first, end, [&](size_t i, uint8_t b) {
    take(remember(&all.histories[i], now, b), i * kGranule);
  });
}

void check_contents(size_t first, size_t end, Kind kind, Findings* found) {
  Shadow& all = shadow();
  for_granules(first, end, [&](size_t i, uint8_t b) {
    Granule& granule = all.granules[i];
    if ((granule.alive & b) != b) {
      if (!found->dead) found->at = i * kGranule;
      found->dead = true;
      return;
    }
    if (kind != kWrite && (granule.written & b) != b) {
      if (!found->dead && !found->unwritten) found->at = i * kGranule;
      found->unwritten = true;
    }
    // Told once.
    granule.written |= b;
  });
}

/** Marks all bytes of a block. */
void mark(const Block& block, bool alive) {
  Shadow& all = shadow();
  const size_t first = offset_of(block.address);
  for_pages(first, first + block.bytes, [&](size_t begin, size_t end) {
    PageLock lock(begin / kPage);
    if (end - begin == kPage) {
      std::fill_n(all.granules + begin / kGranule, kPageGranules,
                  Granule{alive ? kAll : uint8_t{0}, 0});
      return;
    }
    for_granules(begin, end, [&](size_t i, uint8_t b) {
      Granule& granule = all.granules[i];
      granule.written &= static_cast<uint8_t>(~b);
      if (alive)
        granule.alive |= b;
      else
        granule.alive &= static_cast<uint8_t>(~b);
    });
  });
  memset(block.address, kPoison, std::min(block.bytes, kPoisoned));
}

/** Orders what the checker knows about a block behind this access. */
void claim(const Block& block, const Access& now) {
  const size_t first = offset_of(block.address);
  Findings found;
  for_pages(first, first + block.bytes, [&](size_t begin, size_t end) {
    PageLock lock(begin / kPage);
    check_order(begin, end, now, &found);
  });
  if (found.race.operation != 0)
    report_race(reinterpret_cast<char*>(kBase + found.at), found.race, now,
                nullptr, nullptr);
}

}  // namespace

Block reserve_block(int range, size_t bytes, const char* call, char* at) {
  Shadow& all = shadow();
  std::lock_guard<std::mutex> lock(all.mutex);
  const size_t size = footprint(bytes);
  auto& idle = all.idle[{range, size}];
  if (at == nullptr && idle.size() > kQuarantine) {
    at = idle.front();
    idle.pop_front();
  } else if (at == nullptr) {
    if (size > kRangeBytes - all.used[range] - kAlignment) return {};
    at = all.data + range * kRangeBytes + kAlignment + all.used[range];
    all.used[range] += size;
  }
  return all.blocks[at] = {at, bytes, call, nullptr, ++all.last_number};
}

void come_alive(const Block& block, const Access& now) {
  claim(block, now);
  mark(block, true);
}

void retire(const void* address, const char* call) {
  Shadow& all = shadow();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.blocks[as_char(address)].freed_by = call;
}

void die(const Block& block, const Access& now) {
  claim(block, now);
  mark(block, false);
}

void give_back_addresses(const Block& block) {
  Shadow& all = shadow();
  // Of large ones the system may have the pages.
  const size_t first = (offset_of(block.address) + kPage - 1) / kPage;
  const size_t end = (offset_of(block.address) + block.bytes) / kPage;
  if (end > first + 16) {
    const size_t pages = end - first;
    madvise(all.data + first * kPage, pages * kPage, MADV_DONTNEED);
    madvise(all.histories + first * kPageGranules,
            pages * kPageGranules * sizeof(History), MADV_DONTNEED);
    for (size_t i = first; i < end; ++i) all.pages[i].has_granules = false;
  }
  std::lock_guard<std::mutex> lock(all.mutex);
  all.idle[{range_of(block.address), footprint(block.bytes)}].push_back(
      block.address);
}

bool find_block(const void* address, Block* found) {
  Shadow& all = shadow();
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto it = all.blocks.find(as_char(address));
  if (it == all.blocks.end() || it->second.freed_by) return false;
  *found = it->second;
  return true;
}

bool nearest_block(const void* address, Block* found) {
  Shadow& all = shadow();
  std::lock_guard<std::mutex> lock(all.mutex);
  auto it = all.blocks.upper_bound(as_char(address));
  if (it == all.blocks.begin()) return false;
  *found = (--it)->second;
  return true;
}

bool touch(const void* address, size_t bytes, const Access& now, const void* pc,
           const char* what) {
  if (bytes == 0) return true;
  const size_t first = offset_of(address);
  Findings contents, order;
  for_pages(first, first + bytes, [&](size_t begin, size_t end) {
    PageLock lock(begin / kPage);
    check_contents(begin, end, now.kind, &contents);
    if (!contents.dead) check_order(begin, end, now, &order);
  });
  const auto at = [](const Findings& found) {
    return reinterpret_cast<const char*>(kBase + found.at);
  };
  if (contents.dead) {
    report_dead(std::max(at(contents), static_cast<const char*>(address)),
                bytes, now, pc, what);
    return false;
  }
  if (contents.unwritten) report_unwritten(at(contents), now, pc, what);
  if (order.race.operation != 0)
    report_race(at(order), order.race, now, pc, what);
  return true;
}

}  // namespace cuda_platform
