#include "device.h"

#include <atomic>
#include <cstdio>

#include "capture.h"

using namespace cuda_platform;

namespace cuda_platform {
namespace {

thread_local int current = 0;
thread_local cudaError_t last_error = cudaSuccess;

std::atomic<cudaError_t> errors[kMaxGpus];

/** What the runtime needs; a driver must be as new. */
constexpr int kVersion = CUDART_VERSION;

int driver_version() {
  return static_cast<int>(setting("DRIVER_VERSION", kVersion));
}

}  // namespace

cudaError_t count_devices(int* count) {
  *count = 0;
  // Without a driver its version is 0, and the answer the same.
  if (driver_version() < kVersion) return cudaErrorInsufficientDriver;
  *count = static_cast<int>(setting("GPUS", 2));
  return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t device_error(int device) { return errors[device]; }

void lose_device(int device, cudaError_t error) {
  cudaError_t none = cudaSuccess;
  errors[device].compare_exchange_strong(none, error);
}

cudaError_t lost() { return device_error(current); }

int capability_of(int device) {
  const std::string own = "CAPABILITY_" + std::to_string(device);
  return static_cast<int>(setting(own.c_str(), setting("CAPABILITY", 90)));
}

size_t memory_of(int) {
  return static_cast<size_t>(setting("MEMORY", int64_t{4} << 30));
}

int current_device() { return current; }

cudaError_t fail(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t begin(const char* call) {
  if (const int wanted = begin_call(call))
    return fail(static_cast<cudaError_t>(wanted));
  if (breaks_capture(call)) return fail(cudaErrorStreamCaptureUnsupported);
  int count;
  if (const cudaError_t error = count_devices(&count)) return fail(error);
  return fail(device_error(current));
}

}  // namespace cuda_platform

extern "C" {

cudaError_t cudaGetLastError(void) {
  begin_call(__func__);
  const cudaError_t error = last_error;
  // What the device does not recover from stays.
  last_error = device_error(current);
  return error ? error : last_error;
}

cudaError_t cudaPeekAtLastError(void) {
  begin_call(__func__);
  return last_error ? last_error : device_error(current);
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define NAME(name, number, text) \
  case name:                     \
    return #name;
    CUDA_PLATFORM_ERRORS(NAME)
#undef NAME
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define TEXT(name, number, text) \
  case name:                     \
    return text;
    CUDA_PLATFORM_ERRORS(TEXT)
#undef TEXT
  }
  return "unrecognized error code";
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  begin_call(__func__);
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  begin_call(__func__);
  *version = driver_version();
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (const int wanted = begin_call(__func__))
    return fail(static_cast<cudaError_t>(wanted));
  return fail(count_devices(count));
}

cudaError_t cudaSetDevice(int device) {
  if (const int wanted = begin_call(__func__))
    return fail(static_cast<cudaError_t>(wanted));
  int count;
  if (const cudaError_t error = count_devices(&count)) return fail(error);
  if (device < 0 || device >= count) return fail(cudaErrorInvalidDevice);
  current = device;
  return fail(device_error(device));
}

cudaError_t cudaGetDevice(int* device) {
  if (const int wanted = begin_call(__func__))
    return fail(static_cast<cudaError_t>(wanted));
  int count;
  if (const cudaError_t error = count_devices(&count)) return fail(error);
  *device = current;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute,
                                   int device) {
  CALL();
  int count;
  count_devices(&count);
  if (device < 0 || device >= count) return fail(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 << 10;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      // Few: the most blocks that a reduction is given follow from it.
      *value = static_cast<int>(setting("PROCESSORS", 2));
      return cudaSuccess;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = capability_of(device) / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = capability_of(device) % 10;
      return cudaSuccess;
  }
  return fail(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  CALL();
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  CALL();
  snprintf(text, static_cast<size_t>(length), "0000:%02X:00.0", device + 1);
  return cudaSuccess;
}
}
