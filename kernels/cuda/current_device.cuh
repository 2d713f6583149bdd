/**
 * The GPU that calls of CUDA on this thread are about. Deno calls from several
 * threads, and other libraries in the process have their own idea of it.
 */
#ifndef ATOMLOSS_CUDA_CURRENT_DEVICE_CUH
#define ATOMLOSS_CUDA_CURRENT_DEVICE_CUH

#include <dlfcn.h>

#include "check.cuh"

namespace atomloss {

/** Makes a GPU the thread's until the end of the scope. */
class CurrentDevice {
 public:
  explicit CurrentDevice(int ordinal) : ordinal_(ordinal) {
    AL_CHECK(cudaGetDevice(&before_));
    if (before_ != ordinal) AL_CHECK(cudaSetDevice(ordinal));
  }
  ~CurrentDevice() {
    if (before_ != ordinal_ && is_in_use(before_)) cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  /**
   * Whether anybody in this process works on a GPU. A thread that never chose
   * one has 0, and to choose it would make a context there: hundreds of
   * megabytes on GPU 0, of every replica of the machine.
   */
  static bool is_in_use(int ordinal) {
    using GetState = int (*)(int device, unsigned* flags, int* active);
    static const auto get_state = reinterpret_cast<GetState>(
        dlsym(dlopen("libcuda.so.1", RTLD_LAZY), "cuDevicePrimaryCtxGetState"));
    if (get_state == nullptr) return true;
    unsigned flags = 0;
    int active = 0;
    return get_state(ordinal, &flags, &active) == 0 && active != 0;
  }

  const int ordinal_;
  int before_ = 0;
};

}  // namespace atomloss

#endif /* ATOMLOSS_CUDA_CURRENT_DEVICE_CUH */
