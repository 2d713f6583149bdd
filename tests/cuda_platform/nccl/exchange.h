/**
 * How the ranks of a communicator meet and pass bytes: a file in /dev/shm that
 * all of them map, processes of this host and threads of one process alike.
 */
#ifndef CUDA_PLATFORM_NCCL_EXCHANGE_H
#define CUDA_PLATFORM_NCCL_EXCHANGE_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace cuda_platform {

class Exchange {
 public:
  /** Bytes that a rank can pass in one step. */
  static constexpr size_t kChunkBytes = size_t{64} << 10;
  static constexpr int kMaxRanks = 16;

  /** Maps the file; the first of the ranks makes it. Throws std::string. */
  Exchange(const std::string& name, int rank, int ranks);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  /** What may end a wait: asked every few milliseconds. */
  using Stop = std::function<bool()>;

  /**
   * Waits until all ranks are here, each having said which GPU it has. Returns
   * false if stopped.
   */
  bool join(const std::string& gpu, const Stop& stop);
  /** Ranks with the same GPU, as "0 and 1"; empty if there are none. */
  std::string same_gpu() const;

  /** Waits until all ranks have connected what this bit stands for. */
  bool connect(unsigned bit, const Stop& stop);
  /** What join() is, of connections: none is made later. */
  static constexpr unsigned kEverything = ~0u;

  /**
   * Passes bytes to all ranks and takes theirs. All have to make the same call
   * with the same hash: a rank waits for the others until it is stopped. `take`
   * is given the bytes of each rank, one area behind the other.
   */
  bool step(uint64_t hash, const void* mine, size_t bytes,
            const std::function<void(const char* areas)>& take,
            const Stop& stop);

  /** Says that this rank makes no call any more. */
  void leave();
  /** Waits until no rank makes calls, whether it has left or has died. */
  bool all_have_left(const Stop& stop);

  /** Whether the process of a rank that has not left has died. */
  bool a_rank_died() const;

 private:
  struct Shared;

  bool wait(const std::function<bool()>& ready, const Stop& stop);
  void changed();
  char* area(int rank) const;

  std::string path_;
  int rank_, ranks_;
  size_t bytes_;
  Shared* shared_;
  uint64_t steps_ = 0;
};

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_NCCL_EXCHANGE_H */
