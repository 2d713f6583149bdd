/** What all replicas say of their next call, in debug mode. */
#ifndef ATOMLOSS_CUDA_CALL_CHECK_CUH
#define ATOMLOSS_CUDA_CALL_CHECK_CUH

#include "cuda/owners.cuh"
#include "shared/call.h"

namespace atomloss {

/** The records of all ranks and, behind them, this replica's. */
class CallCheck {
 public:
  explicit CallCheck(int world_size)
      : device(
            new_device_memory<CallRecord>(static_cast<size_t>(world_size + 1))),
        pinned_(new_pinned_memory((world_size + 1) *
                                  static_cast<int64_t>(sizeof(CallRecord)))) {}

  CallRecord* host() const {
    return static_cast<CallRecord*>(
        static_cast<void*>(static_cast<char*>(pinned_)));
  }

  const DeviceMemory<CallRecord> device;

 private:
  const PinnedMemory pinned_;
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_CALL_CHECK_CUH */
