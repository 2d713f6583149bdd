/**
 * Work over many elements, in blocks whose borders depend on the size alone, so
 * that what a block sums does not depend on the number of threads. Small work
 * stays on the calling thread: waking the others costs more than it saves.
 */
#ifndef ATOMLOSS_PARALLEL_H
#define ATOMLOSS_PARALLEL_H

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace atomloss {

/** Elements from which on a second thread pays. */
constexpr int64_t kParallelElements = 65536;

/**
 * Calls body(context, block) for every block in [0, blocks), on as many threads
 * as OMP_NUM_THREADS says or the processor has. Returns when all are done.
 */
void run_blocks(int64_t blocks, void (*body)(void* context, int64_t block),
                void* context);

/** Calls f(block, begin, end) for the blocks of `block_size` in [0, n). */
template <class F>
void for_blocks(int64_t n, int64_t block_size, int64_t elements, F&& f) {
  const int64_t blocks = (n + block_size - 1) / block_size;
  auto body = [&](int64_t block) {
    const int64_t begin = block * block_size;
    f(block, begin, std::min(begin + block_size, n));
  };
  if (elements < kParallelElements || blocks < 2) {
    for (int64_t block = 0; block < blocks; ++block) body(block);
    return;
  }
  using Body = decltype(body);
  run_blocks(
      blocks,
      [](void* context, int64_t block) {
        (*static_cast<Body*>(context))(block);
      },
      &body);
}

}  // namespace atomloss

#endif /* ATOMLOSS_PARALLEL_H */
