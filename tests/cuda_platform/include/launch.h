/**
 * The three ways to launch a kernel. nvcc.ts writes `<<<>>>` as a call of
 * Launcher, and defines CUDA_PLATFORM_TARGETS: which GPUs it makes code for.
 */
#ifndef CUDA_PLATFORM_LAUNCH_H
#define CUDA_PLATFORM_LAUNCH_H

#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "device_runtime.h"

namespace cuda_platform {

/** What is called, and with what: converted to the parameters by each thread.
 */
template <class Call, class Values>
struct Bound {
  Call call;
  Values values;

  static void run(const void* arguments) {
    const Bound& self = *static_cast<const Bound*>(arguments);
    std::apply(self.call, self.values);
  }
};

template <class Call, class Values>
Kernel make_kernel(const char* name, const void* function, const char* targets,
                   Call call, Values values) {
  using Own = Bound<Call, Values>;
  return {name,
          function,
          targets,
          Own::run,
          std::make_shared<Own>(Own{call, std::move(values)}),
          sizeof(Own)};
}

/** name<<<grid, block, shared, stream>>>(arguments…), as nvcc.ts writes it. */
struct Launcher {
  dim3 grid, block;
  size_t shared = 0;
  cudaStream_t stream = nullptr;

  template <class Call, class... Arguments>
  void operator()(const char* name, const char* targets, Call call,
                  const Arguments&... arguments) const {
    launch({grid, block, shared, stream, nullptr, 0},
           make_kernel(name, nullptr, targets, call,
                       std::tuple<std::decay_t<Arguments>...>(arguments...)));
  }
};

}  // namespace cuda_platform

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config,
                               void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  using Values = std::tuple<std::decay_t<Parameters>...>;
  return cuda_platform::launch(
      *config,
      cuda_platform::make_kernel(
          nullptr, reinterpret_cast<const void*>(kernel), CUDA_PLATFORM_TARGETS,
          kernel, Values(std::forward<Arguments>(arguments)...)));
}

namespace cuda_platform {
template <class Values, size_t... kIndex>
Values read_values(void** arguments, std::index_sequence<kIndex...>) {
  return Values(*static_cast<std::tuple_element_t<kIndex, Values>*>(
      arguments[kIndex])...);
}
}  // namespace cuda_platform

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid,
                             dim3 block, void** arguments, size_t shared = 0,
                             cudaStream_t stream = nullptr) {
  using Values = std::tuple<std::decay_t<Parameters>...>;
  return cuda_platform::launch(
      {grid, block, shared, stream, nullptr, 0},
      cuda_platform::make_kernel(
          nullptr, reinterpret_cast<const void*>(kernel), CUDA_PLATFORM_TARGETS,
          kernel,
          cuda_platform::read_values<Values>(
              arguments, std::index_sequence_for<Parameters...>())));
}

template <class... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes,
                                  void (*)(Parameters...)) {
  *attributes = {};
  return cuda_platform::look_for_code(CUDA_PLATFORM_TARGETS);
}

#endif /* CUDA_PLATFORM_LAUNCH_H */
