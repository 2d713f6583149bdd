/**
 * What compiled kernels call of libcudart: to be launched, to know where they
 * are, and to wait for each other.
 */
#ifndef CUDA_PLATFORM_DEVICE_RUNTIME_H
#define CUDA_PLATFORM_DEVICE_RUNTIME_H

#include <memory>

#include "driver_types.h"

namespace cuda_platform {

/** A kernel with its arguments. */
struct Kernel {
  const char* name;                      /* as the launch has it; or: */
  const void* function;                  /* that the debug information names */
  const char* targets;                   /* GPUs that there is code for */
  void (*thread)(const void* arguments); /* what each thread does */
  std::shared_ptr<const void> arguments; /* all of the host that it may read */
  size_t bytes;
};

cudaError_t launch(const cudaLaunchConfig_t& config, Kernel kernel);

/** Whether there is code for the current device among the targets. */
cudaError_t look_for_code(const char* targets);

uint3 thread_index();
uint3 block_index();
dim3 block_dimensions();
dim3 grid_dimensions();

/** Waits for all threads of the block; returns the sum of their votes. */
int block_barrier(int vote);
/** Waits for these lanes of the warp; returns those that voted. */
unsigned warp_barrier(unsigned lanes, bool vote);
/** The value of another lane, or its own where there is no such lane. */
uint64_t exchange(unsigned lanes, uint64_t mine, int lane);
/** Orders what this thread did before what others see of it. */
void fence();
/** A load or store that is not in the code as such, or an atomic. */
void access(const void* memory, size_t bytes, int kind);
/** Behind an atomic: what was published before it is seen. */
void atomic_was_made(const void* address);
/** Ends the kernel as a failed assertion does. */
[[noreturn]] void trap();

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_DEVICE_RUNTIME_H */
