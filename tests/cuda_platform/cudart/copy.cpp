/**
 * Copies and fills. Whether they wait is as CUDA documents it ("API
 * synchronization behavior"), where that leaves a choice the less forgiving:
 * only pageable memory of the host and cudaMemcpy() to the host make the caller
 * wait.
 */
#include <cstring>
#include <memory>
#include <vector>

#include "device.h"
#include "work.h"

using namespace cuda_platform;

namespace {

bool is_pageable(const void* memory) { return !is_ours(memory); }

bool is_device(const void* memory) {
  return is_ours(memory) && range_of(memory) != kPinned;
}

/** Whether the direction that is said is the one of the addresses. */
bool is_direction(const void* to, const void* from, cudaMemcpyKind kind) {
  if (kind == cudaMemcpyDefault) return true;
  const bool to_device = kind & 1, from_device = kind & 2;
  return is_device(to) == to_device && is_device(from) == from_device;
}

void copy(void* to, const void* from, size_t bytes) {
  note_read(from, bytes, "the source");
  note_write(to, bytes, "the destination");
  memcpy(to, from, bytes);
}

/** Waits for what the stream has now. */
cudaError_t wait_for(cudaStream_t stream) {
  const auto moment = mark(stream);
  moment->wait();
  host_learns(moment->known());
  return device_error(device_of(stream));
}

cudaError_t enqueue_copy(const char* name, void* to, const void* from,
                         size_t bytes, cudaMemcpyKind kind,
                         cudaStream_t stream) {
  if (!is_direction(to, from, kind)) return cudaErrorInvalidMemcpyDirection;
  if (bytes == 0) return cudaSuccess;
  if (!is_pageable(from)) {
    const cudaError_t error =
        enqueue_work(stream, name, [=](Clocks*) { copy(to, from, bytes); });
    return error == cudaSuccess && is_pageable(to) ? wait_for(stream) : error;
  }
  // Read before the call returns; where it goes is written later.
  const auto* const first = static_cast<const char*>(from);
  const auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
  return enqueue_work(stream, name,
                      [=](Clocks*) { copy(to, staged->data(), bytes); });
}

cudaError_t enqueue_fill(const char* name, void* memory, int value,
                         size_t bytes, cudaStream_t stream) {
  if (!is_ours(memory)) return cudaErrorInvalidValue;
  return enqueue_work(stream, name, [=](Clocks*) {
    note_write(memory, bytes, "the destination");
    memset(memory, value, bytes);
  });
}

}  // namespace

namespace cuda_platform {

void note_read(const void* memory, size_t bytes, const char* what) {
  if (!is_ours(memory)) return;
  if (!touch(memory, bytes, access_of_thread(kRead), nullptr, what) &&
      runs_work())
    lose_device(cudaErrorIllegalAddress);
}

void note_write(const void* memory, size_t bytes, const char* what) {
  if (!is_ours(memory)) return;
  if (!touch(memory, bytes, access_of_thread(kWrite), nullptr, what) &&
      runs_work())
    lose_device(cudaErrorIllegalAddress);
}

}  // namespace cuda_platform

extern "C" {

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream) {
  CALL();
  return fail(enqueue_copy(__func__, to, from, bytes, kind, stream));
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes,
                       cudaMemcpyKind kind) {
  CALL();
  const cudaError_t error =
      enqueue_copy(__func__, to, from, bytes, kind, nullptr);
  const bool waits = !(is_device(to) && (is_device(from) || is_pageable(from)));
  return fail(error == cudaSuccess && waits ? wait_for(nullptr) : error);
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes,
                            cudaStream_t stream) {
  CALL();
  return fail(enqueue_fill(__func__, memory, value, bytes, stream));
}

cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  CALL();
  const cudaError_t error =
      enqueue_fill(__func__, memory, value, bytes, nullptr);
  const bool waits = !is_device(memory);
  return fail(error == cudaSuccess && waits ? wait_for(nullptr) : error);
}
}
