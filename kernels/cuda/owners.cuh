/**
 * Owners of what CUDA hands out: it goes back when its owner ends, also where
 * something fails half-way. Without a word: a broken GPU refuses to take back
 * anything, and whoever computed on it has been told.
 */
#ifndef ATOMLOSS_CUDA_OWNERS_CUH
#define ATOMLOSS_CUDA_OWNERS_CUH

#include <utility>

#include "check.cuh"

namespace atomloss {

/** A handle, and the function that gives it back. */
template <class Handle, auto release>
class Owner {
 public:
  Owner() = default;
  explicit Owner(Handle handle) : handle_(handle) {}
  Owner(Owner&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)) {}
  Owner& operator=(Owner&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owner() {
    // The error is forgotten: it is no other's.
    if (handle_ != nullptr && static_cast<int>(release(handle_)) != 0)
      cudaGetLastError();
  }

  operator Handle() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

using Stream = Owner<cudaStream_t, cudaStreamDestroy>;
using Event = Owner<cudaEvent_t, cudaEventDestroy>;
using Blas = Owner<cublasHandle_t, cublasDestroy>;

/** Memory of the host that the GPU reads and writes by itself. */
using PinnedMemory = Owner<char*, cudaFreeHost>;

/** Memory of the current GPU, apart from any stream's order. */
template <class T>
using DeviceMemory = Owner<T*, cudaFree>;

/** A stream that does not wait for CUDA's default one; smaller goes first. */
inline Stream new_stream(int priority) {
  cudaStream_t stream = nullptr;
  AL_CHECK(
      cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority));
  return Stream(stream);
}

/** Whoever waits for it sleeps: a spinning thread takes a core from the model.
 */
inline Event new_event() {
  cudaEvent_t event = nullptr;
  AL_CHECK(cudaEventCreateWithFlags(
      &event, cudaEventDisableTiming | cudaEventBlockingSync));
  return Event(event);
}

inline Blas new_blas() {
  cublasHandle_t blas = nullptr;
  AL_CHECK(cublasCreate(&blas));
  return Blas(blas);
}

inline PinnedMemory new_pinned_memory(int64_t bytes) {
  void* memory = nullptr;
  AL_CHECK(
      cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocDefault));
  return PinnedMemory(static_cast<char*>(memory));
}

template <class T>
DeviceMemory<T> new_device_memory(size_t count) {
  void* memory = nullptr;
  AL_CHECK(cudaMalloc(&memory, count * sizeof(T)));
  return DeviceMemory<T>(static_cast<T*>(memory));
}

/** Waits for what a stream has been given so far; cudaStreamSynchronize() would
 * spin. */
inline void wait_for(cudaStream_t stream) {
  const Event done = new_event();
  AL_CHECK(cudaEventRecord(done, stream));
  AL_CHECK(cudaEventSynchronize(done));
}

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_OWNERS_CUH */
