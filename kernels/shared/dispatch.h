/** From the numbers of the ABI to the types that the kernels are written in. */
#ifndef ATOMLOSS_DISPATCH_H
#define ATOMLOSS_DISPATCH_H

#include "shared/status.h"
#ifdef __CUDACC__
#include "cuda/half.cuh"
#else
#include "shared/half.h"
#endif

namespace atomloss {

/** A type as a value, to hand it to a lambda. */
template <class S>
struct Type {
  using type = S;
};

/** f(Type<S>) with the storage type of a floating dtype. */
template <class F>
al_status with_float_type(int32_t dtype, F&& f) {
  switch (dtype) {
    case AL_FLOAT32:
      return f(Type<float>());
    case AL_FLOAT64:
      return f(Type<double>());
    case AL_FLOAT16:
      return f(Type<float16>());
    case AL_BFLOAT16:
      return f(Type<bfloat16>());
  }
  return al_fail(AL_INVALID_ARGUMENT, "dtype %d is not a floating dtype",
                 dtype);
}

/** A number of a dtype that is known at run time only: for those who read few.
 */
#ifdef __CUDACC__
__device__
#endif
    inline double
    number(const void* values, int32_t dtype, int64_t i) {
  switch (dtype) {
    case AL_FLOAT64:
      return static_cast<const double*>(values)[i];
    case AL_FLOAT16:
      return static_cast<double>(load(static_cast<const float16*>(values)[i]));
    case AL_BFLOAT16:
      return static_cast<double>(load(static_cast<const bfloat16*>(values)[i]));
    default:
      return static_cast<double>(static_cast<const float*>(values)[i]);
  }
}

}  // namespace atomloss

#endif /* ATOMLOSS_DISPATCH_H */
