/** Captures of graphs by whoever else is in this process. */
#ifndef CUDA_PLATFORM_CAPTURE_H
#define CUDA_PLATFORM_CAPTURE_H

namespace cuda_platform {

/** Whether this call of this thread has made a capture invalid. */
bool breaks_capture(const char* call);

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_CAPTURE_H */
