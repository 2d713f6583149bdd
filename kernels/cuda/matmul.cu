/**
 * Matrix product by cuBLAS, which is column-major: a row-major matrix is to it
 * the transposed one, so c = op(a) op(b) is computed as c' = op(b)' op(a)'.
 * float32 in float32 (in TF32 only if ATOMLOSS_ALLOW_TF32=1), half precision
 * with float32 sums, also where cuBLAS cuts k into parts.
 */
#include <cstdlib>
#include <cstring>

#include "device.cuh"
#include "shared/dispatch.h"
#include "shared/matmul_sides.h"

namespace {

/** The device's cuBLAS handle, made at the first product. */
cublasHandle_t blas(al_device* device) {
  std::lock_guard<std::mutex> lock(device->blas_mutex);
  if (device->blas == nullptr) {
    atomloss::Blas made = atomloss::new_blas();
    AL_CHECK(cublasSetStream(made, device->compute));
    const char* const tf32 = std::getenv("ATOMLOSS_ALLOW_TF32");
    const int inputs = tf32 != nullptr && strcmp(tf32, "1") == 0
                           ? CUBLAS_TF32_TENSOR_OP_MATH
                           : CUBLAS_DEFAULT_MATH;
    // Without it the parts of a sum are added in the type of the output.
    const int sums = CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    AL_CHECK(cublasSetMathMode(made, static_cast<cublasMath_t>(inputs | sums)));
    device->blas = std::move(made);  // not before it is all set up
  }
  return device->blas;
}

struct Problem {
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  int64_t lda() const { return transpose_a ? m : k; }
  int64_t ldb() const { return transpose_b ? k : n; }
};

/** y = op(M) x, plus y if accumulating, for the row-major M [rows, cols]. */
template <class T>
void matrix_vector(cublasHandle_t handle, bool transpose, int64_t rows,
                   int64_t cols, const T* matrix, const T* x, T beta, T* y) {
  const T one = 1;
  // To cuBLAS it is [cols, rows]: transposed where ours is not.
  const cublasOperation_t op = transpose ? CUBLAS_OP_N : CUBLAS_OP_T;
  if constexpr (sizeof(T) == sizeof(float))
    AL_CHECK(cublasSgemv_64(handle, op, cols, rows, &one, matrix, cols, x, 1,
                            &beta, y, 1));
  else
    AL_CHECK(cublasDgemv_64(handle, op, cols, rows, &one, matrix, cols, x, 1,
                            &beta, y, 1));
}

template <class T>
void multiply_vectors(cublasHandle_t handle, const Problem& p, const T* a,
                      const T* b, T beta, T* c) {
  if (p.n == 1)
    matrix_vector(handle, p.transpose_a, p.transpose_a ? p.k : p.m,
                  p.transpose_a ? p.m : p.k, a, b, beta, c);
  else  // one row: c' = op(b)' a'
    matrix_vector(handle, !p.transpose_b, p.transpose_b ? p.n : p.k,
                  p.transpose_b ? p.k : p.n, b, a, beta, c);
}

template <class T>
void multiply(cublasHandle_t handle, const Problem& p, cudaDataType_t type,
              cublasComputeType_t compute, const void* a, const void* b,
              bool accumulate, void* c) {
  const T alpha = 1, beta = accumulate ? 1 : 0;
  AL_CHECK(cublasGemmEx_64(handle, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                           p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, p.n, p.m,
                           p.k, &alpha, b, type, p.ldb(), a, type, p.lda(),
                           &beta, c, type, p.n, compute, CUBLAS_GEMM_DEFAULT));
}

}  // namespace

al_status al_matmul(al_device* device, int32_t dtype, int32_t transpose_a,
                    int32_t transpose_b, int64_t m, int64_t n, int64_t k,
                    const void* a, const void* b, void* c, int32_t accumulate) {
  AL_RECORD(device, al_matmul, device, dtype, transpose_a, transpose_b, m, n, k,
            a, b, c, accumulate);
  if (const al_status bad = atomloss::check_sides(m, n, k)) return bad;
  if (m == 0 || n == 0) return AL_OK;
  if (k == 0)  // an empty sum
    return accumulate ? static_cast<al_status>(AL_OK)
                      : al_fill(device, dtype, c, m * n, 0, nullptr);
  return al_guard([&]() -> al_status {
    const atomloss::CurrentDevice current(device->ordinal);
    const cublasHandle_t handle = blas(device);
    const Problem p = {transpose_a != 0, transpose_b != 0, m, n, k};
    const bool vector = m == 1 || n == 1;
    switch (dtype) {
      case AL_FLOAT32:
        if (vector)
          multiply_vectors<float>(handle, p, static_cast<const float*>(a),
                                  static_cast<const float*>(b),
                                  accumulate ? 1.0f : 0.0f,
                                  static_cast<float*>(c));
        else
          multiply<float>(handle, p, CUDA_R_32F, CUBLAS_COMPUTE_32F, a, b,
                          accumulate, c);
        return AL_OK;
      case AL_FLOAT64:
        if (vector)
          multiply_vectors<double>(handle, p, static_cast<const double*>(a),
                                   static_cast<const double*>(b),
                                   accumulate ? 1.0 : 0.0,
                                   static_cast<double*>(c));
        else
          multiply<double>(handle, p, CUDA_R_64F, CUBLAS_COMPUTE_64F, a, b,
                           accumulate, c);
        return AL_OK;
      case AL_FLOAT16:
        multiply<float>(handle, p, CUDA_R_16F, CUBLAS_COMPUTE_32F, a, b,
                        accumulate, c);
        return AL_OK;
      case AL_BFLOAT16:
        multiply<float>(handle, p, CUDA_R_16BF, CUBLAS_COMPUTE_32F, a, b,
                        accumulate, c);
        return AL_OK;
    }
    return al_fail(AL_INVALID_ARGUMENT, "dtype %d is not a floating dtype",
                   dtype);
  });
}
