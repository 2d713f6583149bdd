/** Memory of the device for the reduction that is running. */
#ifndef ATOMLOSS_CUDA_SCRATCH_CUH
#define ATOMLOSS_CUDA_SCRATCH_CUH

#include "atomloss.h"

namespace atomloss {

/** Tasks of one al_loss_reduce() at most. */
constexpr int kMaxTasks = 1024;

/** What a thread has to say of its entries: see al_loss_result. */
struct Told {
  unsigned inputs = 0, targets = 0, factors = 0, natoms = 0;
};
constexpr int kTold = 4;

struct Scratch {
  double* partials;  /* a slot per block: what it leaves for the last one */
  unsigned* tickets; /* [kMaxTasks + 1]: how many blocks, and tasks, are done */
  al_loss_result* values;   /* [kMaxTasks]: the tasks' results */
  unsigned long long* told; /* [kMaxTasks][kTold], 0 between launches */
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_SCRATCH_CUH */
