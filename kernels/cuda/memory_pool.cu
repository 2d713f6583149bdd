/**
 * The pool is one of our own: the GPU's default one is the process's, and
 * others set it up for themselves.
 */
#include <map>

#include "memory_pool.cuh"

namespace atomloss {
namespace {

int64_t total_bytes() {
  size_t free = 0, total = 0;
  AL_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(total);
}

cudaMemPool_t new_pool(int ordinal) {
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = ordinal;
  cudaMemPool_t pool = nullptr;
  AL_CHECK(cudaMemPoolCreate(&pool, &properties));
  return pool;
}

void set(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  AL_CHECK(cudaMemPoolSetAttribute(pool, attribute, value));
}

int64_t get(cudaMemPool_t pool, cudaMemPoolAttr attribute) {
  uint64_t value = 0;
  AL_CHECK(cudaMemPoolGetAttribute(pool, attribute, &value));
  return static_cast<int64_t>(value);
}

}  // namespace

std::shared_ptr<MemoryPool> MemoryPool::of(int ordinal) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<MemoryPool>> pools;
  std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<MemoryPool> pool = pools[ordinal].lock();
  if (pool == nullptr)
    pools[ordinal] = pool = std::make_shared<MemoryPool>(ordinal);
  return pool;
}

MemoryPool::MemoryPool(int ordinal)
    : total_bytes_(total_bytes()), pool_(new_pool(ordinal)) {
  // What is freed stays in the pool, also across synchronisation.
  uint64_t threshold = UINT64_MAX;
  set(pool_, cudaMemPoolAttrReleaseThreshold, &threshold);
  // No stream waits for another to have its memory: a collective in front of
  // one would hold up the other.
  int allow = 0;
  set(pool_, cudaMemPoolReuseAllowInternalDependencies, &allow);
}

void* MemoryPool::allocate(int64_t size, cudaStream_t stream) {
  if (size > total_bytes_) return nullptr;  // no pool takes such a size
  void* memory = nullptr;
  const cudaError_t code = cudaMallocFromPoolAsync(
      &memory, static_cast<size_t>(size), pool_, stream);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(code, "cudaMallocFromPoolAsync");
  return memory;
}

int64_t MemoryPool::idle_bytes() const {
  return get(pool_, cudaMemPoolAttrReservedMemCurrent) -
         get(pool_, cudaMemPoolAttrUsedMemCurrent);
}

void MemoryPool::join(const Member& member) {
  std::lock_guard<std::mutex> lock(mutex_);
  members_.push_back(member);
}

void MemoryPool::leave(const BlockCache* blocks) {
  std::lock_guard<std::mutex> lock(mutex_);
  members_.erase(
      std::remove_if(members_.begin(), members_.end(),
                     [&](const Member& m) { return m.blocks == blocks; }),
      members_.end());
}

void MemoryPool::release() {
  std::vector<Event> freed;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const Member& member : members_) {
      // Behind what the device has enqueued: its work may still use them.
      for (void* block : member.blocks->drain())
        AL_CHECK(cudaFreeAsync(block, member.stream));
      freed.push_back(new_event());
      AL_CHECK(cudaEventRecord(freed.back(), member.stream));
    }
  }
  // Without the mutex: a device can be closed meanwhile.
  for (const Event& event : freed) AL_CHECK(cudaEventSynchronize(event));
  AL_CHECK(cudaMemPoolTrimTo(pool_, 0));
}

}  // namespace atomloss
