/**
 * The kernels of the fused pass, run on the host and compared, element by
 * element, with the losses written out. Prints what differs; ends with
 * "N checks, N failed".
 */
#include "cuda_emulation.h"
// The emulation first: it takes the place of CUDA's own headers.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cuda/reduce_kernels.cuh"

using namespace atomloss;

namespace {

int checks = 0, failed = 0;

double uniform() {
  return std::uniform_real_distribution<>(-0.5, 0.5)(emulation::random);
}

/** An array between guards, aligned to 16 bytes or off by one element. */
template <class S>
class Guarded {
 public:
  Guarded(int64_t n, bool is_aligned)
      : bytes_(static_cast<size_t>(n) * sizeof(S) + 4 * kGuard, kMark), n_(n) {
    const auto start = reinterpret_cast<uintptr_t>(bytes_.data()) + kGuard;
    offset_ = static_cast<size_t>((start + 15) / 16 * 16 - start) + kGuard +
              (is_aligned ? 0 : sizeof(S));
  }
  S* data() { return reinterpret_cast<S*>(bytes_.data() + offset_); }
  /** Whether nothing was written next to it. */
  bool intact() const {
    const size_t end = offset_ + static_cast<size_t>(n_) * sizeof(S);
    for (size_t i = 0; i < bytes_.size(); ++i)
      if ((i < offset_ || i >= end) && bytes_[i] != kMark) return false;
    return true;
  }

 private:
  static constexpr size_t kGuard = 32;
  static constexpr char kMark = 0x5a;
  std::vector<char> bytes_;
  int64_t n_;
  size_t offset_;
};

/** Relative rounding of a storage type. */
template <class S>
double rounding() {
  if (std::is_same_v<S, bfloat16>) return 1e-2;
  if (std::is_same_v<S, float16>) return 2e-3;
  return std::is_same_v<S, float> ? 1e-5 : 1e-12;
}

template <class Loss, class S>
void launch(const Input<S>& in, const Output& out, S* grad, bool packed,
            int64_t most) {
  const auto run = [&](int64_t work, int64_t tile, auto&& kernel) {
    const int64_t tiles = (work + tile - 1) / tile;
    const auto grid =
        static_cast<unsigned>(std::max<int64_t>(1, std::min(tiles, most)));
    emulation::launch(grid, kThreads, kernel);
  };
  constexpr int64_t kSize = Pack<S>::kSize;
  if constexpr (Loss::kind == AL_PER_ROW) {
    if (in.cols != 3)
      run(in.rows, kWarps, [&] { reduce_rows<Loss, true>(in, out, grad); });
    else if (packed)
      run(in.rows, kThreads * kSize,
          [&] { reduce_forces<Loss, true>(in, out, grad); });
    else
      run(in.rows, kThreads,
          [&] { reduce_forces_unaligned<Loss, true>(in, out, grad); });
  } else if (packed) {
    run(in.elements(), kThreads * kUnroll * kSize,
        [&] { reduce_elements<Loss, true>(in, out, grad); });
  } else {
    run(in.elements(), kThreads,
        [&] { reduce_elements_unaligned<Loss, true>(in, out, grad); });
  }
}

template <class Loss, class S>
void check(int64_t rows, int64_t cols, bool packed, bool nan, int64_t most) {
  using T = compute_t<S>;
  constexpr T kLargest = Dtype<S>::largest;
  const int64_t n = rows * cols;
  Guarded<S> pred(n, packed), target(n, packed), grad(n, packed);
  std::vector<int64_t> natoms(static_cast<size_t>(rows));
  for (int64_t i = 0; i < n; ++i) {
    const bool bad = nan && emulation::random() % 7 == 0;
    pred.data()[i] = store<S>(bad ? T(NAN) : T(uniform()));
    target.data()[i] = store<S>(T(uniform()));
  }
  for (int64_t& count : natoms) count = 1 + emulation::random() % 5;

  const double normalizer = static_cast<double>(n + 1);
  const double factor = 3 / normalizer;
  std::vector<Partial> partials(static_cast<size_t>(most));
  unsigned ticket = 0;
  al_loss_result result = {-1, -1};
  const Input<S> in = {pred.data(), target.data(), natoms.data(),
                       true,        rows,          cols};
  launch<Loss, S>(in,
                  {&result, partials.data(), &ticket, 3, &normalizer,
                   sizeof(T) == sizeof(double)},
                  grad.data(), packed, most);

  double sum = 0, worst = 0;
  int64_t nonfinite = 0;
  for (int64_t row = 0; row < rows; ++row) {
    T s = 0;
    for (int64_t i = row * cols; i < (row + 1) * cols; ++i) {
      const T d = nan_to_num(load(in.pred[i]), kLargest) - load(in.target[i]);
      s += d * d;
    }
    if constexpr (Loss::kind == AL_PER_ROW) sum += Loss::value(s);
    for (int64_t i = row * cols; i < (row + 1) * cols; ++i) {
      const T x = load(in.pred[i]), t = load(in.target[i]);
      const T p = nan_to_num(x, kLargest);
      T g;
      if constexpr (Loss::kind == AL_PER_ROW) {
        g = Loss::slope(s) * (p - t);
      } else {
        const T atoms = Loss::uses_natoms ? T(natoms[row]) : T(1);
        sum += Loss::value(p, t, atoms);
        g = Loss::grad(p, t, atoms);
      }
      const bool ok = is_finite(x, kLargest);
      nonfinite += !ok;
      const double error =
          std::fabs(load(grad.data()[i]) - (ok ? factor * g : 0));
      worst = error <= worst ? worst : error;  // also a NaN stays
    }
  }
  const double value = sizeof(T) == sizeof(double)
                           ? result.value
                           : *reinterpret_cast<float*>(&result.value);
  const bool good = worst <= rounding<S>() * factor &&
                    std::fabs(value - factor * sum) <= 1e-6 * factor * sum &&
                    nonfinite == result.nonfinite && ticket == 0 &&
                    grad.intact();
  ++checks;
  if (good) return;
  ++failed;
  printf(
      "%s, %zu bytes, [%ld, %ld], packed %d, nan %d, %ld blocks: gradient "
      "off by %g, value %.9g for %.9g, %ld not finite for %ld, ticket %u, "
      "%s\n",
      Loss::name, sizeof(S), static_cast<long>(rows), static_cast<long>(cols),
      packed, nan, static_cast<long>(most), worst, value, factor * sum,
      static_cast<long>(result.nonfinite), static_cast<long>(nonfinite), ticket,
      grad.intact() ? "guards intact" : "guards overwritten");
}

template <class Loss, class S>
void check_sizes() {
  // Around every border of pack, warp, tile and block.
  for (const int64_t rows : {0, 1, 3, 31, 32, 33, 64, 65, 127, 128, 129, 255,
                             256, 257, 513, 1300, 2049, 4097}) {
    for (const bool packed : {true, false}) {
      for (const bool nan : {false, true}) {
        for (const int64_t most : {1, 1000}) {
          constexpr int64_t kCols = Loss::uses_natoms ? 1 : 3;
          check<Loss, S>(rows, kCols, packed, nan, most);
          if (Loss::kind == AL_PER_ROW && rows < 66)
            check<Loss, S>(rows, rows % 2 ? 5 : 70, packed, nan, most);
        }
      }
    }
  }
}

}  // namespace

int main() {
#define AL_CHECK_LOSS(Loss)     \
  check_sizes<Loss, float>();   \
  check_sizes<Loss, double>();  \
  check_sizes<Loss, float16>(); \
  check_sizes<Loss, bfloat16>();
  AL_LOSSES(AL_CHECK_LOSS)
  printf("%d checks, %d failed\n", checks, failed);
  return failed != 0;
}
