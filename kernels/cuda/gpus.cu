/**
 * Which GPUs there are, and whether this library can use them.
 */
#include <string>

#include "device.cuh"

namespace {

/** Stands for all kernels, which are compiled for the same GPUs. */
__global__ void any_kernel() {}

std::string version(int major, int minor) {
  return std::to_string(major) + "." + std::to_string(minor);
}

/** As CUDA writes versions: 13020 is 13.2. */
std::string version(int number) {
  return version(number / 1000, number % 1000 / 10);
}

/** The compute capabilities that this library has code for: "8.0, 9.0". */
std::string compiled_for() {
  std::string list;
  for (const int number : {__CUDA_ARCH_LIST__})
    list +=
        (list.empty() ? "" : ", ") + version(number / 100, number / 10 % 10);
  return list;
}

/** The version of CUDA that the driver runs; 0 if there is no driver. */
int driver_version() {
  int driver = 0;
  AL_CHECK(cudaDriverGetVersion(&driver));
  return driver;
}

int count_gpus() {
  int gpus = 0, runtime = 0;
  const cudaError_t code = cudaGetDeviceCount(&gpus);
  if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver) {
    cudaGetLastError();  // forget it
    const int driver = driver_version();
    if (code == cudaErrorNoDevice || driver == 0) return 0;
    AL_CHECK(cudaRuntimeGetVersion(&runtime));
    throw al_error(al_fail(
        AL_NO_DEVICE,
        "the NVIDIA driver is too old: it runs CUDA up to %s, and this library "
        "was built with CUDA %s: update the driver, or name the folder of an "
        "older toolkit in CUDA_HOME",
        version(driver).c_str(), version(runtime).c_str()));
  }
  atomloss::check(code, "cudaGetDeviceCount");
  return gpus;
}

}  // namespace

void atomloss::require_gpu(int32_t ordinal) {
  const int gpus = count_gpus();
  if (gpus == 0)
    throw al_error(al_fail(AL_NO_DEVICE, "there is no GPU to use: %s",
                           driver_version() == 0 ? "there is no NVIDIA driver"
                                                 : "the driver finds none"));
  if (ordinal < 0 || ordinal >= gpus)
    throw al_error(al_fail(
        AL_NO_DEVICE,
        "there is no cuda:%d: this machine has %d GPU%s, cuda:0 to cuda:%d",
        ordinal, gpus, gpus == 1 ? "" : "s", gpus - 1));
  const atomloss::CurrentDevice current(ordinal);
  cudaFuncAttributes attributes;
  const cudaError_t code = cudaFuncGetAttributes(&attributes, any_kernel);
  if (code == cudaErrorNoKernelImageForDevice ||
      code == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();  // forget it
    int major = 0, minor = 0;
    AL_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                    ordinal));
    AL_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor,
                                    ordinal));
    throw al_error(al_fail(
        AL_NO_DEVICE,
        "cuda:%d has compute capability %s, and this library has code for %s: "
        "build it where this GPU is, by a CUDA toolkit that still has code for "
        "it (12.9 is the last for 5.0 to 7.2), named in CUDA_HOME",
        ordinal, version(major, minor).c_str(), compiled_for().c_str()));
  }
  atomloss::check(code, "cudaFuncGetAttributes");
}

al_status al_device_count(int32_t* count) {
  return al_guard([&]() -> al_status {
    *count = count_gpus();
    return AL_OK;
  });
}
