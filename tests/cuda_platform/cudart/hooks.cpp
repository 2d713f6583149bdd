/**
 * What g++ -fsanitize=thread calls at every access of the code that nvcc.ts
 * compiles, in place of ThreadSanitizer: kernels, and the host's use of pinned
 * memory. Nearly all accesses are to other memory and must cost nothing.
 */
#include <atomic>
#include <cstring>

#include "kernel.h"
#include "memory.h"
#include "report.h"
#include "work.h"

namespace cuda_platform {
namespace {

void access_by_host(const void* memory, size_t bytes, Kind kind,
                    const void* pc) {
  const Access now = access_of_thread(kind);
  if (range_of(memory) != kPinned)
    report_at("the host follows an address of a GPU",
              static_cast<const char*>(memory), now, pc);
  else
    touch(memory, bytes, now, pc, nullptr);
}

inline void access(const void* memory, size_t bytes, Kind kind,
                   size_t alignment, const void* pc) {
  if (running_block != nullptr)
    access_in_kernel(memory, bytes, kind, alignment, pc);
  else if (is_ours(memory))
    access_by_host(memory, bytes, kind, pc);
}

}  // namespace
}  // namespace cuda_platform

using namespace cuda_platform;

#define PC __builtin_return_address(0)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define ACCESS(prefix, bytes, alignment)        \
  void __tsan_##prefix##read##bytes(void* p) {  \
    access(p, bytes, kRead, alignment, PC);     \
  }                                             \
  void __tsan_##prefix##write##bytes(void* p) { \
    access(p, bytes, kWrite, alignment, PC);    \
  }
#define ACCESSES(bytes)           \
  ACCESS(, bytes, bytes)          \
  ACCESS(volatile_, bytes, bytes) \
  ACCESS(unaligned_, bytes, 1)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void* p, size_t n) { access(p, n, kRead, 1, PC); }
void __tsan_write_range(void* p, size_t n) { access(p, n, kWrite, 1, PC); }

/* Atomics of the host: as they are. */
#define ATOMIC(bits, type)                                                  \
  type __tsan_atomic##bits##_load(const volatile type* p, int) {            \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                            \
  }                                                                         \
  void __tsan_atomic##bits##_store(volatile type* p, type value, int) {     \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                           \
  }                                                                         \
  type __tsan_atomic##bits##_exchange(volatile type* p, type value, int) {  \
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                 \
  }                                                                         \
  type __tsan_atomic##bits##_fetch_add(volatile type* p, type value, int) { \
    return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);                  \
  }                                                                         \
  type __tsan_atomic##bits##_fetch_sub(volatile type* p, type value, int) { \
    return __atomic_fetch_sub(p, value, __ATOMIC_SEQ_CST);                  \
  }                                                                         \
  type __tsan_atomic##bits##_fetch_and(volatile type* p, type value, int) { \
    return __atomic_fetch_and(p, value, __ATOMIC_SEQ_CST);                  \
  }                                                                         \
  type __tsan_atomic##bits##_fetch_or(volatile type* p, type value, int) {  \
    return __atomic_fetch_or(p, value, __ATOMIC_SEQ_CST);                   \
  }                                                                         \
  type __tsan_atomic##bits##_fetch_xor(volatile type* p, type value, int) { \
    return __atomic_fetch_xor(p, value, __ATOMIC_SEQ_CST);                  \
  }                                                                         \
  int __tsan_atomic##bits##_compare_exchange_strong(                        \
      volatile type* p, type* expected, type value, int, int) {             \
    return __atomic_compare_exchange_n(p, expected, value, false,           \
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                         \
  int __tsan_atomic##bits##_compare_exchange_weak(                          \
      volatile type* p, type* expected, type value, int, int) {             \
    return __atomic_compare_exchange_n(p, expected, value, true,            \
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)
void __tsan_atomic_thread_fence(int) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}
void __tsan_atomic_signal_fence(int) {}

/* nvcc.ts links with --wrap for these, which the compiler does not see into. */
void* __wrap_memcpy(void* to, const void* from, size_t bytes) {
  if (bytes > 0) access(from, bytes, kRead, 1, PC);
  if (bytes > 0) access(to, bytes, kWrite, 1, PC);
  return memcpy(to, from, bytes);
}
void* __wrap_memmove(void* to, const void* from, size_t bytes) {
  if (bytes > 0) access(from, bytes, kRead, 1, PC);
  if (bytes > 0) access(to, bytes, kWrite, 1, PC);
  return memmove(to, from, bytes);
}
void* __wrap_memset(void* to, int value, size_t bytes) {
  if (bytes > 0) access(to, bytes, kWrite, 1, PC);
  return memset(to, value, bytes);
}
}
