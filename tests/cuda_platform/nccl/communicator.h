/** A communicator: what it is in, and what its operations do on their stream.
 */
#ifndef CUDA_PLATFORM_NCCL_COMMUNICATOR_H
#define CUDA_PLATFORM_NCCL_COMMUNICATOR_H

#include <nccl.h>

#include <atomic>
#include <memory>
#include <string>

#include "exchange.h"

namespace cuda_platform {

/** A collective as it was called. */
struct Operation {
  enum Kind : unsigned { kAllReduce, kBroadcast, kAllGather } kind;
  const void* send;
  void* receive;
  size_t count; /* elements of a rank */
  ncclDataType_t type;
  ncclRedOp_t op;
  int root;
  cudaStream_t stream;
};

}  // namespace cuda_platform

struct ncclComm {
  const int rank, ranks, device;
  const bool blocking;
  const std::string name; /* of the id */

  /** What ncclCommGetAsyncError() says: of the last call, and of the peers. */
  std::atomic<ncclResult_t> state{ncclInProgress};
  std::atomic<ncclResult_t> failure{ncclSuccess};
  std::atomic<bool> aborted{false};
  std::atomic<bool> launching{false}; /* a thread works on the last call */
  std::atomic<int> under_way{0};      /* operations on streams */
  std::atomic<int> callers{0};        /* threads inside of a call */
  bool initialized = false, finalized = false, destroyed = false;

  ncclComm(const ncclUniqueId& id, int rank_, int ranks_, bool blocking_);

  /** What ncclCommGetAsyncError() says. */
  ncclResult_t answer() const {
    const ncclResult_t now = state;
    return now == ncclSuccess ? failure.load() : now;
  }

  /* What follows is the work behind a call; it may wait for the peers, until
     the communicator is aborted. */

  ncclResult_t initialize();
  /** Connects what the operation needs, if that has not been done. */
  ncclResult_t connect(const cuda_platform::Operation& operation);
  /** Puts the operation on its stream. */
  ncclResult_t launch(const cuda_platform::Operation& operation);
  /** Waits for its operations, then for the peers to be as far. */
  ncclResult_t finalize();
  /** Ends it. What is under way on streams has been aborted, or is finished. */
  ncclResult_t destroy();

 private:
  /** On the stream's thread. */
  void run(const cuda_platform::Operation& operation);
  bool transfer(const cuda_platform::Operation& operation);
  /** Ends a wait: aborted. Notes on the way whether a peer has died. */
  bool stopped();
  void wait_for_streams();

  std::unique_ptr<cuda_platform::Exchange> exchange_;
  cudaStream_t stream_ = nullptr; /* of its operations */
};

#endif /* CUDA_PLATFORM_NCCL_COMMUNICATOR_H */
