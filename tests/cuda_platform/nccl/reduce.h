/** What NCCL's kernels compute, in the order of the ranks. */
#ifndef CUDA_PLATFORM_NCCL_REDUCE_H
#define CUDA_PLATFORM_NCCL_REDUCE_H

#include <nccl.h>

#include <cstddef>

namespace cuda_platform {

/** Bytes of an element; 0 if there is no such type here. */
size_t size_of(ncclDataType_t type);

/**
 * out[i] = op over the ranks of element i of their areas, which begin `stride`
 * bytes one behind the other. Half precision is rounded after every addition,
 * and the average of floats is the sum of what was divided before, as in NCCL.
 */
void reduce(ncclDataType_t type, ncclRedOp_t op, const char* areas,
            size_t stride, int ranks, size_t count, void* out);

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_NCCL_REDUCE_H */
