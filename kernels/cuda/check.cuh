/**
 * Checked calls of CUDA, cuBLAS and NCCL. A failure leaves by exception, with
 * the call, the code's name and the library's text in its message; al_guard()
 * makes the status of it.
 */
#ifndef ATOMLOSS_CUDA_CHECK_CUH
#define ATOMLOSS_CUDA_CHECK_CUH

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <nccl.h>

#include <utility>

#include "shared/status.h"

namespace atomloss {

inline void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  // Forgotten: others in this process ask for the last error of theirs.
  cudaGetLastError();
  throw al_error(al_fail(
      code == cudaErrorMemoryAllocation ? AL_OUT_OF_MEMORY : AL_DEVICE_FAILED,
      "%s: %s: %s", call, cudaGetErrorName(code), cudaGetErrorString(code)));
}

inline void check(cublasStatus_t code, const char* call) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  throw al_error(al_fail(AL_DEVICE_FAILED, "%s: %s: %s", call,
                         cublasGetStatusName(code),
                         cublasGetStatusString(code)));
}

inline const char* nccl_name(ncclResult_t code) {
  switch (code) {
    case ncclUnhandledCudaError:
      return "ncclUnhandledCudaError";
    case ncclSystemError:
      return "ncclSystemError";
    case ncclInternalError:
      return "ncclInternalError";
    case ncclInvalidArgument:
      return "ncclInvalidArgument";
    case ncclInvalidUsage:
      return "ncclInvalidUsage";
    case ncclRemoteError:
      return "ncclRemoteError";
    case ncclInProgress:
      return "ncclInProgress";
    default:
      return "ncclResult";
  }
}

/** A communicator that does not block answers "in progress": no failure. */
inline void check(ncclResult_t code, const char* call) {
  if (code == ncclSuccess || code == ncclInProgress) return;
  throw al_error(al_fail(AL_COLLECTIVE_FAILED, "%s: %s: %s (%s)", call,
                         nccl_name(code), ncclGetErrorString(code),
                         ncclGetLastError(nullptr)));
}

/**
 * Launches a kernel. Its status is that of this launch: cudaGetLastError(),
 * which is all that <<<>>> leaves, also tells what others in this process did
 * wrong before, and would blame a loss that ran for it.
 */
template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), dim3 grid, int threads,
                   cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel,
                           std::forward<Arguments>(arguments)...),
        "cudaLaunchKernelEx");
}

}  // namespace atomloss

#define AL_CHECK(call) ::atomloss::check((call), #call)

#endif /* ATOMLOSS_CUDA_CHECK_CUH */
