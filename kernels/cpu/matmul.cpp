/**
 * Matrix product through OpenBLAS. Half-precision operands are widened to
 * float32, multiplied there and rounded once.
 */
#include <cblas.h>

#include <climits>
#include <type_traits>
#include <vector>

#include "cpu/device.h"
#include "shared/dispatch.h"
#include "shared/half.h"
#include "shared/matmul_sides.h"
#include "shared/status.h"

namespace {

using atomloss::compute_t;

/** The sizes of c = op(a) op(b), in the int that cblas takes. */
struct Problem {
  CBLAS_TRANSPOSE transpose_a, transpose_b;
  int m, n, k;
  int lda() const { return transpose_a == CblasTrans ? m : k; }
  int ldb() const { return transpose_b == CblasTrans ? k : n; }
};

CBLAS_TRANSPOSE flipped(CBLAS_TRANSPOSE t) {
  return t == CblasTrans ? CblasNoTrans : CblasTrans;
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type
#define AL_BLAS(T, gemm, gemv)                                               \
  void product(const Problem& p, const T* a, const T* b, T beta, T* c) {     \
    /* gemm is slow for one row or column; gemv reads the matrix once. */    \
    if (p.n == 1) {                                                          \
      const bool t = p.transpose_a == CblasTrans;                            \
      gemv(CblasRowMajor, p.transpose_a, t ? p.k : p.m, t ? p.m : p.k, 1, a, \
           p.lda(), b, 1, beta, c, 1);                                       \
    } else if (p.m == 1) {                                                   \
      const bool t = p.transpose_b == CblasTrans;                            \
      gemv(CblasRowMajor, flipped(p.transpose_b), t ? p.n : p.k,             \
           t ? p.k : p.n, 1, b, p.ldb(), a, 1, beta, c, 1);                  \
    } else {                                                                 \
      gemm(CblasRowMajor, p.transpose_a, p.transpose_b, p.m, p.n, p.k, 1, a, \
           p.lda(), b, p.ldb(), beta, c, p.n);                               \
    }                                                                        \
  }
AL_BLAS(float, cblas_sgemm, cblas_sgemv)
AL_BLAS(double, cblas_dgemm, cblas_dgemv)
#undef AL_BLAS
// NOLINTEND(bugprone-macro-parentheses)

template <class S>
std::vector<float> widened(const S* x, int64_t n) {
  std::vector<float> wide(static_cast<size_t>(n));
  atomloss::load_block(x, n, wide.data());
  return wide;
}

template <class S>
void multiply(const Problem& p, const S* a, const S* b, S* c, bool accumulate) {
  const compute_t<S> beta = accumulate ? 1 : 0;
  const int64_t size = int64_t{p.m} * p.n;
  if (p.k == 0) {  // an empty sum; BLAS rejects the leading dimension 0
    if (!accumulate) std::fill(c, c + size, atomloss::store<S>(0));
  } else if constexpr (std::is_same_v<S, compute_t<S>>) {
    product(p, a, b, beta, c);
  } else {
    std::vector<float> out =
        accumulate ? widened(c, size) : std::vector<float>(size);
    product(p, widened(a, int64_t{p.m} * p.k).data(),
            widened(b, int64_t{p.k} * p.n).data(), beta, out.data());
    atomloss::store_block(out.data(), size, c);
  }
}

}  // namespace

al_status al_matmul(al_device* device, int32_t dtype, int32_t transpose_a,
                    int32_t transpose_b, int64_t m, int64_t n, int64_t k,
                    const void* a, const void* b, void* c, int32_t accumulate) {
  AL_RECORD(device, al_matmul, device, dtype, transpose_a, transpose_b, m, n, k,
            a, b, c, accumulate);
  if (m > INT_MAX || n > INT_MAX || k > INT_MAX)
    return al_fail(AL_INVALID_ARGUMENT,
                   "a side of the matrix product exceeds %d: m %lld, n %lld, "
                   "k %lld",
                   INT_MAX, static_cast<long long>(m),
                   static_cast<long long>(n), static_cast<long long>(k));
  if (const al_status bad = atomloss::check_sides(m, n, k)) return bad;
  if (m == 0 || n == 0) return AL_OK;
  const Problem problem = {transpose_a ? CblasTrans : CblasNoTrans,
                           transpose_b ? CblasTrans : CblasNoTrans,
                           static_cast<int>(m), static_cast<int>(n),
                           static_cast<int>(k)};
  return al_guard([&] {
    return atomloss::with_float_type(dtype, [&](auto type) {
      using S = typename decltype(type)::type;
      multiply(problem, static_cast<const S*>(a), static_cast<const S*>(b),
               static_cast<S*>(c), accumulate != 0);
      return static_cast<al_status>(AL_OK);
    });
  });
}
