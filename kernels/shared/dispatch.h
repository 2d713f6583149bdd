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

}  // namespace atomloss

#endif /* ATOMLOSS_DISPATCH_H */
