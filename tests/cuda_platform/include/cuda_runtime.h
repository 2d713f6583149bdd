/** CUDA for what nvcc.ts compiles; the API alone for everybody else. */
#ifndef CUDA_PLATFORM_RUNTIME_H
#define CUDA_PLATFORM_RUNTIME_H

#include "cuda_runtime_api.h"
#include "library_types.h"
#ifdef __CUDACC__
#include "device_functions.h"
#include "launch.h"
#endif

#endif /* CUDA_PLATFORM_RUNTIME_H */
