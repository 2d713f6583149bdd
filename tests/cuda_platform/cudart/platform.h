/**
 * What libcudart gives to the other libraries of the stand-in (libnccl,
 * libcublas) besides CUDA's own API: work in the order of a stream, what that
 * work touches, failures that a test asked for, the test's settings.
 *
 * Layout: every folder beside include/ that holds .cpp files is a library of
 * that name, compiled by tests/cuda_platform/toolkit.ts with
 *   g++ -std=c++17 -O2 -g1 -fPIC -shared -Wall -Wextra -Werror
 *       -Iinclude -Icudart  (and linked with libcudart, but for libcudart)
 * It is not instrumented: what its work touches is told by note_read() and
 * note_write(). Headers of the toolkit are in include/.
 */
#ifndef CUDA_PLATFORM_H
#define CUDA_PLATFORM_H

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace cuda_platform {

/* ---- work of streams -----------------------------------------------------*/

/**
 * Enqueues work behind what the stream has; the stream's own thread runs it, so
 * it may wait for other processes. Waits while the stream's queue is full. The
 * name is for reports. Answers as a launch does: the error from which the
 * device does not recover, cudaErrorInvalidResourceHandle for no stream.
 */
cudaError_t enqueue(cudaStream_t stream, const std::string& name,
                    std::function<void()> work);

/**
 * Tells the checker what the work that is running reads or writes (of device or
 * pinned memory; other memory is ignored): told are races with what is not
 * ordered with it, memory that is not allocated, and reads of what nobody has
 * written. `what` names the argument in the report: "sendbuff".
 */
void note_read(const void* memory, size_t bytes, const char* what);
void note_write(const void* memory, size_t bytes, const char* what);

/**
 * From the work that is running: the device is lost, as after a fault of its
 * own. Every later call of it answers this error, until the process ends.
 */
void lose_device(cudaError_t error);

/** The error from which the current device does not recover, or success. */
cudaError_t lost();

/** The current thread's device. */
int current_device();

/** The device of a stream; the current one for the default streams. */
int device_of(cudaStream_t stream);

/* ---- tests ---------------------------------------------------------------*/

/**
 * Every function of an API begins with it: counts the call, and returns the
 * number that a test wants the call to return instead of doing anything, or 0.
 *   if (const int failed = begin_call(__func__)) return ncclResult_t(failed);
 */
int begin_call(const char* name);

/**
 * A number that the test has set, from the variable CUDA_PLATFORM_<NAME> or by
 * tests/cuda_platform/control.ts; `otherwise` if it has not. Names are in
 * upper case: setting("NCCL_NOTICES_DEATH", 1).
 */
int64_t setting(const char* name, int64_t otherwise);

/** A number below `limit`, from the seed. */
uint64_t random_below(uint64_t limit);

/** Sometimes sleeps a little, by the seed: where an order must not matter. */
void delay();

/**
 * Reports a fault of the code under test: to stderr, and the process fails. For
 * what the API leaves undefined, not for what it answers by an error.
 */
void report(const std::string& fault);

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_H */
