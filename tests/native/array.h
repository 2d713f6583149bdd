/**
 * Arrays of any dtype, read and written as doubles. Each is a block of exactly
 * its own size, so that AddressSanitizer sees the first byte read behind it.
 */
#ifndef NATIVE_ARRAY_H
#define NATIVE_ARRAY_H

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "check.h"
#include "shared/half.h"

namespace native {

inline size_t bytes_of(int32_t dtype) {
  switch (dtype) {
    case AL_FLOAT64:
    case AL_INT64:
      return 8;
    case AL_FLOAT16:
    case AL_BFLOAT16:
      return 2;
    case AL_BOOL:
      return 1;
    default:
      return 4;
  }
}

class Array {
 public:
  /** shifted: one element off the alignment that a block has. */
  Array(int32_t dtype, int64_t n, bool shifted = false)
      : dtype_(dtype),
        n_(n),
        width_(bytes_of(dtype)),
        block_(new char[(static_cast<size_t>(n) + (shifted ? 1 : 0)) * width_]),
        start_(block_.get() + (shifted ? width_ : 0)) {
    memset(start_, 0x5a, static_cast<size_t>(bytes()));
  }

  void* data() { return start_; }
  const void* data() const { return start_; }
  int32_t dtype() const { return dtype_; }
  int64_t size() const { return n_; }
  int64_t bytes() const { return n_ * static_cast<int64_t>(width_); }

  double get(int64_t i) const {
    switch (dtype_) {
      case AL_FLOAT32:
        return at<float>(i);
      case AL_FLOAT64:
        return at<double>(i);
      case AL_FLOAT16:
        return atomloss::to_float(at<atomloss::float16>(i));
      case AL_BFLOAT16:
        return atomloss::to_float(at<atomloss::bfloat16>(i));
      case AL_INT32:
        return at<int32_t>(i);
      case AL_INT64:
        return static_cast<double>(at<int64_t>(i));
      default:
        return at<uint8_t>(i);
    }
  }

  void set(int64_t i, double value) {
    switch (dtype_) {
      case AL_FLOAT32:
        return put(i, static_cast<float>(value));
      case AL_FLOAT64:
        return put(i, value);
      case AL_FLOAT16:
        return put(i, atomloss::to_float16(static_cast<float>(value)));
      case AL_BFLOAT16:
        return put(i, atomloss::to_bfloat16(static_cast<float>(value)));
      case AL_INT32:
        return put(i, static_cast<int32_t>(value));
      case AL_INT64:
        return put(i, static_cast<int64_t>(value));
      default:
        return put(i, static_cast<uint8_t>(value));
    }
  }

  void fill_uniform(Random& random) {
    for (int64_t i = 0; i < n_; ++i) set(i, random.uniform());
  }

  /** What the array would hold if it were given this value. */
  double stored(double value) const {
    Array one(dtype_, 1);
    one.set(0, value);
    return one.get(0);
  }

 private:
  template <class S>
  S at(int64_t i) const {
    S value;
    memcpy(&value, start_ + i * static_cast<int64_t>(sizeof value),
           sizeof value);
    return value;
  }
  template <class S>
  void put(int64_t i, S value) {
    memcpy(start_ + i * static_cast<int64_t>(sizeof value), &value,
           sizeof value);
  }

  int32_t dtype_;
  int64_t n_;
  size_t width_;
  std::unique_ptr<char[]> block_;
  char* start_;
};

constexpr int32_t kFloatDtypes[] = {AL_FLOAT32, AL_FLOAT64, AL_FLOAT16,
                                    AL_BFLOAT16};

/** The dtype that numbers of a floating dtype are computed in. */
inline int32_t compute_dtype(int32_t dtype) {
  return dtype == AL_FLOAT64 ? AL_FLOAT64 : AL_FLOAT32;
}

/** A number as the compute type of the dtype holds it. */
inline double narrowed(int32_t dtype, double value) {
  return dtype == AL_FLOAT64 ? value
                             : static_cast<double>(static_cast<float>(value));
}

/** The largest finite number of a dtype. */
inline double largest(int32_t dtype) {
  switch (dtype) {
    case AL_FLOAT64:
      return std::numeric_limits<double>::max();
    case AL_FLOAT16:
      return 65504;
    case AL_BFLOAT16:
      return 0x1.fep127;
    default:
      return std::numeric_limits<float>::max();
  }
}

/** Relative error that a result in this dtype may have. */
inline double tolerance(int32_t dtype) {
  switch (dtype) {
    case AL_FLOAT64:
      return 1e-12;
    case AL_FLOAT16:
      return 2e-3;
    case AL_BFLOAT16:
      return 1.6e-2;
    default:
      return 2e-5;
  }
}

/** Whether a result is what was expected, to within an error of `scale`. */
inline bool close(double got, double expected, double tolerated,
                  double scale = 1) {
  if (std::isnan(expected)) return std::isnan(got);
  if (std::isinf(expected) || std::isinf(got)) return got == expected;
  return std::fabs(got - expected) <=
         tolerated * std::fmax(scale, std::fabs(expected));
}

}  // namespace native

#endif /* NATIVE_ARRAY_H */
