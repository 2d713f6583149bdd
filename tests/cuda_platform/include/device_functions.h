/**
 * What a kernel may call. Headers that only define types and functions of the
 * device (cuda_fp16.h, cub) include this one; it may be included by code that
 * g++ compiles as well.
 */
#ifndef CUDA_PLATFORM_DEVICE_FUNCTIONS_H
#define CUDA_PLATFORM_DEVICE_FUNCTIONS_H

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline

#include "vector_types.h"

#endif /* CUDA_PLATFORM_DEVICE_FUNCTIONS_H */
