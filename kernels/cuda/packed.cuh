/**
 * 16 bytes of elements as one load or store, whatever their type, with the hint
 * that they are not read again: a loss streams through memory once.
 */
#ifndef ATOMLOSS_CUDA_PACKED_CUH
#define ATOMLOSS_CUDA_PACKED_CUH

#include <cstdint>

namespace atomloss {

constexpr int kPackBytes = 16;

template <class S>
struct alignas(kPackBytes) Pack {
  static constexpr int kSize = kPackBytes / sizeof(S);
  S values[kSize];
};

/** Pack `index` of the array. The array is aligned to 16 bytes. */
template <class S>
__device__ __forceinline__ Pack<S> load_pack(const S* array, int64_t index) {
  union {
    int4 bits;
    Pack<S> pack;
  } both = {__ldcs(reinterpret_cast<const int4*>(array) + index)};
  return both.pack;
}

template <class S>
__device__ __forceinline__ void store_pack(S* array, int64_t index,
                                           const Pack<S>& pack) {
  union {
    Pack<S> pack;
    int4 bits;
  } both = {pack};
  __stcs(reinterpret_cast<int4*>(array) + index, both.bits);
}

/** Whether every one of these arrays (NULL is fine) can be read in packs. */
inline bool packable(const void* a, const void* b, const void* c) {
  return (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) |
          reinterpret_cast<uintptr_t>(c)) %
             kPackBytes ==
         0;
}

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_PACKED_CUH */
