/**
 * Memory of the GPUs and pinned memory of the host. A pool gives a freed block
 * to the next who may have it: at once in the stream that freed it, elsewhere
 * when that stream has come so far.
 */
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "device.h"
#include "work.h"

using namespace cuda_platform;

namespace cuda_platform {
namespace {

/** What a block takes of its device's memory. */
size_t cost(size_t bytes) { return (bytes + 511) / 512 * 512; }

/** A block that was freed and that its pool keeps. */
struct Kept {
  Block block;
  cudaStream_t stream; /* that freed it; nullptr: the host */
  std::shared_ptr<Moment> freed;
};

}  // namespace
}  // namespace cuda_platform

struct CUmemPoolHandle_st {
  explicit CUmemPoolHandle_st(int of) : device(of) {}

  int device;
  uint64_t threshold = 0; /* bytes kept when the host waits */
  std::vector<cuda_platform::Kept> kept;
  uint64_t used = 0, reserved = 0, most_used = 0, most_reserved = 0;
};

namespace cuda_platform {
namespace {

/** Which pool a block in use is of; nullptr: cudaMalloc(). */
struct State {
  std::mutex mutex;
  std::map<const void*, cudaMemPool_t> pools_of;
  std::map<cudaMemPool_t, int> pools; /* and their devices */
  cudaMemPool_t default_pools[kMaxGpus] = {};
  size_t used[kMaxGpus] = {}; /* bytes of each device's memory */
};

State& state() {
  static State* const all = new State;
  return *all;
}

/** Takes so much of a device; false if there is not as much. */
bool take_bytes(State& all, int device, size_t bytes) {
  if (bytes > memory_of(device) - std::min(memory_of(device), all.used[device]))
    return false;
  all.used[device] += bytes;
  return true;
}

/**
 * Takes blocks out of a pool until only so many bytes are reserved: what nobody
 * uses any more, and what is behind the last use in this stream, whose
 * addresses are given back there.
 */
std::vector<Block> trim(State& all, cudaMemPool_t pool, uint64_t bytes,
                        cudaStream_t stream) {
  std::vector<Block> pending;
  auto& kept = pool->kept;
  const auto rest =
      std::remove_if(kept.begin(), kept.end(), [&](const Kept& one) {
        if (pool->reserved <= bytes) return false;
        const bool is_over = one.freed->is_over();
        if (!is_over && (stream == nullptr || one.stream != stream))
          return false;
        const size_t size = cost(one.block.bytes);
        pool->reserved -= size;
        all.used[pool->device] -= size;
        if (is_over)
          give_back_addresses(one.block);
        else
          pending.push_back(one.block);
        return true;
      });
  kept.erase(rest, kept.end());
  return pending;
}

/** The same, of what nobody uses any more. */
void trim(State& all, cudaMemPool_t pool, uint64_t bytes) {
  trim(all, pool, bytes, nullptr);
}

/** A block that is kept and may be used in this stream: the last freed. */
bool take_kept(cudaMemPool_t pool, size_t bytes, cudaStream_t stream,
               Kept* taken) {
  auto& kept = pool->kept;
  for (size_t i = kept.size(); i-- > 0;) {
    if (cost(kept[i].block.bytes) != cost(bytes)) continue;
    if (kept[i].stream != stream && !kept[i].freed->is_over()) continue;
    *taken = kept[i];
    kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(i));
    return true;
  }
  return false;
}

cudaMemPool_t default_pool(State& all, int device) {
  cudaMemPool_t& pool = all.default_pools[device];
  if (pool == nullptr) {
    pool = new CUmemPoolHandle_st(device);
    all.pools[pool] = device;
  }
  return pool;
}

cudaError_t allocate_async(void** memory, size_t bytes, cudaMemPool_t pool,
                           cudaStream_t stream) {
  State& all = state();
  Kept kept = {};
  std::vector<Block> pending;
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    const int device = pool->device;
    char* at = nullptr;
    if (take_kept(pool, bytes, stream, &kept)) {
      at = kept.block.address;
    } else {
      const size_t size = cost(bytes);
      // What is kept in other sizes is used first, mapped to another address:
      // "remaps unused memory in the pool", says NVIDIA's blog on this
      // allocator.
      pending = trim(all, pool,
                     pool->reserved - std::min<uint64_t>(pool->reserved, size),
                     stream);
      if (!take_bytes(all, device, size)) {
        trim(all, pool, 0);
        if (!take_bytes(all, device, size)) return cudaErrorMemoryAllocation;
      }
      pool->reserved += size;
      pool->most_reserved = std::max(pool->most_reserved, pool->reserved);
    }
    const Block block = reserve_block(device, bytes, "cudaMallocAsync", at);
    if (block.address == nullptr) return cudaErrorMemoryAllocation;
    kept.block = block;
    pool->used += cost(bytes);
    pool->most_used = std::max(pool->most_used, pool->used);
    all.pools_of[block.address] = pool;
  }
  *memory = kept.block.address;
  const bool elsewhere = kept.freed && kept.stream != stream;
  return enqueue_work(stream, "cudaMallocAsync",
                      [kept, elsewhere, pending](Clocks* known) {
                        for (const Block& block : pending)
                          give_back_addresses(block);
                        if (elsewhere) known->join(kept.freed->known());
                        come_alive(kept.block, access_of_thread(kWrite));
                      });
}

/** Of the pool whose block begins here; false: none has it. */
bool take_back(State& all, const void* memory, const char* call, Block* block,
               cudaMemPool_t* pool) {
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.pools_of.find(memory);
  if (found == all.pools_of.end() || !find_block(memory, block)) return false;
  *pool = found->second;
  all.pools_of.erase(found);
  retire(memory, call);
  if (*pool) (*pool)->used -= cost(block->bytes);
  return true;
}

}  // namespace

void release_over_threshold(int device) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  for (const auto& [pool, of] : all.pools)
    if (of == device) trim(all, pool, pool->threshold);
}

}  // namespace cuda_platform

extern "C" {

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  CALL();
  if (memory == nullptr) return fail(cudaErrorInvalidValue);
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  State& all = state();
  const int device = current_device();
  std::unique_lock<std::mutex> lock(all.mutex);
  if (!take_bytes(all, device, cost(bytes)))
    return fail(cudaErrorMemoryAllocation);
  const Block block = reserve_block(device, bytes, __func__);
  if (block.address == nullptr) return fail(cudaErrorMemoryAllocation);
  all.pools_of[block.address] = nullptr;
  lock.unlock();
  come_alive(block, access_of_thread(kWrite));
  *memory = block.address;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  CALL();
  if (memory == nullptr) return cudaSuccess;
  State& all = state();
  Block block;
  cudaMemPool_t pool;
  if (!take_back(all, memory, __func__, &block, &pool))
    return fail(cudaErrorInvalidValue);
  // What is of a pool is freed without waiting for anybody, as is documented.
  if (pool == nullptr) wait_for_device(range_of(memory));
  const Access now = access_of_thread(kWrite);
  die(block, now);
  std::lock_guard<std::mutex> lock(all.mutex);
  if (pool) {
    const auto freed = std::make_shared<Moment>();
    freed->end(*now.known, 0);
    pool->kept.push_back({block, nullptr, freed});
    return cudaSuccess;
  }
  all.used[range_of(memory)] -= cost(block.bytes);
  give_back_addresses(block);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags) {
  CALL();
  if (memory == nullptr || flags > 7) return fail(cudaErrorInvalidValue);
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  const Block block = reserve_block(kPinned, bytes, __func__);
  if (block.address == nullptr) return fail(cudaErrorMemoryAllocation);
  come_alive(block, access_of_thread(kWrite));
  *memory = block.address;
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* memory) {
  CALL();
  if (memory == nullptr) return cudaSuccess;
  Block block;
  if (!is_ours(memory) || range_of(memory) != kPinned ||
      !find_block(memory, &block))
    return fail(cudaErrorInvalidValue);
  retire(memory, __func__);
  die(block, access_of_thread(kWrite));
  give_back_addresses(block);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  CALL();
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  const int device = current_device();
  *total = memory_of(device);
  *free = *total - std::min(*total, all.used[device]);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes,
                                     const void* memory) {
  CALL();
  *attributes = {};
  attributes->device = -2;  // what CUDA says of memory that it does not know
  Block block;
  if (!is_ours(memory) || !nearest_block(memory, &block) || block.freed_by ||
      memory >= block.address + block.bytes) {
    attributes->hostPointer = const_cast<void*>(memory);
    return cudaSuccess;
  }
  const int range = range_of(memory);
  const bool is_pinned = range == kPinned;
  attributes->type = is_pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->device = is_pinned ? current_device() : range;
  attributes->devicePointer = const_cast<void*>(memory);
  attributes->hostPointer = is_pinned ? attributes->devicePointer : nullptr;
  return cudaSuccess;
}

/* ---- pools ---------------------------------------------------------------*/

cudaError_t cudaMallocFromPoolAsync(void** memory, size_t bytes,
                                    cudaMemPool_t pool, cudaStream_t stream) {
  CALL();
  if (memory == nullptr || bytes == 0) return fail(cudaErrorInvalidValue);
  return fail(allocate_async(memory, bytes, pool, stream));
}

cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream) {
  CALL();
  if (memory == nullptr || bytes == 0) return fail(cudaErrorInvalidValue);
  State& all = state();
  std::unique_lock<std::mutex> lock(all.mutex);
  const cudaMemPool_t pool = default_pool(all, device_of(stream));
  lock.unlock();
  return fail(allocate_async(memory, bytes, pool, stream));
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  CALL();
  State& all = state();
  Block block;
  cudaMemPool_t pool;
  if (!take_back(all, memory, __func__, &block, &pool) || pool == nullptr)
    return fail(cudaErrorInvalidValue);
  const auto freed = std::make_shared<Moment>();
  const cudaError_t error =
      enqueue_work(stream, __func__, [block, freed](Clocks* known) {
        die(block, access_of_thread(kWrite));
        freed->end(*known, 0);
      });
  if (error != cudaSuccess) return fail(error);
  std::lock_guard<std::mutex> lock(all.mutex);
  pool->kept.push_back({block, stream, freed});
  return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  CALL();
  int count;
  count_devices(&count);
  if (device < 0 || device >= count) return fail(cudaErrorInvalidDevice);
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  *pool = default_pool(all, device);
  return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool,
                              const cudaMemPoolProps* properties) {
  CALL();
  if (properties->allocType != cudaMemAllocationTypePinned ||
      properties->location.type != cudaMemLocationTypeDevice)
    return fail(cudaErrorInvalidValue);
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  *pool = new CUmemPoolHandle_st(properties->location.id);
  all.pools[*pool] = properties->location.id;
  return cudaSuccess;
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  CALL();
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.pools.count(pool) == 0 || pool == all.default_pools[pool->device])
    return fail(cudaErrorInvalidValue);
  // What is in use or under way is released when it comes back.
  pool->threshold = 0;
  trim(all, pool, 0);
  return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes) {
  CALL();
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.pools.count(pool) == 0) return fail(cudaErrorInvalidValue);
  trim(all, pool, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool,
                                    cudaMemPoolAttr attribute, void* value) {
  CALL();
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.pools.count(pool) == 0) return fail(cudaErrorInvalidValue);
  switch (attribute) {
    case cudaMemPoolAttrReleaseThreshold:
      pool->threshold = *static_cast<uint64_t*>(value);
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemHigh:
      pool->most_reserved = pool->reserved;
      return cudaSuccess;
    case cudaMemPoolAttrUsedMemHigh:
      pool->most_used = pool->used;
      return cudaSuccess;
    case cudaMemPoolReuseFollowEventDependencies:
    case cudaMemPoolReuseAllowOpportunistic:
    case cudaMemPoolReuseAllowInternalDependencies:
      return cudaSuccess;  // blocks are reused as early as is allowed
    default:
      return fail(cudaErrorInvalidValue);
  }
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool,
                                    cudaMemPoolAttr attribute, void* value) {
  CALL();
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.pools.count(pool) == 0) return fail(cudaErrorInvalidValue);
  auto* const number = static_cast<uint64_t*>(value);
  switch (attribute) {
    case cudaMemPoolAttrReleaseThreshold:
      *number = pool->threshold;
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemCurrent:
      *number = pool->reserved;
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemHigh:
      *number = pool->most_reserved;
      return cudaSuccess;
    case cudaMemPoolAttrUsedMemCurrent:
      *number = pool->used;
      return cudaSuccess;
    case cudaMemPoolAttrUsedMemHigh:
      *number = pool->most_used;
      return cudaSuccess;
    default:
      return fail(cudaErrorInvalidValue);
  }
}
}
