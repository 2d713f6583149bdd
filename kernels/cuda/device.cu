/**
 * Devices and memory. Blocks come from the pool of the GPU and stay with us
 * when freed: work of the compute stream that still uses a freed block is ahead
 * of whatever uses it next.
 */
#include <cstdio>
#include <optional>
#include <thread>

#include "closing.h"
#include "device.cuh"
#include "shared/dlpack.h"

using atomloss::BlockCache;
using atomloss::CurrentDevice;
using atomloss::wait_for;

namespace {

int attribute(cudaDeviceAttr name, int ordinal) {
  int value = 0;
  AL_CHECK(cudaDeviceGetAttribute(&value, name, ordinal));
  return value;
}

/** A task has a block at least, whatever its share of the grid. */
size_t most_blocks(int processors) {
  return static_cast<size_t>(processors) * atomloss::kBlocksPerProcessor +
         atomloss::kMaxTasks;
}

/**
 * Gives blocks back to the pool, behind the work that may still use them. A GPU
 * that is broken refuses; whoever computes on it is told.
 */
void release_blocks(const al_device* device, const std::vector<void*>& blocks) {
  if (blocks.empty()) return;
  std::optional<CurrentDevice> current;
  al_guard([&]() -> al_status {
    current.emplace(device->ordinal);
    return AL_OK;
  });
  for (void* block : blocks)
    if (cudaFreeAsync(block, device->compute) != cudaSuccess)
      cudaGetLastError();  // forget it
}

/** A block that was exported and has outlived its device, with its streams. */
void release_exported(void* block, int32_t ordinal) {
  al_guard([&]() -> al_status {
    const CurrentDevice current(ordinal);
    AL_CHECK(cudaFree(block));
    return AL_OK;
  });
}

}  // namespace

/* ---- library and device --------------------------------------------------*/

al_device::al_device(int ordinal)
    : ordinal(ordinal),
      processors(attribute(cudaDevAttrMultiProcessorCount, ordinal)),
      pool(atomloss::MemoryPool::of(ordinal)),
      compute(atomloss::new_stream(0)),
      partials(atomloss::new_device_memory<double>(most_blocks(processors))),
      values(atomloss::new_device_memory<al_loss_result>(atomloss::kMaxTasks)),
      tickets(atomloss::new_device_memory<unsigned>(atomloss::kMaxTasks + 1)),
      told(atomloss::new_device_memory<unsigned long long>(atomloss::kMaxTasks *
                                                           atomloss::kTold)),
      scratch{partials, tickets, values, told} {
  AL_CHECK(cudaMemsetAsync(
      tickets, 0, (atomloss::kMaxTasks + 1) * sizeof(unsigned), compute));
  AL_CHECK(cudaMemsetAsync(
      told, 0, sizeof(uint64_t) * atomloss::kMaxTasks * atomloss::kTold,
      compute));
  pool->join({blocks.get(), compute});
}

al_device::~al_device() {
  pool->leave(blocks.get());
  release_blocks(this, blocks->close());
  // Nothing else is under way: a wait for the blocks, so that others have them.
  cudaStreamSynchronize(compute);
}

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
    *out = new al_device(ordinal);
    return AL_OK;
  });
}

al_status al_device_close(al_device* device) {
  const al_status failed = al_guard([&]() -> al_status {
    const cudaError_t code = cudaStreamQuery(device->compute);
    if (code != cudaErrorNotReady) atomloss::check(code, "cudaStreamQuery");
    return AL_OK;
  });
  // In any case.
  atomloss::release(device);
  return failed;
}

namespace {

/** In any case: what it has of a broken GPU ends as far as it can. */
void end_device(al_device* device) {
  al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    wait_for(device->compute);
    return AL_OK;
  });
  delete device;
}

}  // namespace

void atomloss::release(al_device* device) {
  if (--device->holders > 0) return;
  if (cudaStreamQuery(device->compute) != cudaErrorNotReady) {
    end_device(device);
    return;
  }
  // Not by the caller, who may be an event loop and would wait for the GPU.
  begin_closing();
  std::thread([device] {
    end_device(device);
    end_closing();
  }).detach();
}

al_status al_synchronize(al_device* device, double since) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    wait_for(device->compute);
    device->collectives.check_since(since);
    return AL_OK;
  });
}

al_status al_device_stream(al_device* device, void** stream) {
  *stream = device->compute;
  return AL_OK;
}

al_recording*& atomloss::recording_on(al_device* device) {
  return device->recording;
}

atomloss::Lender atomloss::lender(al_device* device) {
  return {device->blocks, {kDLCUDA, device->ordinal}, release_exported};
}

al_status al_memory_state(al_device* device, int64_t* state) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    device->blocks->state(state);
    state[2] += device->pool->idle_bytes();
    size_t free = 0, total = 0;
    AL_CHECK(cudaMemGetInfo(&free, &total));
    state[3] = static_cast<int64_t>(free);
    return AL_OK;
  });
}

al_status al_release_memory(al_device* device) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    device->pool->release();
    device->uploads.release();
    device->downloads.release();
    return AL_OK;
  });
}

al_status al_origin_check(al_device* device, double origin) {
  return al_guard([&]() -> al_status {
    device->collectives.check(origin);
    return AL_OK;
  });
}

/* ---- memory --------------------------------------------------------------*/

void* atomloss::take_block(al_device* device, int64_t bytes) {
  const int64_t size = BlockCache::size_class(bytes);
  void* block = device->blocks->take(size);
  if (block != nullptr) return block;
  const CurrentDevice current(device->ordinal);
  block = device->pool->allocate(size, device->compute);
  if (block == nullptr) {
    device->pool->release();
    block = device->pool->allocate(size, device->compute);
  }
  if (block != nullptr) device->blocks->add(block, size);
  return block;
}

void atomloss::throw_out_of_memory(al_device* device, int64_t bytes) {
  const CurrentDevice current(device->ordinal);
  size_t free = 0, total = 0;
  AL_CHECK(cudaMemGetInfo(&free, &total));
  throw al_error(al_fail(AL_OUT_OF_MEMORY,
                         "out of GPU memory on cuda:%d: %lld bytes asked, %zu "
                         "of %zu bytes free",
                         device->ordinal, static_cast<long long>(bytes), free,
                         total));
}

al_status al_alloc(al_device* device, int64_t bytes, void** memory) {
  if (bytes < 0)
    return al_fail(AL_INVALID_ARGUMENT, "cannot allocate %lld bytes",
                   static_cast<long long>(bytes));
  return al_guard([&]() -> al_status {
    *memory = atomloss::take_block(device, bytes);
    if (*memory == nullptr) atomloss::throw_out_of_memory(device, bytes);
    return AL_OK;
  });
}

al_status al_free(al_device* device, void* memory) {
  return al_guard([&]() -> al_status {
    std::vector<void*> surplus;
    if (!device->blocks->give(memory, surplus))
      return al_fail(AL_INVALID_ARGUMENT,
                     "%p is not memory of this device, or was freed before",
                     memory);
    release_blocks(device, surplus);
    return AL_OK;
  });
}

al_status al_upload(al_device* device, void* memory, const void* host,
                    int64_t bytes) {
  AL_RECORD(device, al_upload, device, memory,
            atomloss::copies(static_cast<const char*>(host), bytes), bytes);
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    device->uploads.upload(memory, host, bytes);
    return AL_OK;
  });
}

al_status al_download(al_device* device, const void* memory, void* host,
                      int64_t bytes, double origin, int64_t* ticket) {
  *ticket = 0;
  return al_guard([&]() -> al_status {
    device->collectives.check(origin);
    if (bytes == 0) return AL_OK;
    const CurrentDevice current(device->ordinal);
    *ticket = device->downloads.begin(host, memory, bytes);
    if (*ticket == 0) device->collectives.wait_and_check(origin);
    return AL_OK;
  });
}

al_status al_download_wait(al_device* device, int64_t ticket, void* host,
                           int64_t bytes, double origin) {
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    device->downloads.finish(ticket, host, bytes);
    device->collectives.wait_and_check(origin);
    return AL_OK;
  });
}

al_status al_zero(al_device* device, void* memory, int64_t bytes) {
  AL_RECORD(device, al_zero, device, memory, bytes);
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    AL_CHECK(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes),
                             device->compute));
    return AL_OK;
  });
}

al_status al_copy(al_device* device, void* destination, const void* source,
                  int64_t bytes) {
  AL_RECORD(device, al_copy, device, destination, source, bytes);
  return al_guard([&]() -> al_status {
    const CurrentDevice current(device->ordinal);
    AL_CHECK(cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes),
                             cudaMemcpyDeviceToDevice, device->compute));
    return AL_OK;
  });
}
