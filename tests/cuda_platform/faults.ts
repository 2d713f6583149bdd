/** Faults that tests have to see: see planted_faults.ts. */

/** One line that somebody might have got wrong. */
export interface Fault {
  readonly name: string;
  /** Below kernels/. */
  readonly file: string;
  /** What is there, once, and what takes its place. */
  readonly text: string;
  readonly becomes: string;
  /** File below tests/ and part of the name of the test that has to fail. */
  readonly test: readonly [file: string, filter: string];
}

const TASKS = ["multi_task_loss_test.ts", "of many blocks"] as const;
const PASS = ["ddp_loss_test.ts", "[cuda]"] as const;
const LOSSES = ["losses_test.ts", "[cuda]"] as const;
const METRICS = ["metrics_test.ts", "plain loop"] as const;
const TWO_GPUS = ["two_devices_test.ts", "[cuda]"] as const;
const COLLECTIVES = [
  "distributed_group_test.ts",
  "all of 2 replicas [cuda]",
] as const;
const GOLDEN = ["golden_test.ts", "reference on 2 replicas [cuda]"] as const;
const TENSORS = ["tensor_test.ts", "[cuda]"] as const;
const MATMUL = ["matmul_test.ts", "[cuda]"] as const;

export const FAULTS: readonly Fault[] = [
  /* ---- kernels ---- */
  {
    name: "no barrier before the last block is known",
    file: "cuda/task.cuh",
    text: "  __syncthreads();\n  if (!is_last) return;",
    becomes: "  if (!is_last) return;",
    test: TASKS,
  },
  {
    name: "no fence behind a block's partial sum",
    file: "cuda/task.cuh",
    text: "block);\n    __threadfence();",
    becomes: "block);",
    test: TASKS,
  },
  {
    name: "no fence before the partial sums are read",
    file: "cuda/task.cuh",
    text: "  __threadfence();\n  Partial sum = {0, 0};",
    becomes: "  Partial sum = {0, 0};",
    test: TASKS,
  },
  {
    name: "no fence behind a task's value",
    file: "cuda/task.cuh",
    text:
      "value);\n  if (total.result == nullptr) return;\n\n  __threadfence();",
    becomes: "value);\n  if (total.result == nullptr) return;\n",
    test: TASKS,
  },
  {
    name: "no barrier before weight and storage are written again",
    file: "cuda/samples_kernels.cuh",
    text: "    __syncthreads();  // weight and storage may be written again",
    becomes: "",
    test: TASKS,
  },
  {
    name: "no barrier before the weight is read",
    file: "cuda/samples_kernels.cuh",
    text: "    __syncthreads();\n    const T of_rows",
    becomes: "    const T of_rows",
    test: TASKS,
  },
  {
    name: "no barrier of the warp before rows are read",
    file: "cuda/reduce_kernels.cuh",
    text: "    nonfinite += __popc(bad);\n    __syncwarp(kAllLanes);",
    becomes: "    nonfinite += __popc(bad);",
    test: PASS,
  },
  {
    name: "no barrier of the warp before slopes are read",
    file: "cuda/reduce_kernels.cuh",
    text: "    __syncwarp(kAllLanes);\n    if (in.grad) {",
    becomes: "    if (in.grad) {",
    test: PASS,
  },
  {
    name: "a row too many behind the last tile",
    file: "cuda/reduce_kernels.cuh",
    text: "  if (row < in.rows) one_row",
    becomes: "  if (row <= in.rows) one_row",
    test: PASS,
  },
  {
    name: "a row too many where a thread has a row",
    file: "cuda/reduce_kernels.cuh",
    text:
      "threadIdx.x;\n       row < in.rows; row += int64_t{share.blocks} * kThreads)",
    becomes:
      "threadIdx.x;\n       row <= in.rows; row += int64_t{share.blocks} * kThreads)",
    test: PASS,
  },
  {
    name: "an element too many of an unreduced loss",
    file: "cuda/unreduced_kernels.cuh",
    text:
      "i < n;\n       i += int64_t{gridDim.x} * kThreads) {\n    if constexpr",
    becomes:
      "i <= n;\n       i += int64_t{gridDim.x} * kThreads) {\n    if constexpr",
    test: LOSSES,
  },
  {
    name: "offsets of structures without their end",
    file: "cuda/metrics_kernels.cuh",
    text: "  if (threadIdx.x == 0) structures.offsets[structures.count] = end;",
    becomes: "  static_cast<void>(end);",
    test: METRICS,
  },
  {
    name: "one storage for two sums of a block",
    file: "cuda/metrics_kernels.cuh",
    text: "  const int any_negative = block_sum(negative);",
    becomes:
      "  const int any_negative = block_sum(negative) + 0 * block_sum(negative);",
    test: METRICS,
  },
  /* ---- what is written, and freed, when ---- */
  {
    name: "counts of masks are not set to 0",
    file: "cuda/samples.cu",
    text:
      "    AL_CHECK(cudaMemsetAsync(counts, 0,\n                             static_cast<size_t>(count) * sizeof *counts,\n                             device->compute));",
    becomes: "",
    test: TASKS,
  },
  {
    name: "counts of masks are set to 0 on another stream",
    file: "cuda/samples.cu",
    text: "sizeof *counts,\n                             device->compute));",
    becomes: "sizeof *counts,\n                             nullptr));",
    test: TASKS,
  },
  {
    name: "Metrics' launches are on another stream than its memory",
    file: "cuda/metrics.cu",
    text: "const cudaStream_t stream = device->compute;",
    becomes: "const cudaStream_t stream = nullptr;",
    test: METRICS,
  },
  /* ---- two GPUs ---- */
  {
    name: "a step of an optimizer on the thread's current GPU",
    file: "cuda/optimizers.cu",
    text:
      "  const CurrentDevice current(device->ordinal);\n  const Launch launch(device, count, parameters, kStepBlocks);",
    becomes: "  const Launch launch(device, count, parameters, kStepBlocks);",
    test: TWO_GPUS,
  },
  {
    name: "a product on the thread's current GPU",
    file: "cuda/matmul.cu",
    text: "    const atomloss::CurrentDevice current(device->ordinal);\n",
    becomes: "",
    test: TWO_GPUS,
  },
  {
    name: "Metrics on the thread's current GPU",
    file: "cuda/metrics.cu",
    text: "    const CurrentDevice current(device->ordinal);\n",
    becomes: "",
    test: TWO_GPUS,
  },
  {
    name: "samples counted on the thread's current GPU",
    file: "cuda/samples.cu",
    text: "    const CurrentDevice current(device->ordinal);\n",
    becomes: "",
    test: TWO_GPUS,
  },
  {
    name: "losses reduced on the thread's current GPU",
    file: "cuda/losses.cu",
    text:
      "    const CurrentDevice current(device->ordinal);\n    if (count == 0) {",
    becomes: "    if (count == 0) {",
    test: TWO_GPUS,
  },
  /* ---- products ---- */
  {
    name: "half-precision products may be summed in half precision",
    file: "cuda/matmul.cu",
    text: "CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION",
    becomes: "0",
    test: MATMUL,
  },
  {
    name: "products on the default stream",
    file: "cuda/matmul.cu",
    text: "    AL_CHECK(cublasSetStream(made, device->compute));\n",
    becomes: "",
    test: MATMUL,
  },
  {
    name: "a product reads what it is to overwrite",
    file: "cuda/matmul.cu",
    text: "beta = accumulate ? 1 : 0;",
    becomes: "beta = 1;",
    test: MATMUL,
  },
  /* ---- memory ---- */
  {
    name: "tickets are not set to 0",
    file: "cuda/device.cu",
    text:
      "  AL_CHECK(cudaMemsetAsync(\n      tickets, 0, (atomloss::kMaxTasks + 1) * sizeof(unsigned), compute));\n",
    becomes: "",
    test: TASKS,
  },
  {
    name: "zeros on another stream",
    file: "cuda/device.cu",
    text:
      "    AL_CHECK(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes),\n                             device->compute));",
    becomes:
      "    AL_CHECK(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes),\n                             nullptr));",
    test: TENSORS,
  },
  {
    name: "a copy on another stream",
    file: "cuda/device.cu",
    text: "cudaMemcpyDeviceToDevice, device->compute));",
    becomes: "cudaMemcpyDeviceToDevice, nullptr));",
    test: TENSORS,
  },
  {
    name: "surplus memory is freed on another stream",
    file: "cuda/device.cu",
    text: "if (cudaFreeAsync(block, device->compute) != cudaSuccess)",
    becomes: "if (cudaFreeAsync(block, nullptr) != cudaSuccess)",
    test: ["memory_test.ts", "[cuda]"],
  },
  {
    name: "a device is closed before its work is done",
    file: "cuda/device.cu",
    text:
      "    wait_for(device->compute);\n    return AL_OK;\n  });\n  delete device;",
    becomes: "    return AL_OK;\n  });\n  delete device;",
    test: TENSORS,
  },
  {
    name: "a pinned block is used again before it has been read",
    file: "cuda/uploads.cu",
    text: "    AL_CHECK(cudaEventRecord(current_.done, stream_));\n",
    becomes: "",
    test: TENSORS,
  },
  {
    name: "two uploads share the bytes of a pinned block",
    file: "cuda/uploads.cu",
    text:
      "    room_ -=\n        std::min(room_, (piece + kAlignment - 1) / kAlignment * kAlignment);\n",
    becomes: "",
    test: TENSORS,
  },
  {
    name: "a download of few bytes is not waited for",
    file: "cuda/downloads.cu",
    text: "    AL_CHECK(cudaEventSynchronize(download.slot->copied));\n",
    becomes: "",
    test: TENSORS,
  },
  {
    name: "a download is fetched before it has been copied aside",
    file: "cuda/downloads.cu",
    text: "    AL_CHECK(cudaEventSynchronize(download.copied));\n",
    becomes: "",
    test: TENSORS,
  },
  {
    name: "a piece of a download is not waited for",
    file: "cuda/downloads.cu",
    text: "      AL_CHECK(cudaEventSynchronize(piece.copied));\n",
    becomes: "",
    test: TENSORS,
  },
  {
    name: "a slot is given to two downloads",
    file: "cuda/downloads.cu",
    text: "  free_slots_.pop_back();\n",
    becomes: "",
    test: TENSORS,
  },
  /* ---- collectives ---- */
  {
    name: "a collective does not wait for what computes its input",
    file: "cuda/group.cuh",
    text: "      AL_CHECK(cudaStreamWaitEvent(stream, mine.ready, 0));\n",
    becomes: "",
    test: COLLECTIVES,
  },
  {
    name: "a collective waits for its own stream",
    file: "cuda/group.cuh",
    text: "AL_CHECK(cudaEventRecord(mine.ready, device->compute));",
    becomes: "AL_CHECK(cudaEventRecord(mine.ready, stream));",
    test: COLLECTIVES,
  },
  {
    name: "what follows a collective does not wait for it",
    file: "cuda/group.cuh",
    text:
      "    if (order == Order::kBetween)\n      AL_CHECK(cudaStreamWaitEvent(device->compute, mine.done, 0));\n",
    becomes: "",
    test: COLLECTIVES,
  },
  {
    name: "the end of a collective is recorded before it",
    file: "cuda/group.cuh",
    text:
      "    hand_over(mine, collective);\n    AL_CHECK(cudaEventRecord(mine.done, stream));",
    becomes:
      "    AL_CHECK(cudaEventRecord(mine.done, stream));\n    hand_over(mine, collective);",
    test: COLLECTIVES,
  },
  {
    name: "NCCL's state in progress is ignored",
    file: "cuda/group.cuh",
    text: "    return now == ncclSuccess;",
    becomes: "    return true;",
    test: COLLECTIVES,
  },
  {
    name: "a group of NCCL's calls is not ended",
    file: "cuda/collectives.cu",
    text: "const ncclResult_t end = ncclGroupEnd();",
    becomes: "const ncclResult_t end = ncclSuccess;",
    test: COLLECTIVES,
  },
  {
    name: "the token of barriers is not set",
    file: "cuda/group.cu",
    text: "  AL_CHECK(cudaMemsetAsync(token, 0, sizeof(int), stream));\n",
    becomes: "  static_cast<void>(stream);\n",
    test: COLLECTIVES,
  },
  {
    name: "counts are read before they are summed",
    file: "cuda/collectives.cu",
    text: "      AL_CHECK(cudaStreamWaitEvent(device->compute, arrival, 0));",
    becomes: "      static_cast<void>(arrival);",
    test: GOLDEN,
  },
  {
    name: "counts of the device are summed before they are there",
    file: "cuda/collectives.cu",
    text: "counts ? Order::kApart : Order::kBehindCompute",
    becomes: "Order::kApart",
    test: GOLDEN,
  },
  {
    name: "counts are written on another stream than they are summed on",
    file: "cuda/collectives.cu",
    text: "launch_kernel(write_counts, 1, kMaxCounts, stream,",
    becomes:
      "launch_kernel(write_counts, 1, kMaxCounts, group->device->compute,",
    test: GOLDEN,
  },
  {
    name: "counts are written over before they have been read",
    file: "cuda/count_slots.cuh",
    text: "           cudaEventQuery(slot.read) == cudaSuccess;",
    becomes: "           true;",
    test: GOLDEN,
  },
  {
    name: "counts' last reader is not noted",
    file: "cuda/collectives.cu",
    text: "    AL_CHECK(cudaEventRecord(slot.read, device->compute));\n",
    becomes: "",
    test: GOLDEN,
  },
  {
    name: "counts that are under way count as there",
    file: "cuda/group.cu",
    text: "    if (code == cudaErrorNotReady && broken.empty()) return;\n",
    becomes: "",
    test: GOLDEN,
  },
  {
    name: "a group ends by abort, whatever peers still receive",
    file: "cuda/watchdog.cu",
    text: "  ncclResult_t now = ncclCommFinalize(communicator);",
    becomes: "  ncclResult_t now = ncclInternalError;",
    test: COLLECTIVES,
  },
];
