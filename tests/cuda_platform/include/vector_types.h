/** CUDA's vectors and dimensions. */
#ifndef CUDA_PLATFORM_VECTOR_TYPES_H
#define CUDA_PLATFORM_VECTOR_TYPES_H

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
#ifdef __cplusplus
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1)
      : x(x_), y(y_), z(z_) {}
#endif
};

#define CUDA_PLATFORM_VECTORS(name, type, align2, align4) \
  struct alignas(align2) name##2 {                        \
    type x, y;                                            \
  };                                                      \
  struct name##3 {                                        \
    type x, y, z;                                         \
  };                                                      \
  struct alignas(align4) name##4 {                        \
    type x, y, z, w;                                      \
  };

#ifdef __cplusplus
CUDA_PLATFORM_VECTORS(int, int, 8, 16)
CUDA_PLATFORM_VECTORS(float, float, 8, 16)
CUDA_PLATFORM_VECTORS(double, double, 16, 16)
CUDA_PLATFORM_VECTORS(longlong, long long, 16, 16)
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
#endif
#undef CUDA_PLATFORM_VECTORS

#endif /* CUDA_PLATFORM_VECTOR_TYPES_H */
