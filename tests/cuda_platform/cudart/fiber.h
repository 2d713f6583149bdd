/** Stacks that a thread of the host switches between, without the system. */
#ifndef CUDA_PLATFORM_FIBER_H
#define CUDA_PLATFORM_FIBER_H

namespace cuda_platform {

/** Goes on on another stack, until somebody comes back to this one. */
extern "C" void cuda_platform_switch_stack(void** here, void* there);

inline void switch_stack(void** here, void* there) {
  cuda_platform_switch_stack(here, there);
}

/** A stack that begins with a function, which never returns. */
void* new_stack(char* end, void (*function)());

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_FIBER_H */
