/** Memory for the emulated kernels that tells whether they wrote next to it. */
#ifndef CUDA_EMULATION_GUARDED_H
#define CUDA_EMULATION_GUARDED_H

#include <cstdint>
#include <vector>

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

#endif /* CUDA_EMULATION_GUARDED_H */
