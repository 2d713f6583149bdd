/**
 * Devices and memory. Blocks come from the stream-ordered pool of the device
 * and stay with us when freed: work of the compute stream that still uses a
 * freed block is ahead of whatever uses it next. Bytes cross to and from the
 * host through pinned blocks, so that no call waits for a copy.
 */
#include <cstdio>
#include <cstring>
#include <memory>

#include "device.cuh"
#include "dlpack.h"

using atomloss::BlockCache;
using atomloss::CurrentDevice;
using atomloss::Staging;

namespace {

/** Uploads larger than this are cut into pieces. */
constexpr int64_t kUploadBytes = int64_t{16} << 20;

/**
 * Uploads in flight before a call waits for the oldest: so many that a host
 * whose batches are of many tensors can be steps ahead of the GPU.
 */
constexpr size_t kUploadBlocks = 256;
constexpr int64_t kUploadBytesInFlight = 4 * kUploadBytes;

/** Whoever waits for a copy sleeps: a spinning thread takes a core from the
 * model. */
constexpr unsigned kEventFlags = cudaEventDisableTiming | cudaEventBlockingSync;

/** A new block of the pool, or nullptr if there is no room for it. */
void* allocate(al_device* device, int64_t size) {
  if (size > device->total_bytes) return nullptr;  // no pool takes such a size
  void* memory = nullptr;
  const cudaError_t code =
      cudaMallocAsync(&memory, static_cast<size_t>(size), device->compute);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  atomloss::check(code, "cudaMallocAsync");
  return memory;
}

/** Gives every kept block back to the pool, and the pool's to the device. */
void release_kept(al_device* device) {
  for (void* block : device->blocks->drain())
    AL_CHECK(cudaFreeAsync(block, device->compute));
  AL_CHECK(cudaStreamSynchronize(device->compute));
  cudaMemPool_t pool;
  AL_CHECK(cudaDeviceGetDefaultMemPool(&pool, device->ordinal));
  AL_CHECK(cudaMemPoolTrimTo(pool, 0));
}

/** A block that was exported and has outlived its device, with its streams. */
void release_exported(void* block, int32_t ordinal) {
  al_guard([&]() -> al_status {
    const CurrentDevice current(ordinal);
    AL_CHECK(cudaFree(block));
    return AL_OK;
  });
}

Staging new_staging(int64_t bytes) {
  Staging staging;
  staging.bytes = bytes;
  AL_CHECK(cudaHostAlloc(&staging.memory, static_cast<size_t>(bytes),
                         cudaHostAllocDefault));
  AL_CHECK(cudaEventCreateWithFlags(&staging.done, kEventFlags));
  return staging;
}

void free_staging(const Staging& staging) {
  cudaEventDestroy(staging.done);
  cudaFreeHost(staging.memory);
}

/** The smallest idle block that is large enough; none if there is none. */
Staging take_idle(al_device* device, int64_t bytes) {
  auto& idle = device->idle;
  size_t best = idle.size();
  for (size_t i = 0; i < idle.size(); ++i) {
    if (idle[i].bytes < bytes) continue;
    if (best == idle.size() || idle[i].bytes < idle[best].bytes) best = i;
  }
  if (best == idle.size()) return {};
  const Staging staging = idle[best];
  idle.erase(idle.begin() + static_cast<std::ptrdiff_t>(best));
  return staging;
}

/** Makes the blocks idle whose uploads are done; they end in their order. */
void reap_uploads(al_device* device) {
  auto& uploads = device->uploads;
  while (!uploads.empty()) {
    const cudaError_t done = cudaEventQuery(uploads.front().done);
    if (done == cudaErrorNotReady) return;
    atomloss::check(done, "cudaEventQuery");
    device->idle.push_back(uploads.front());
    uploads.pop_front();
  }
}

/** A block for a piece of an upload; waits if too much is in flight. */
Staging upload_staging(al_device* device, int64_t bytes) {
  const auto& uploads = device->uploads;
  const int64_t size = BlockCache::size_class(bytes);
  reap_uploads(device);
  for (;;) {
    if (const Staging staging = take_idle(device, bytes); staging.memory)
      return staging;
    int64_t in_flight = size;
    for (const Staging& upload : uploads) in_flight += upload.bytes;
    if (uploads.empty() ||
        (uploads.size() < kUploadBlocks && in_flight <= kUploadBytesInFlight))
      return new_staging(size);
    AL_CHECK(cudaEventSynchronize(uploads.front().done));
    reap_uploads(device);
  }
}

/** A block for a download. */
Staging download_staging(al_device* device, int64_t bytes) {
  const Staging staging = take_idle(device, bytes);
  return staging.memory ? staging : new_staging(BlockCache::size_class(bytes));
}

}  // namespace

/* ---- library and device --------------------------------------------------*/

int32_t al_abi_version(void) { return AL_ABI_VERSION; }

al_status al_versions(char* text, int64_t capacity) {
  int runtime = 0, driver = 0, nccl = 0, major = 0, minor = 0, patch = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);  // 0 without a driver
  ncclGetVersion(&nccl);
  cublasGetProperty(MAJOR_VERSION, &major);
  cublasGetProperty(MINOR_VERSION, &minor);
  cublasGetProperty(PATCH_LEVEL, &patch);
  snprintf(text, static_cast<size_t>(capacity),
           "{\"cudart\": \"%d.%d\", \"driver\": \"%d.%d\", \"cublas\": "
           "\"%d.%d.%d\", \"nccl\": \"%d.%d.%d\"}",
           runtime / 1000, runtime % 1000 / 10, driver / 1000,
           driver % 1000 / 10, major, minor, patch, nccl / 10000,
           nccl % 10000 / 100, nccl % 100);
  return AL_OK;
}

al_status al_device_open(int32_t ordinal, al_device** out) {
  return al_guard([&]() -> al_status {
    atomloss::require_gpu(ordinal);
    const CurrentDevice current(ordinal);
    auto device = std::make_unique<al_device>();
    device->ordinal = ordinal;
    AL_CHECK(cudaDeviceGetAttribute(&device->processors,
                                    cudaDevAttrMultiProcessorCount, ordinal));
    size_t free = 0, total = 0;
    AL_CHECK(cudaMemGetInfo(&free, &total));
    device->total_bytes = static_cast<int64_t>(total);
    AL_CHECK(
        cudaStreamCreateWithFlags(&device->compute, cudaStreamNonBlocking));
    AL_CHECK(
        cudaStreamCreateWithFlags(&device->transfer, cudaStreamNonBlocking));
    // What is freed stays in the pool, also across synchronisation.
    cudaMemPool_t pool;
    AL_CHECK(cudaDeviceGetDefaultMemPool(&pool, ordinal));
    uint64_t threshold = UINT64_MAX;
    AL_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold,
                                     &threshold));
    // A task has a block at least, whatever its share of the grid.
    atomloss::Scratch& scratch = device->scratch;
    const size_t slots = static_cast<size_t>(device->processors) *
                             atomloss::kBlocksPerProcessor +
                         atomloss::kMaxTasks;
    const size_t tickets = atomloss::kMaxTasks + 1;
    AL_CHECK(cudaMalloc(&scratch.partials, slots * sizeof *scratch.partials));
    AL_CHECK(cudaMalloc(&scratch.tickets, tickets * sizeof *scratch.tickets));
    AL_CHECK(cudaMalloc(&scratch.values,
                        atomloss::kMaxTasks * sizeof *scratch.values));
    AL_CHECK(cudaMemsetAsync(scratch.tickets, 0,
                             tickets * sizeof *scratch.tickets,
                             device->compute));
    *out = device.release();
    return AL_OK;
  });
}

al_status al_device_close(al_device* device) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    AL_CHECK(cudaStreamSynchronize(device->transfer));
    AL_CHECK(cudaStreamSynchronize(device->compute));
    for (void* block : device->blocks->close())
      AL_CHECK(cudaFreeAsync(block, device->compute));
    AL_CHECK(cudaStreamSynchronize(device->compute));
    for (const Staging& staging : device->idle) free_staging(staging);
    for (const Staging& staging : device->uploads) free_staging(staging);
    for (const auto& entry : device->downloads) free_staging(entry.second);
    if (device->blas) AL_CHECK(cublasDestroy(device->blas));
    AL_CHECK(cudaFree(device->scratch.partials));
    AL_CHECK(cudaFree(device->scratch.tickets));
    AL_CHECK(cudaFree(device->scratch.values));
    AL_CHECK(cudaStreamDestroy(device->compute));
    AL_CHECK(cudaStreamDestroy(device->transfer));
    delete device;
    return AL_OK;
  });
}

al_status al_synchronize(al_device* device) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    AL_CHECK(cudaStreamSynchronize(device->compute));
    AL_CHECK(cudaStreamSynchronize(device->transfer));
    device->check_failure();
    return AL_OK;
  });
}

al_status al_device_stream(al_device* device, void** stream) {
  *stream = device->compute;
  return AL_OK;
}

atomloss::Lender atomloss::lender(al_device* device) {
  return {device->blocks, {kDLCUDA, device->ordinal}, release_exported};
}

al_status al_memory_state(al_device* device, int64_t* state) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    device->blocks->state(state);
    size_t free = 0, total = 0;
    AL_CHECK(cudaMemGetInfo(&free, &total));
    state[3] = static_cast<int64_t>(free);
    return AL_OK;
  });
}

/* ---- memory --------------------------------------------------------------*/

al_status al_alloc(al_device* device, int64_t bytes, void** memory) {
  if (bytes < 0)
    return al_fail(AL_INVALID_ARGUMENT, "cannot allocate %lld bytes",
                   static_cast<long long>(bytes));
  return al_guard([&]() -> al_status {
    const int64_t size = BlockCache::size_class(bytes);
    void* block = device->blocks->take(size);
    if (block == nullptr) {
      const CurrentDevice current(device->ordinal);
      block = allocate(device, size);
      if (block == nullptr) {
        release_kept(device);
        block = allocate(device, size);
      }
      if (block == nullptr) {
        size_t free = 0, total = 0;
        AL_CHECK(cudaMemGetInfo(&free, &total));
        return al_fail(AL_OUT_OF_MEMORY,
                       "out of GPU memory on cuda:%d: %lld bytes asked, %zu "
                       "of %zu bytes free",
                       device->ordinal, static_cast<long long>(bytes), free,
                       total);
      }
      device->blocks->add(block, size);
    }
    *memory = block;
    return AL_OK;
  });
}

al_status al_free(al_device* device, void* memory) {
  return al_guard([&]() -> al_status {
    switch (device->blocks->give(memory)) {
      case BlockCache::Freed::kKept:
        return AL_OK;
      case BlockCache::Freed::kSurplus: {
        const CurrentDevice current(device->ordinal);
        AL_CHECK(cudaFreeAsync(memory, device->compute));
        return AL_OK;
      }
      case BlockCache::Freed::kUnknown:
        break;
    }
    return al_fail(AL_INVALID_ARGUMENT,
                   "%p is not memory of this device, or was freed before",
                   memory);
  });
}

al_status al_upload(al_device* device, void* memory, const void* host,
                    int64_t bytes) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    std::lock_guard<std::mutex> lock(device->mutex);
    for (int64_t at = 0; at < bytes; at += kUploadBytes) {
      const int64_t left = bytes - at;
      const int64_t piece = left < kUploadBytes ? left : kUploadBytes;
      const Staging staging = upload_staging(device, piece);
      memcpy(staging.memory, static_cast<const char*>(host) + at,
             static_cast<size_t>(piece));
      AL_CHECK(cudaMemcpyAsync(static_cast<char*>(memory) + at, staging.memory,
                               static_cast<size_t>(piece),
                               cudaMemcpyHostToDevice, device->compute));
      AL_CHECK(cudaEventRecord(staging.done, device->compute));
      device->uploads.push_back(staging);
    }
    return AL_OK;
  });
}

al_status al_download(al_device* device, const void* memory, void*,
                      int64_t bytes, int64_t* ticket) {
  *ticket = 0;
  if (bytes == 0) return AL_OK;
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    std::lock_guard<std::mutex> lock(device->mutex);
    const Staging staging = download_staging(device, bytes);
    AL_CHECK(cudaMemcpyAsync(staging.memory, memory, static_cast<size_t>(bytes),
                             cudaMemcpyDeviceToHost, device->compute));
    AL_CHECK(cudaEventRecord(staging.done, device->compute));
    *ticket = device->next_download++;
    device->downloads[*ticket] = staging;
    return AL_OK;
  });
}

al_status al_download_wait(al_device* device, int64_t ticket, void* host,
                           int64_t bytes) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    Staging staging;
    {
      std::lock_guard<std::mutex> lock(device->mutex);
      const auto found = device->downloads.find(ticket);
      if (found == device->downloads.end())
        return al_fail(AL_INVALID_ARGUMENT, "no download has the ticket %lld",
                       static_cast<long long>(ticket));
      staging = found->second;
      device->downloads.erase(found);
    }
    const cudaError_t done = cudaEventSynchronize(staging.done);
    memcpy(host, staging.memory, static_cast<size_t>(bytes));
    {
      std::lock_guard<std::mutex> lock(device->mutex);
      device->idle.push_back(staging);
    }
    atomloss::check(done, "cudaEventSynchronize");
    device->check_failure();
    return AL_OK;
  });
}

al_status al_zero(al_device* device, void* memory, int64_t bytes) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    AL_CHECK(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes),
                             device->compute));
    return AL_OK;
  });
}

al_status al_copy(al_device* device, void* destination, const void* source,
                  int64_t bytes) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    AL_CHECK(cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes),
                             cudaMemcpyDeviceToDevice, device->compute));
    return AL_OK;
  });
}
