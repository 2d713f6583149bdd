/** The types of CUDA's runtime; names and numbers are those of CUDA 13.0. */
#ifndef CUDA_PLATFORM_DRIVER_TYPES_H
#define CUDA_PLATFORM_DRIVER_TYPES_H

#include <stddef.h>

#include "vector_types.h"

/** name, number, what cudaGetErrorString() says. */
#define CUDA_PLATFORM_ERRORS(X)                                               \
  X(cudaSuccess, 0, "no error")                                               \
  X(cudaErrorInvalidValue, 1, "invalid argument")                             \
  X(cudaErrorMemoryAllocation, 2, "out of memory")                            \
  X(cudaErrorInitializationError, 3, "initialization error")                  \
  X(cudaErrorCudartUnloading, 4, "driver shutting down")                      \
  X(cudaErrorInvalidConfiguration, 9, "invalid configuration argument")       \
  X(cudaErrorInvalidDevicePointer, 17, "invalid device pointer")              \
  X(cudaErrorInvalidMemcpyDirection, 21, "invalid copy direction for memcpy") \
  X(cudaErrorInsufficientDriver, 35,                                          \
    "CUDA driver version is insufficient for CUDA runtime version")           \
  X(cudaErrorDevicesUnavailable, 46,                                          \
    "CUDA-capable device(s) is/are busy or unavailable")                      \
  X(cudaErrorInvalidDeviceFunction, 98, "invalid device function")            \
  X(cudaErrorNoDevice, 100, "no CUDA-capable device is detected")             \
  X(cudaErrorInvalidDevice, 101, "invalid device ordinal")                    \
  X(cudaErrorDeviceUninitialized, 201, "invalid device context")              \
  X(cudaErrorNoKernelImageForDevice, 209,                                     \
    "no kernel image is available for execution on the device")               \
  X(cudaErrorECCUncorrectable, 214, "uncorrectable ECC error encountered")    \
  X(cudaErrorInvalidResourceHandle, 400, "invalid resource handle")           \
  X(cudaErrorNotReady, 600, "device not ready")                               \
  X(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered") \
  X(cudaErrorLaunchOutOfResources, 701,                                       \
    "too many resources requested for launch")                                \
  X(cudaErrorLaunchTimeout, 702, "the launch timed out and was terminated")   \
  X(cudaErrorAssert, 710, "device-side assert triggered")                     \
  X(cudaErrorMisalignedAddress, 716, "misaligned address")                    \
  X(cudaErrorLaunchFailure, 719, "unspecified launch failure")                \
  X(cudaErrorNotPermitted, 800, "operation not permitted")                    \
  X(cudaErrorNotSupported, 801, "operation not supported")                    \
  X(cudaErrorSystemDriverMismatch, 803,                                       \
    "system has unsupported display driver / cuda driver combination")        \
  X(cudaErrorStreamCaptureUnsupported, 900,                                   \
    "operation not permitted when stream is capturing")                       \
  X(cudaErrorStreamCaptureInvalidated, 901,                                   \
    "operation failed due to a previous error during capture")                \
  X(cudaErrorUnknown, 999, "unknown error")

enum cudaError {
#define CUDA_PLATFORM_ERROR(name, number, text) name = number,
  CUDA_PLATFORM_ERRORS(CUDA_PLATFORM_ERROR)
#undef CUDA_PLATFORM_ERROR
};
typedef enum cudaError cudaError_t;

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
typedef struct CUgraph_st* cudaGraph_t;
typedef struct CUmemPoolHandle_st* cudaMemPool_t;
typedef void (*cudaHostFn_t)(void* userData);

#define cudaStreamDefault 0x00
#define cudaStreamNonBlocking 0x01
#define cudaStreamLegacy ((cudaStream_t)0x1)
#define cudaStreamPerThread ((cudaStream_t)0x2)
#define cudaEventDefault 0x00
#define cudaEventBlockingSync 0x01
#define cudaEventDisableTiming 0x02
#define cudaHostAllocDefault 0x00
#define cudaHostAllocPortable 0x01

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};

enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrUnifiedAddressing = 41,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMemoryPoolsSupported = 115
};

enum cudaMemPoolAttr {
  cudaMemPoolReuseFollowEventDependencies = 1,
  cudaMemPoolReuseAllowOpportunistic = 2,
  cudaMemPoolReuseAllowInternalDependencies = 3,
  cudaMemPoolAttrReleaseThreshold = 4,
  cudaMemPoolAttrReservedMemCurrent = 5,
  cudaMemPoolAttrReservedMemHigh = 6,
  cudaMemPoolAttrUsedMemCurrent = 7,
  cudaMemPoolAttrUsedMemHigh = 8
};

enum cudaMemAllocationType {
  cudaMemAllocationTypeInvalid = 0,
  cudaMemAllocationTypePinned = 1
};
enum cudaMemAllocationHandleType { cudaMemHandleTypeNone = 0 };
enum cudaMemLocationType {
  cudaMemLocationTypeInvalid = 0,
  cudaMemLocationTypeDevice = 1
};
struct cudaMemLocation {
  enum cudaMemLocationType type;
  int id;
};
struct cudaMemPoolProps {
  enum cudaMemAllocationType allocType;
  enum cudaMemAllocationHandleType handleTypes;
  struct cudaMemLocation location;
  void* win32SecurityAttributes;
  size_t maxSize;
  unsigned short usage;
  unsigned char reserved[54];
};

enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3
};
struct cudaPointerAttributes {
  enum cudaMemoryType type;
  int device;
  void* devicePointer;
  void* hostPointer;
  long reserved[8];
};

struct cudaFuncAttributes {
  size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
  int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion;
};

enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2
};

typedef struct cudaLaunchAttribute_st {
  int id;
} cudaLaunchAttribute;

typedef struct cudaLaunchConfig_st {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned int numAttrs;
} cudaLaunchConfig_t;

#endif /* CUDA_PLATFORM_DRIVER_TYPES_H */
