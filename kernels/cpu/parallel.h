/**
 * Work over many elements, in blocks whose borders depend on the size alone, so
 * that what a block sums does not depend on the number of threads. Small work
 * stays on the calling thread: waking the others costs more than it saves.
 */
#ifndef ATOMLOSS_PARALLEL_H
#define ATOMLOSS_PARALLEL_H

#include <algorithm>
#include <cstdint>

namespace atomloss {

/** Elements from which on a second thread pays. */
constexpr int64_t kParallelElements = 65536;

/** Calls f(block, begin, end) for the blocks of `block_size` in [0, n). */
template <class F>
void for_blocks(int64_t n, int64_t block_size, int64_t elements, F&& f) {
  const int64_t blocks = (n + block_size - 1) / block_size;
#pragma omp parallel for schedule(static) if (elements >= kParallelElements)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = block * block_size;
    f(block, begin, std::min(begin + block_size, n));
  }
}

}  // namespace atomloss

#endif /* ATOMLOSS_PARALLEL_H */
