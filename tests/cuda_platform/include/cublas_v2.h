/** cuBLAS as far as kernels/ uses it, with the names and values of cuBLAS 13.
 */
#ifndef CUDA_PLATFORM_CUBLAS_V2_H
#define CUDA_PLATFORM_CUBLAS_V2_H

#include <cuda_runtime.h>
#include <library_types.h>
#include <stdint.h>

#define cublasCreate cublasCreate_v2
#define cublasDestroy cublasDestroy_v2
#define cublasSetStream cublasSetStream_v2

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cublasContext* cublasHandle_t;

/** name, number, what cublasGetStatusString() says. */
#define CUDA_PLATFORM_CUBLAS_STATUSES(X)                                     \
  X(CUBLAS_STATUS_SUCCESS, 0, "the operation completed successfully")        \
  X(CUBLAS_STATUS_NOT_INITIALIZED, 1, "the library was not initialized")     \
  X(CUBLAS_STATUS_ALLOC_FAILED, 3, "the resource allocation failed")         \
  X(CUBLAS_STATUS_INVALID_VALUE, 7,                                          \
    "an unsupported value or parameter was passed to the function")          \
  X(CUBLAS_STATUS_ARCH_MISMATCH, 8,                                          \
    "the requested functionality requires a feature absent from the device " \
    "architecture")                                                          \
  X(CUBLAS_STATUS_MAPPING_ERROR, 11, "an access to GPU memory space failed") \
  X(CUBLAS_STATUS_EXECUTION_FAILED, 13,                                      \
    "the function failed to launch on the GPU")                              \
  X(CUBLAS_STATUS_INTERNAL_ERROR, 14, "an internal operation failed")        \
  X(CUBLAS_STATUS_NOT_SUPPORTED, 15,                                         \
    "the functionality requested is not supported")                          \
  X(CUBLAS_STATUS_LICENSE_ERROR, 16,                                         \
    "the functionality requested requires some license")

typedef enum {
#define CUDA_PLATFORM_STATUS(name, number, text) name = number,
  CUDA_PLATFORM_CUBLAS_STATUSES(CUDA_PLATFORM_STATUS)
#undef CUDA_PLATFORM_STATUS
} cublasStatus_t;

typedef enum {
  CUBLAS_OP_N = 0,
  CUBLAS_OP_T = 1,
  CUBLAS_OP_C = 2
} cublasOperation_t;

typedef enum {
  CUBLAS_DEFAULT_MATH = 0,
  CUBLAS_PEDANTIC_MATH = 2,
  CUBLAS_TF32_TENSOR_OP_MATH = 3,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16
} cublasMath_t;

typedef enum {
  CUBLAS_COMPUTE_32F = 68,
  CUBLAS_COMPUTE_32F_PEDANTIC = 69,
  CUBLAS_COMPUTE_64F = 70
} cublasComputeType_t;

typedef enum { CUBLAS_GEMM_DEFAULT = -1 } cublasGemmAlgo_t;

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle);
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle);
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream);
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode);
cublasStatus_t cublasGetProperty(libraryPropertyType type, int* value);
const char* cublasGetStatusName(cublasStatus_t status);
const char* cublasGetStatusString(cublasStatus_t status);

/* Matrices are column-major; alpha and beta are the host's. */

cublasStatus_t cublasSgemv_64(cublasHandle_t handle, cublasOperation_t trans,
                              int64_t m, int64_t n, const float* alpha,
                              const float* a, int64_t lda, const float* x,
                              int64_t incx, const float* beta, float* y,
                              int64_t incy);
cublasStatus_t cublasDgemv_64(cublasHandle_t handle, cublasOperation_t trans,
                              int64_t m, int64_t n, const double* alpha,
                              const double* a, int64_t lda, const double* x,
                              int64_t incx, const double* beta, double* y,
                              int64_t incy);
cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t transa,
                               cublasOperation_t transb, int64_t m, int64_t n,
                               int64_t k, const void* alpha, const void* a,
                               cudaDataType_t atype, int64_t lda, const void* b,
                               cudaDataType_t btype, int64_t ldb,
                               const void* beta, void* c, cudaDataType_t ctype,
                               int64_t ldc, cublasComputeType_t compute,
                               cublasGemmAlgo_t algo);

#ifdef __cplusplus
}
#endif

#endif /* CUDA_PLATFORM_CUBLAS_V2_H */
