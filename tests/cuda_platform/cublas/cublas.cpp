/**
 * libcublas on a CPU. It takes every liberty with precision that cuBLAS has:
 * unless the math mode forbids it, half-precision products are summed in pieces
 * that are rounded to the output's type (split-K), and float32 is multiplied in
 * TF32 where the mode allows that.
 */
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "platform.h"

struct cublasContext {
  int device; /* the current one when it was made */
  void* workspace;
  cudaStream_t stream = nullptr;
  cublasMath_t mode = CUBLAS_DEFAULT_MATH;
};

namespace {

using namespace cuda_platform;

constexpr size_t kWorkspaceBytes = size_t{4} << 20;

/** Pieces of a sum over k, where they may be added in the output's type. */
constexpr int64_t kSplits = 4;

float load(float x) { return x; }
double load(double x) { return x; }
float load(__half x) { return __half2float(x); }
float load(__nv_bfloat16 x) { return __bfloat162float(x); }

void store(float x, float* out) { *out = x; }
void store(double x, double* out) { *out = x; }
void store(float x, __half* out) { *out = __float2half_rn(x); }
void store(float x, __nv_bfloat16* out) { *out = __float2bfloat16_rn(x); }

/** With the 10 bits that TF32 keeps of a mantissa, to nearest even. */
float to_tf32(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (std::isfinite(x)) bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/** A matrix in memory, and whether its transpose is meant. */
struct Matrix {
  const void* data;
  int64_t rows, columns, leading; /* as it lies there */
  bool transposed;

  int64_t elements() const {
    return rows == 0 || columns == 0 ? 0 : leading * (columns - 1) + rows;
  }
};

/** Element (i, j) of what is meant, at [i * k + j] or at [j * k + i]. */
template <class S, class T>
std::vector<T> gather(const Matrix& m, bool by_rows, bool tf32) {
  std::vector<T> out(static_cast<size_t>(m.rows * m.columns));
  const S* const data = static_cast<const S*>(m.data);
  const bool contiguous = by_rows == m.transposed;
  for (int64_t j = 0; j < m.columns; ++j)
    for (int64_t i = 0; i < m.rows; ++i) {
      T x = load(data[j * m.leading + i]);
      if constexpr (sizeof(T) == sizeof(float)) x = tf32 ? to_tf32(x) : x;
      out[static_cast<size_t>(contiguous ? j * m.rows + i
                                         : i * m.columns + j)] = x;
    }
  return out;
}

/** In lanes, as a vector unit or a tensor core adds. */
template <class T>
T dot(const T* a, const T* b, int64_t n) {
  constexpr int64_t kLanes = 8;
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] += a[i + lane] * b[i + lane];
  for (; i < n; ++i) lanes[0] += a[i] * b[i];
  T sum = 0;
  for (const T lane : lanes) sum += lane;
  return sum;
}

/** c = alpha op(a) op(b) + beta c */
template <class S, class T>
void multiply(const Matrix& a, const Matrix& b, int64_t m, int64_t n, int64_t k,
              T alpha, T beta, S* c, int64_t ldc, bool split, bool tf32) {
  const std::vector<T> rows = gather<S, T>(a, true, tf32);
  const std::vector<T> columns = gather<S, T>(b, false, tf32);
  const int64_t piece = split ? (k + kSplits - 1) / kSplits : k;
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < m; ++i) {
      T sum = 0;
      for (int64_t first = 0; first < k; first += piece) {
        sum += dot(&rows[static_cast<size_t>(i * k + first)],
                   &columns[static_cast<size_t>(j * k + first)],
                   std::min(piece, k - first));
        if (!split) continue;
        S rounded;
        store(sum, &rounded);
        sum = load(rounded);
      }
      S* const out = &c[j * ldc + i];
      // Where beta is 0, c is not read: it may hold anything.
      store(alpha * sum + (beta == T(0) ? T(0) : beta * T(load(*out))), out);
    }
}

template <class S, class T>
cublasStatus_t gemm(cublasHandle_t handle, const char* name, const Matrix& a,
                    const Matrix& b, int64_t m, int64_t n, int64_t k,
                    const void* alpha_pointer, const void* beta_pointer,
                    void* c, int64_t ldc) {
  const T alpha = *static_cast<const T*>(alpha_pointer);
  const T beta = *static_cast<const T*>(beta_pointer);
  const bool split =
      sizeof(S) == 2 &&
      !(handle->mode & CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
  const bool tf32 = (handle->mode & 0xf) == CUBLAS_TF32_TENSOR_OP_MATH;
  if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
  const Matrix out = {c, m, n, ldc, false};
  const auto work = [=] {
    const auto bytes = [](const Matrix& matrix) {
      return static_cast<size_t>(matrix.elements()) * sizeof(S);
    };
    note_read(a.data, bytes(a), "A");
    note_read(b.data, bytes(b), "B");
    if (beta != T(0)) note_read(c, bytes(out), "C");
    note_write(c, bytes(out), "C");
    multiply<S, T>(a, b, m, n, k, alpha, beta, static_cast<S*>(c), ldc, split,
                   tf32);
  };
  return enqueue(handle->stream, name, work) == cudaSuccess
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_EXECUTION_FAILED;
}

/** What every call looks at first. */
cublasStatus_t check_handle(cublasHandle_t handle, const char* name) {
  if (const int failed = begin_call(name))
    return static_cast<cublasStatus_t>(failed);
  return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

/** The same for one that computes: the handle belongs to one device. */
cublasStatus_t check_device(cublasHandle_t handle, const char* name) {
  if (const cublasStatus_t bad = check_handle(handle, name)) return bad;
  return current_device() == handle->device &&
                 device_of(handle->stream) == handle->device
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_EXECUTION_FAILED;
}

bool is_operation(cublasOperation_t op) {
  return op == CUBLAS_OP_N || op == CUBLAS_OP_T || op == CUBLAS_OP_C;
}

/** y = alpha op(a) x + beta y, as a product with a matrix of one column. */
template <class T>
cublasStatus_t gemv(cublasHandle_t handle, const char* name,
                    cublasOperation_t op, int64_t m, int64_t n, const T* alpha,
                    const T* a, int64_t lda, const T* x, int64_t incx,
                    const T* beta, T* y, int64_t incy) {
  if (const cublasStatus_t bad = check_device(handle, name)) return bad;
  if (!is_operation(op) || m < 0 || n < 0 || lda < std::max<int64_t>(1, m) ||
      incx == 0 || incy == 0 || alpha == nullptr || beta == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  // What nobody needs here.
  if (incx != 1 || incy != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool transposed = op != CUBLAS_OP_N;
  const int64_t rows = transposed ? n : m, inner = transposed ? m : n;
  return gemm<T, T>(handle, name, {a, m, n, lda, transposed},
                    {x, inner, 1, inner, false}, rows, 1, inner, alpha, beta, y,
                    rows);
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  if (const int failed = begin_call("cublasCreate"))
    return static_cast<cublasStatus_t>(failed);
  if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  void* workspace = nullptr;
  const cudaError_t code = cudaMalloc(&workspace, kWorkspaceBytes);
  if (code != cudaSuccess) {
    cudaGetLastError();
    return code == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED
                                             : CUBLAS_STATUS_NOT_INITIALIZED;
  }
  *handle = new cublasContext{current_device(), workspace};
  return CUBLAS_STATUS_SUCCESS;
}

/** "Will implicitly call cudaDeviceSynchronize()", says NVIDIA. */
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  if (const cublasStatus_t bad = check_handle(handle, "cublasDestroy"))
    return bad;
  const int current = current_device();
  cudaSetDevice(handle->device);
  cudaDeviceSynchronize();
  cudaFree(handle->workspace);
  cudaSetDevice(current);
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  if (const cublasStatus_t bad = check_handle(handle, "cublasSetStream"))
    return bad;
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  if (const cublasStatus_t bad = check_handle(handle, "cublasSetMathMode"))
    return bad;
  const int base = mode & ~CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
  if (base != CUBLAS_DEFAULT_MATH && base != CUBLAS_PEDANTIC_MATH &&
      base != CUBLAS_TF32_TENSOR_OP_MATH)
    return CUBLAS_STATUS_INVALID_VALUE;
  handle->mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetProperty(libraryPropertyType type, int* value) {
  if (value == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *value = type == MAJOR_VERSION ? 13 : 1;  // 13.1.1
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasGetStatusName(cublasStatus_t status) {
#define NAME_OF(name, number, text) \
  if (status == name) return #name;
  CUDA_PLATFORM_CUBLAS_STATUSES(NAME_OF)
  return "unknown cuBLAS status";
}

const char* cublasGetStatusString(cublasStatus_t status) {
#define TEXT_OF(name, number, text) \
  if (status == name) return text;
  CUDA_PLATFORM_CUBLAS_STATUSES(TEXT_OF)
  return "unknown cuBLAS status";
}

cublasStatus_t cublasSgemv_64(cublasHandle_t handle, cublasOperation_t trans,
                              int64_t m, int64_t n, const float* alpha,
                              const float* a, int64_t lda, const float* x,
                              int64_t incx, const float* beta, float* y,
                              int64_t incy) {
  return gemv(handle, "cublasSgemv_64", trans, m, n, alpha, a, lda, x, incx,
              beta, y, incy);
}

cublasStatus_t cublasDgemv_64(cublasHandle_t handle, cublasOperation_t trans,
                              int64_t m, int64_t n, const double* alpha,
                              const double* a, int64_t lda, const double* x,
                              int64_t incx, const double* beta, double* y,
                              int64_t incy) {
  return gemv(handle, "cublasDgemv_64", trans, m, n, alpha, a, lda, x, incx,
              beta, y, incy);
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t transa,
                               cublasOperation_t transb, int64_t m, int64_t n,
                               int64_t k, const void* alpha, const void* a,
                               cudaDataType_t atype, int64_t lda, const void* b,
                               cudaDataType_t btype, int64_t ldb,
                               const void* beta, void* c, cudaDataType_t ctype,
                               int64_t ldc, cublasComputeType_t compute,
                               cublasGemmAlgo_t) {
  const char* const name = "cublasGemmEx_64";
  if (const cublasStatus_t bad = check_device(handle, name)) return bad;
  if (!is_operation(transa) || !is_operation(transb) || m < 0 || n < 0 ||
      k < 0 || alpha == nullptr || beta == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  Matrix left = {a, m, k, lda, transa != CUBLAS_OP_N};
  Matrix right = {b, k, n, ldb, transb != CUBLAS_OP_N};
  for (Matrix* matrix : {&left, &right})
    if (matrix->transposed) std::swap(matrix->rows, matrix->columns);
  if (lda < std::max<int64_t>(1, left.rows) ||
      ldb < std::max<int64_t>(1, right.rows) || ldc < std::max<int64_t>(1, m))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (atype != btype || atype != ctype) return CUBLAS_STATUS_NOT_SUPPORTED;
  const auto call = [&](auto storage, auto scalar) {
    return gemm<decltype(storage), decltype(scalar)>(
        handle, name, left, right, m, n, k, alpha, beta, c, ldc);
  };
  const bool single =
      compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC;
  if (atype == CUDA_R_32F && single) return call(float{}, float{});
  if (atype == CUDA_R_64F && compute == CUBLAS_COMPUTE_64F)
    return call(double{}, double{});
  if (atype == CUDA_R_16F && single) return call(__half{}, float{});
  if (atype == CUDA_R_16BF && single) return call(__nv_bfloat16{}, float{});
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

}  // extern "C"
