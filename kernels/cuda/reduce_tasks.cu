/** Any tasks of the losses of this library in one launch. */
#define AL_REDUCE_LOSSES(X) AL_BUILTIN_LOSSES(X)
#include "cuda/reduce_tasks.cuh"

const atomloss::MultiReduce& atomloss::builtin_multi_reduce() {
  return multi_reduce;
}
