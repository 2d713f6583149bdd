/**
 * What crosses to the host. A call fixes the value at its place in the order of
 * the device and returns; the thread that waits for it does the rest.
 *
 * A few bytes, such as the value of a loss, are copied into pinned memory by
 * the stream itself. More are copied aside on the GPU, at the speed of its
 * memory, and come from there in pieces through two pinned blocks, beside what
 * the stream does next.
 */
#ifndef ATOMLOSS_CUDA_DOWNLOADS_CUH
#define ATOMLOSS_CUDA_DOWNLOADS_CUH

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "owners.cuh"
#include "scoped_block.cuh"

namespace atomloss {

class Downloads {
 public:
  /** stream: the one in whose order values are taken. */
  Downloads(al_device* device, cudaStream_t stream);

  /**
   * Takes the value of device memory behind what the stream was given. Returns
   * a ticket; or 0 if the bytes are in `to` already, because the GPU has no
   * room for them twice.
   */
  int64_t begin(void* to, const void* from, int64_t bytes);

  /** Waits for the bytes of a ticket, and ends it. */
  void finish(int64_t ticket, void* to, int64_t bytes);

  /** Gives back the blocks that pieces go through. */
  void release();

 private:
  /** Pinned memory, and the event behind the copy to it. */
  struct Slot {
    char* memory;
    Event copied;
  };
  struct Piece {
    PinnedMemory memory;
    Event copied;
  };

  struct GiveBack {
    Downloads* to;
    void operator()(Slot* slot) const;
  };
  using Lease = std::unique_ptr<Slot, GiveBack>;

  /** The bytes are in the slot, or in the block behind its event. */
  struct Download {
    Lease slot;
    ScopedBlock block;
    Event copied;
  };

  Lease take_slot();
  int64_t add(Download download);
  void fetch(void* to, const void* from, int64_t bytes);

  al_device* const device_;
  const cudaStream_t stream_;
  const PinnedMemory slot_memory_;
  std::vector<Slot> slots_;

  std::mutex fetching_;  /* one download at a time; guards the pieces */
  const Stream fetches_; /* their copies */
  Piece pieces_[2];

  std::mutex mutex_; /* guards what follows; held for nothing that waits */
  std::vector<Slot*> free_slots_;
  std::map<int64_t, Download> under_way_;
  int64_t next_ticket_ = 1;
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_DOWNLOADS_CUH */
