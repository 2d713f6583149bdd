/**
 * Captures of graphs, as far as they concern others: while a stream of any
 * thread is being captured, calls that wait for or ask about the GPU make the
 * capture invalid, unless their thread has said that they do not matter. What
 * is captured is not kept: there are no graphs here.
 */
#include "capture.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "device.h"

using namespace cuda_platform;

namespace {

std::atomic<int> captures{0};
std::atomic<bool> invalid{false};

thread_local cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;

/** "Potentially unsafe", of those that are used. */
const char* const kUnsafe[] = {"cudaMalloc",      "cudaFree",
                               "cudaHostAlloc",   "cudaFreeHost",
                               "cudaEventQuery",  "cudaEventSynchronize",
                               "cudaStreamQuery", "cudaStreamSynchronize"};

}  // namespace

bool cuda_platform::breaks_capture(const char* call) {
  if (captures == 0 || mode_of_thread == cudaStreamCaptureModeRelaxed)
    return false;
  const bool unsafe =
      std::any_of(std::begin(kUnsafe), std::end(kUnsafe),
                  [call](const char* name) { return !strcmp(name, call); });
  if (unsafe) invalid = true;
  return unsafe;
}

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode mode) {
  CALL();
  // Those of other modes concern their own thread alone.
  if (mode != cudaStreamCaptureModeGlobal) return fail(cudaErrorNotSupported);
  if (captures++ == 0) invalid = false;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  CALL();
  *graph = nullptr;
  --captures;
  return invalid ? fail(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  CALL();
  std::swap(*mode, mode_of_thread);
  return cudaSuccess;
}
}
