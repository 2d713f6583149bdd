/** The GPUs of this process, their errors, and how every function begins. */
#ifndef CUDA_PLATFORM_DEVICE_H
#define CUDA_PLATFORM_DEVICE_H

#include "memory.h"
#include "platform.h"

namespace cuda_platform {

/** How many there are; as the driver says it, an error if there are none. */
cudaError_t count_devices(int* count);

/** The error from which a device does not recover, or success. */
cudaError_t device_error(int device);
void lose_device(int device, cudaError_t error);

/** Compute capability times ten. */
int capability_of(int device);

/** Bytes of its memory. */
size_t memory_of(int device);

/** Keeps an error for cudaGetLastError() and returns it. */
cudaError_t fail(cudaError_t error);

/**
 * What a call that needs a device answers without doing anything: what a test
 * wants, that there is no driver, or the error the device does not recover
 * from.
 */
cudaError_t begin(const char* call);

/** Gives back what pools keep beyond their thresholds. */
void release_over_threshold(int device);

}  // namespace cuda_platform

/** The first line of a function of the API. */
#define CALL() \
  if (const cudaError_t error = cuda_platform::begin(__func__)) return error

#endif /* CUDA_PLATFORM_DEVICE_H */
