/**
 * Memory traffic at the speed of the memory. Two things the compiler does not
 * do by itself: an output much larger than the caches is written past them
 * (otherwise every line of it is first read, a third more traffic for the fused
 * pass), and inputs are asked for a little ahead, since the processor's own
 * prefetcher stops at every 4 KiB page.
 */
#ifndef ATOMLOSS_STREAM_H
#define ATOMLOSS_STREAM_H

#include <cstdint>
#include <cstring>
#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace atomloss {

/** Outputs of at least so many bytes are streamed past the caches. */
constexpr int64_t kStreamBytes = 4 << 20;

/** How far ahead inputs are fetched: measured, flat from 1 to 4 KiB. */
constexpr int64_t kPrefetchBytes = 2048;

/** Asks for the `bytes` that lie kPrefetchBytes behind `from`. */
inline void prefetch_ahead(const void* from, int64_t bytes) {
  const char* ahead = static_cast<const char*>(from) + kPrefetchBytes;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(ahead + i);
}

/** memcpy that leaves the destination out of the caches. */
inline void stream_out(void* to, const void* from, int64_t bytes) {
  int64_t done = 0;
#ifdef __SSE2__
#if defined(__AVX512F__)
  using Vector = __m512i;
#elif defined(__AVX__)
  using Vector = __m256i;
#else
  using Vector = __m128i;
#endif
  constexpr int64_t kWidth = sizeof(Vector);
  if (reinterpret_cast<uintptr_t>(to) % kWidth == 0) {
    for (; done + kWidth <= bytes; done += kWidth) {
      Vector v;
      memcpy(&v, static_cast<const char*>(from) + done, kWidth);
      Vector* out = reinterpret_cast<Vector*>(static_cast<char*>(to) + done);
#if defined(__AVX512F__)
      _mm512_stream_si512(out, v);
#elif defined(__AVX__)
      _mm256_stream_si256(out, v);
#else
      _mm_stream_si128(out, v);
#endif
    }
  }
#endif
  memcpy(static_cast<char*>(to) + done, static_cast<const char*>(from) + done,
         bytes - done);
}

/** To be called by a thread after its last stream_out(). */
inline void stream_fence() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace atomloss

#endif /* ATOMLOSS_STREAM_H */
