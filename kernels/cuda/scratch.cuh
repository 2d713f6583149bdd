/** Memory of the device for the reduction that is running. */
#ifndef ATOMLOSS_CUDA_SCRATCH_CUH
#define ATOMLOSS_CUDA_SCRATCH_CUH

namespace atomloss {

/** What a block leaves for the last one. */
struct Partial {
  double sum;
  long long nonfinite;
};

/** Tasks of one al_loss_reduce() at most. */
constexpr int kMaxTasks = 1024;

struct Scratch {
  Partial* partials; /* a slot per block */
  unsigned* tickets; /* [kMaxTasks + 1]: how many blocks, and tasks, of a launch
                        are done; all 0 between launches */
  Partial* values;   /* [kMaxTasks]: the tasks' results */
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_SCRATCH_CUH */
