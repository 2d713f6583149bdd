/**
 * Launches. The blocks of a grid run in an order by the seed, as many at a time
 * as there are helpers; the threads of a block are fibers of one thread of the
 * host and take turns where they wait for each other, in an order by the seed.
 */
#include "kernel.h"

#include <device_runtime.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <numeric>
#include <thread>
#include <unordered_map>
#include <vector>

#include "device.h"
#include "fiber.h"
#include "report.h"
#include "work.h"

namespace cuda_platform {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kWarp = 32;
constexpr size_t kStack = 128 << 10;

/* ---- a launch ------------------------------------------------------------*/

/** What a thread has published by a fence and an atomic behind it. */
struct Release {
  Place fence; /* where its fence was */
};

struct Launch {
  Kernel kernel;
  dim3 grid, block;
  Access access; /* the operation and what it knows */
  std::vector<uint32_t> order;
  std::atomic<size_t> next{0};
  std::atomic<cudaError_t> error{cudaSuccess};

  std::mutex mutex;
  size_t running = 0; /* threads of the host that run blocks */
  std::condition_variable ended;
  /* What was published at the address of an atomic, in its order. */
  std::unordered_map<const void*, std::vector<Release>> published;
};

/* ---- a block -------------------------------------------------------------*/

/** A thread of a block. */
struct Thread {
  void* stack = nullptr; /* where it goes on */
  uint3 index;
  Place place;
  bool ended = false;
  uint64_t value = 0; /* for the other lanes */
  unsigned votes = 0; /* of the last barrier of the warp */
  Place fence;        /* the last one; fences > 0 if there was one */
};

/** Lanes of a warp that wait for each other. */
struct WarpBarrier {
  unsigned lanes, arrived, votes;
};

}  // namespace

/** The block that a thread of the host runs. */
struct RunningBlock {
  Launch* launch = nullptr;
  uint32_t index = 0;
  uint3 index_in_grid;
  uint64_t serial = 0; /* of all blocks */
  unsigned size = 0;   /* threads */
  unsigned live = 0;   /* that have not ended */
  unsigned current = 0;
  std::vector<Thread> threads;
  std::vector<uint16_t> runnable;
  std::vector<uint16_t> waiting; /* at the barrier of the block */
  int votes = 0, last_votes = 0;
  std::vector<std::vector<WarpBarrier>> warps;
  bool failed = false;

  /* What others have published, as far as an atomic has shown it (seen) and a
     fence then made it known. */
  std::map<const void*, size_t> seen, known;
  std::unordered_map<uint32_t, std::vector<Release>> visible;
};

__thread RunningBlock* running_block = nullptr;

namespace {

/** A thread of the host as it runs blocks. */
struct Worker {
  RunningBlock block;
  void* scheduler = nullptr; /* its own stack meanwhile */
  char* stacks;
  SharedMemory shared;

  Worker() {
    stacks = static_cast<char*>(
        mmap(nullptr, kMaxThreads * kStack, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  ~Worker() { munmap(stacks, kMaxThreads * kStack); }
};

thread_local std::unique_ptr<Worker> worker;

Thread& current_thread() {
  return running_block->threads[running_block->current];
}

/** Lets others run until somebody makes this thread runnable. */
void wait_for_turn() {
  Thread& thread = current_thread();
  switch_stack(&thread.stack, worker->scheduler);
}

void release_block(RunningBlock& block) {
  for (const uint16_t i : block.waiting) {
    ++block.threads[i].place.barriers;
    block.runnable.push_back(i);
  }
  block.waiting.clear();
  block.last_votes = block.votes;
  block.votes = 0;
}

/** Lets the lanes go on for whom nobody is missing. */
void release_warp(RunningBlock& block, unsigned warp) {
  auto& barriers = block.warps[warp];
  unsigned gone = 0; /* ended, or beyond the block */
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const unsigned i = warp * kWarp + lane;
    if (i >= block.size || block.threads[i].ended) gone |= 1u << lane;
  }
  for (size_t b = 0; b < barriers.size(); ++b) {
    const WarpBarrier barrier = barriers[b];
    if (barrier.lanes & ~(barrier.arrived | gone)) continue;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(barrier.arrived >> lane & 1)) continue;
      const auto i = static_cast<uint16_t>(warp * kWarp + lane);
      ++block.threads[i].place.warp_barriers;
      block.threads[i].votes = barrier.votes;
      block.runnable.push_back(i);
    }
    barriers.erase(barriers.begin() + static_cast<std::ptrdiff_t>(b));
    return;
  }
}

/** The first function on a thread's stack. */
void begin_thread() {
  RunningBlock& block = *running_block;
  const Kernel& kernel = block.launch->kernel;
  kernel.thread(kernel.arguments.get());
  Thread& thread = current_thread();
  thread.ended = true;
  if (--block.live > 0 && block.waiting.size() == block.live)
    release_block(block);
  release_warp(block, block.current / kWarp);
  wait_for_turn();
}

void run_threads(Worker& host) {
  RunningBlock& block = host.block;
  std::vector<uint16_t> turn;
  while (block.live > 0 && !block.failed) {
    if (block.runnable.empty()) {
      report(
          std::string("threads of a block wait for each other for ever in ") +
          block.launch->access.operation.name);
      block.launch->error = cudaErrorLaunchTimeout;
      return;
    }
    turn.swap(block.runnable);
    block.runnable.clear();
    for (size_t i = turn.size(); i > 1; --i)
      std::swap(turn[i - 1], turn[random_below(i)]);
    for (const uint16_t i : turn) {
      block.current = i;
      running_block = &block;
      switch_stack(&host.scheduler, block.threads[i].stack);
      running_block = nullptr;
      if (block.failed) return;
    }
  }
}

/** Kernels ask for it all the time. */
uint3 index_in(const dim3& size, unsigned i) {
  return {i % size.x, i / size.x % size.y, i / size.x / size.y};
}

void run_block(Worker& host, Launch& launch, uint32_t index) {
  static std::atomic<uint64_t> serials{0};
  RunningBlock& block = host.block;
  block = RunningBlock();
  block.launch = &launch;
  block.index = index;
  block.index_in_grid = index_in(launch.grid, index);
  block.serial = ++serials;
  block.size = block.live = launch.block.x * launch.block.y * launch.block.z;
  block.threads.resize(block.size);
  block.warps.resize((block.size + kWarp - 1) / kWarp);
  for (unsigned i = 0; i < block.size; ++i) {
    Thread& thread = block.threads[i];
    thread.index = index_in(launch.block, i);
    thread.place.block = index;
    thread.place.thread = static_cast<uint16_t>(i);
    thread.stack = new_stack(host.stacks + (i + 1) * kStack, begin_thread);
    block.runnable.push_back(static_cast<uint16_t>(i));
  }
  run_threads(host);
}

/** Runs blocks of a launch until none is left. */
void run_blocks(Launch& launch) {
  if (worker == nullptr) worker = std::make_unique<Worker>();
  const Running now(launch.access.operation, launch.access.known);
  for (;;) {
    const size_t i = launch.next++;
    if (i >= launch.order.size() || launch.error != cudaSuccess) return;
    run_block(*worker, launch, launch.order[i]);
  }
}

/* ---- helpers -------------------------------------------------------------*/

/** Threads that run blocks of any launch beside the streams' own. */
class Helpers {
 public:
  Helpers() {
    for (int64_t i = 0; i < setting("HELPERS", 1); ++i)
      std::thread([this] { work(); }).detach();
  }

  void help(const std::shared_ptr<Launch>& launch) {
    std::lock_guard<std::mutex> lock(mutex_);
    launches_.push_back(launch);
    changed_.notify_one();
  }

 private:
  void work() {
    for (;;) {
      std::shared_ptr<Launch> launch;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return !launches_.empty(); });
        launch = std::move(launches_.front());
        launches_.pop_front();
        std::lock_guard<std::mutex> own(launch->mutex);
        if (launch->next >= launch->order.size()) continue;
        ++launch->running;
      }
      run_blocks(*launch);
      std::lock_guard<std::mutex> own(launch->mutex);
      --launch->running;
      launch->ended.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Launch>> launches_;
};

void run_grid(const std::shared_ptr<Launch>& launch) {
  static Helpers* const helpers = new Helpers;
  if (const int wanted = begin_call("kernel"))
    return lose_device(static_cast<cudaError_t>(wanted));
  launch->access = access_of_thread(kRead);
  auto& order = launch->order;
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[random_below(i)]);
  if (order.size() > 1) helpers->help(launch);
  run_blocks(*launch);
  std::unique_lock<std::mutex> lock(launch->mutex);
  launch->next = order.size();
  launch->ended.wait(lock, [&] { return launch->running == 0; });
  if (launch->error != cudaSuccess) lose_device(launch->error);
}

/** Whether there is code for a GPU: "sm_80,sm_90,compute_90". */
bool has_code_for(const char* targets, int capability) {
  for (const char* at = targets; *at;) {
    int number = 0;
    if (sscanf(at, "sm_%d", &number) == 1 && number / 10 == capability / 10 &&
        number <= capability)
      return true;
    if (sscanf(at, "compute_%d", &number) == 1 && number <= capability)
      return true;
    at += strcspn(at, ",");
    at += *at == ',';
  }
  return *targets == '\0';
}

}  // namespace

std::string describe(const RunningBlock& block) {
  return " in block " + std::to_string(block.index) + ", thread " +
         std::to_string(block.current) + " of " +
         block.launch->access.operation.name;
}

/* ---- what kernels call ---------------------------------------------------*/

cudaError_t launch(const cudaLaunchConfig_t& config, Kernel kernel) {
  if (const cudaError_t error = begin("cudaLaunchKernel")) return error;
  const dim3 grid = config.gridDim, block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (threads == 0 || threads > kMaxThreads || blocks == 0 ||
      grid.x > INT32_MAX || grid.y > UINT16_MAX || grid.z > UINT16_MAX ||
      config.dynamicSmemBytes > 0)
    return fail(cudaErrorInvalidConfiguration);
  if (device_of(config.stream) != current_device())
    return fail(cudaErrorInvalidResourceHandle);
  if (!has_code_for(kernel.targets, capability_of(current_device())))
    return fail(cudaErrorNoKernelImageForDevice);
  const std::string name = kernel.name ? kernel.name : name_of(kernel.function);
  const auto launch = std::make_shared<Launch>();
  launch->kernel = std::move(kernel);
  launch->grid = grid;
  launch->block = block;
  launch->order.resize(blocks);
  std::iota(launch->order.begin(), launch->order.end(), 0u);
  return fail(enqueue_work(config.stream, intern("the kernel " + name),
                           [launch](Clocks*) { run_grid(launch); }));
}

cudaError_t look_for_code(const char* targets) {
  if (const cudaError_t error = begin("cudaFuncGetAttributes")) return error;
  return fail(has_code_for(targets, capability_of(current_device()))
                  ? cudaSuccess
                  : cudaErrorNoKernelImageForDevice);
}

uint3 thread_index() { return current_thread().index; }
uint3 block_index() { return running_block->index_in_grid; }

dim3 block_dimensions() { return running_block->launch->block; }
dim3 grid_dimensions() { return running_block->launch->grid; }

int block_barrier(int vote) {
  RunningBlock& block = *running_block;
  block.votes += vote;
  block.waiting.push_back(static_cast<uint16_t>(block.current));
  if (block.waiting.size() == block.live) release_block(block);
  wait_for_turn();
  return block.last_votes;
}

unsigned warp_barrier(unsigned lanes, bool vote) {
  RunningBlock& block = *running_block;
  const unsigned warp = block.current / kWarp;
  const unsigned me = 1u << block.current % kWarp;
  if (!(lanes & me)) {
    report(std::string("a lane waits for others that do not wait for it in ") +
           block.launch->access.operation.name);
    return 0;
  }
  auto& barriers = block.warps[warp];
  auto barrier =
      std::find_if(barriers.begin(), barriers.end(),
                   [&](const WarpBarrier& b) { return b.lanes == lanes; });
  if (barrier == barriers.end())
    barrier = barriers.insert(barrier, {lanes, 0, 0});
  barrier->arrived |= me;
  if (vote) barrier->votes |= me;
  release_warp(block, warp);
  wait_for_turn();
  return current_thread().votes;
}

uint64_t exchange(unsigned lanes, uint64_t mine, int lane) {
  current_thread().value = mine;
  warp_barrier(lanes, false);
  RunningBlock& block = *running_block;
  const unsigned from =
      block.current / kWarp * kWarp + static_cast<unsigned>(lane);
  const bool is_there = lane >= 0 && lane < static_cast<int>(kWarp) &&
                        from < block.size && lanes >> lane & 1;
  const uint64_t theirs = is_there ? block.threads[from].value : mine;
  // Nobody may give another value before all have read this one.
  warp_barrier(lanes, false);
  return theirs;
}

/* Between blocks: what a thread did before a fence is known to those who then
   see, by an atomic, what it did behind it, and have a fence themselves. */

void fence() {
  RunningBlock& block = *running_block;
  Thread& thread = current_thread();
  ++thread.place.fences;
  thread.fence = thread.place;
  std::lock_guard<std::mutex> lock(block.launch->mutex);
  for (const auto& [address, count] : block.seen) {
    const auto& published = block.launch->published[address];
    for (size_t& i = block.known[address]; i < count; ++i)
      block.visible[published[i].fence.block].push_back(published[i]);
  }
}

/** An atomic publishes before it is made: who comes after it must see that. */
void publish_at(const void* address) {
  RunningBlock& block = *running_block;
  const Thread& thread = current_thread();
  if (thread.fence.fences == 0) return;
  std::lock_guard<std::mutex> lock(block.launch->mutex);
  auto& published = block.launch->published[address];
  published.push_back({thread.fence});
  for (const auto& [other, releases] : block.visible)
    if (other != block.index)
      published.insert(published.end(), releases.begin(), releases.end());
}

void atomic_was_made(const void* address) {
  RunningBlock& block = *running_block;
  std::lock_guard<std::mutex> lock(block.launch->mutex);
  const auto& all = block.launch->published;
  const auto found = all.find(address);
  if (found != all.end()) block.seen[address] = found->second.size();
}

bool is_ordered_in_launch(const Place& before, const Place& now) {
  if (before.block == now.block) {
    if (before.thread == now.thread) return true;
    if (before.barriers != now.barriers) return true;
    return before.thread / kWarp == now.thread / kWarp &&
           before.warp_barriers != now.warp_barriers;
  }
  if (running_block == nullptr) return true;
  const auto found = running_block->visible.find(before.block);
  if (found == running_block->visible.end()) return false;
  for (const Release& release : found->second) {
    const Place& fence = release.fence;
    if (before.thread == fence.thread ? before.fences < fence.fences
                                      : before.barriers < fence.barriers)
      return true;
  }
  return false;
}

/* ---- accesses ------------------------------------------------------------*/

[[noreturn]] void fail_kernel(cudaError_t error) {
  running_block->failed = true;
  running_block->launch->error = error;
  wait_for_turn();
  __builtin_unreachable();  // it never gets another turn
}

void trap() { fail_kernel(cudaErrorAssert); }

void access_in_kernel(const void* memory, size_t bytes, Kind kind,
                      size_t alignment, const void* pc) {
  RunningBlock& block = *running_block;
  const auto* const at = static_cast<const char*>(memory);
  // Its own stack, and its arguments.
  if (at >= worker->stacks && at < worker->stacks + kMaxThreads * kStack)
    return;
  const auto* const arguments =
      static_cast<const char*>(block.launch->kernel.arguments.get());
  if (at >= arguments && at < arguments + block.launch->kernel.bytes) return;

  Access now = block.launch->access;
  now.kind = kind;
  now.place = current_thread().place;
  if (reinterpret_cast<uintptr_t>(memory) % alignment != 0) {
    report_at("misaligned access by " + std::string(now.operation.name), at,
              now, pc);
    fail_kernel(cudaErrorMisalignedAddress);
  }
  if (is_ours(memory)) {
    if (kind == kAtomic) publish_at(memory);
    if (!touch(memory, bytes, now, pc, nullptr))
      fail_kernel(cudaErrorIllegalAddress);
    return;
  }
  if (worker->shared.touch(memory, bytes, now, block.serial, pc)) return;
  if (is_of_module(memory)) return;  // constants
  report_at("memory of the host in " + std::string(now.operation.name), at, now,
            pc);
  fail_kernel(cudaErrorIllegalAddress);
}

void access(const void* memory, size_t bytes, int kind) {
  access_in_kernel(memory, bytes, static_cast<Kind>(kind), bytes,
                   __builtin_return_address(0));
}

}  // namespace cuda_platform
