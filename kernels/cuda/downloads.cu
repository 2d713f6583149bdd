#include <algorithm>
#include <cstring>

#include "downloads.cuh"

namespace atomloss {
namespace {

constexpr int64_t kSlotBytes = 1024;
constexpr int kSlots = 64;

constexpr int64_t kPieceBytes = int64_t{4} << 20;

}  // namespace

Downloads::Downloads(al_device* device, cudaStream_t stream)
    : device_(device),
      stream_(stream),
      slot_memory_(new_pinned_memory(kSlots * kSlotBytes)),
      fetches_(new_stream(0)) {
  for (int i = 0; i < kSlots; ++i)
    slots_.push_back({slot_memory_ + i * kSlotBytes, new_event()});
  for (Slot& slot : slots_) free_slots_.push_back(&slot);
}

void Downloads::GiveBack::operator()(Slot* slot) const {
  std::lock_guard<std::mutex> lock(to->mutex_);
  to->free_slots_.push_back(slot);
}

/** None if all are in use. */
Downloads::Lease Downloads::take_slot() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (free_slots_.empty()) return {nullptr, {this}};
  Lease slot(free_slots_.back(), {this});
  free_slots_.pop_back();
  return slot;
}

int64_t Downloads::add(Download download) {
  std::lock_guard<std::mutex> lock(mutex_);
  under_way_.emplace(next_ticket_, std::move(download));
  return next_ticket_++;
}

int64_t Downloads::begin(void* to, const void* from, int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  if (bytes <= kSlotBytes) {
    // Who had the slot has read it, or its copy is ahead of this one.
    if (Lease slot = take_slot()) {
      AL_CHECK(cudaMemcpyAsync(slot->memory, from, size, cudaMemcpyDeviceToHost,
                               stream_));
      AL_CHECK(cudaEventRecord(slot->copied, stream_));
      return add({std::move(slot), {}, {}});
    }
  }
  ScopedBlock block = ScopedBlock::if_there_is_room(device_, bytes);
  if (block.memory() == nullptr) {
    // Before the stream is given anything else that could change them.
    wait_for(stream_);
    fetch(to, from, bytes);
    return 0;
  }
  Event copied = new_event();
  AL_CHECK(cudaMemcpyAsync(block.memory(), from, size, cudaMemcpyDeviceToDevice,
                           stream_));
  AL_CHECK(cudaEventRecord(copied, stream_));
  return add({{nullptr, {this}}, std::move(block), std::move(copied)});
}

void Downloads::finish(int64_t ticket, void* to, int64_t bytes) {
  // Its slot or block goes back at the end, when nothing writes or reads it.
  Download download = {{nullptr, {this}}, {}, {}};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = under_way_.find(ticket);
    if (found == under_way_.end())
      throw al_error(al_fail(AL_INVALID_ARGUMENT,
                             "no download has the ticket %lld",
                             static_cast<long long>(ticket)));
    download = std::move(found->second);
    under_way_.erase(found);
  }
  if (download.slot) {
    AL_CHECK(cudaEventSynchronize(download.slot->copied));
    memcpy(to, download.slot->memory, static_cast<size_t>(bytes));
  } else {
    AL_CHECK(cudaEventSynchronize(download.copied));
    fetch(to, download.block.memory(), bytes);
  }
}

/** Copies what no stream changes meanwhile, and waits for it. */
void Downloads::fetch(void* to, const void* from, int64_t bytes) {
  std::lock_guard<std::mutex> lock(fetching_);
  // Also where a call fails half-way: the source is freed behind this.
  struct Drained {
    cudaStream_t stream;
    ~Drained() { cudaStreamSynchronize(stream); }
  } const drained{fetches_};
  const int64_t pieces = (bytes + kPieceBytes - 1) / kPieceBytes;
  const auto size = [&](int64_t i) {
    return static_cast<size_t>(std::min(kPieceBytes, bytes - i * kPieceBytes));
  };
  // While a piece crosses, the host empties the one before it, into whose block
  // the next one then goes.
  for (int64_t i = 0; i <= pieces; ++i) {
    if (i < pieces) {
      Piece& piece = pieces_[i % 2];
      if (piece.memory == nullptr)
        piece = {new_pinned_memory(kPieceBytes), new_event()};
      AL_CHECK(cudaMemcpyAsync(piece.memory,
                               static_cast<const char*>(from) + i * kPieceBytes,
                               size(i), cudaMemcpyDeviceToHost, fetches_));
      AL_CHECK(cudaEventRecord(piece.copied, fetches_));
    }
    if (i > 0) {
      const Piece& piece = pieces_[(i - 1) % 2];
      AL_CHECK(cudaEventSynchronize(piece.copied));
      memcpy(static_cast<char*>(to) + (i - 1) * kPieceBytes, piece.memory,
             size(i - 1));
    }
  }
}

void Downloads::release() {
  std::lock_guard<std::mutex> lock(fetching_);
  for (Piece& piece : pieces_) piece = {};
}

}  // namespace atomloss
