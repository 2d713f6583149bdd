/**
 * As much of CUDA as the kernels of the fused pass use, on the host: the
 * threads of a block are coroutines that take turns at every barrier, in an
 * order that is different each time. It shows wrong indices, missing barriers
 * that some order exposes, misaligned packs, and what the last block does; not
 * what a GPU's memory model or its speed would show.
 */
#ifndef CUDA_EMULATION_H
#define CUDA_EMULATION_H

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static /* blocks run one after the other */

struct Index {
  unsigned x, y;
};
inline Index threadIdx, blockIdx, gridDim;

struct alignas(16) int4 {
  int x, y, z, w;
};

namespace emulation {

inline std::mt19937 random(1);

/** Counts who has arrived, and which round this is. */
struct Barrier {
  int size = 0, arrived = 0, round = 0;
};

inline ucontext_t scheduler;
inline std::vector<ucontext_t> threads;
inline std::vector<bool> done;
inline std::function<void()> kernel;
inline Barrier block;
inline std::vector<Barrier> warps;

inline void yield() {
  const unsigned me = threadIdx.x;
  swapcontext(&threads[me], &scheduler);
}

inline void arrive(Barrier& barrier) {
  const int round = barrier.round;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.round;
  }
  while (barrier.round == round) yield();
}

inline void run_thread() {
  kernel();
  done[threadIdx.x] = true;
  yield();
}

/** The threads of one block, until all are done. */
inline void run_block(unsigned size) {
  static std::vector<std::vector<char>> stacks;
  constexpr size_t kStack = 64 << 10;
  stacks.resize(size, std::vector<char>(kStack));
  threads.resize(size);
  done.assign(size, false);
  block = {static_cast<int>(size)};
  warps.assign(size / 32, {32});
  for (unsigned i = 0; i < size; ++i) {
    getcontext(&threads[i]);
    threads[i].uc_stack.ss_sp = stacks[i].data();
    threads[i].uc_stack.ss_size = kStack;
    makecontext(&threads[i], run_thread, 0);
  }
  std::vector<unsigned> order(size);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), random);
  for (unsigned left = size; left > 0;) {
    for (const unsigned i : order) {
      if (done[i]) continue;
      threadIdx.x = i;
      swapcontext(&scheduler, &threads[i]);
      if (done[i]) --left;
    }
  }
}

/** kernel<<<dim3(grid, rows), size>>>, the blocks in any order. */
template <class F>
void launch(unsigned grid, unsigned size, F&& call, unsigned rows = 1) {
  kernel = call;
  gridDim = {grid, rows};
  std::vector<unsigned> order(static_cast<size_t>(grid) * rows);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), random);
  for (const unsigned i : order) {
    blockIdx = {i % grid, i / grid};
    run_block(size);
  }
}

template <class T>
T* aligned(T* address) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(T) == 0) return address;
  fprintf(stderr, "misaligned access\n");
  abort();
}

}  // namespace emulation

inline void __syncthreads() { emulation::arrive(emulation::block); }
inline void __syncwarp(unsigned) {
  emulation::arrive(emulation::warps[threadIdx.x / 32]);
}
inline void __threadfence() {}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

/** The value that a lane of the same warp has. */
template <class T>
T from_lane(unsigned lanes, T value, unsigned lane) {
  static T values[1024];
  values[threadIdx.x] = value;
  __syncwarp(lanes);
  const T other = values[threadIdx.x / 32 * 32 + lane];
  __syncwarp(lanes);
  return other;
}

template <class T>
T __shfl_xor_sync(unsigned lanes, T value, int mask) {
  return from_lane(lanes, value,
                   (threadIdx.x % 32) ^ static_cast<unsigned>(mask));
}

template <class T>
T __shfl_up_sync(unsigned lanes, T value, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return from_lane(lanes, value, lane < delta ? lane : lane - delta);
}

inline unsigned atomicInc(unsigned* address, unsigned limit) {
  const unsigned old = *address;
  *address = old >= limit ? 0 : old + 1;
  return old;
}

inline unsigned atomicOr(unsigned* address, unsigned bits) {
  const unsigned old = *address;
  *address = old | bits;
  return old;
}

template <class T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}

template <class T>
T __ldcs(const T* address) {
  return *emulation::aligned(address);
}
template <class T>
void __stcs(T* address, T value) {
  *emulation::aligned(address) = value;
}
template <class T>
T __ldcg(const T* address) {
  return *emulation::aligned(address);
}
template <class T, class U>
void __stcg(T* address, U value) {
  *emulation::aligned(address) = value;
}

#endif /* CUDA_EMULATION_H */
