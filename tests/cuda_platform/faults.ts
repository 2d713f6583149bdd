/** Faults that tests have to see: see planted_faults.ts. */

/** One place that somebody might have got wrong. */
export interface Fault {
  readonly name: string;
  /** Below the package. */
  readonly file: string;
  /** What is there, once, and what takes its place. */
  readonly text: string;
  readonly becomes: string;
  /** Of a header: the source that its test runs; default: all that include it. */
  readonly source?: string;
  /** File below tests/ and part of the name of the test that has to fail. */
  readonly test: readonly [file: string, filter: string];
}

const BLOCKS = ["many_blocks_test.ts", "are their formulas"] as const;
const WRONG = ["many_blocks_test.ts", "nothing is written elsewhere"] as const;
const RAGGED = ["ddp_loss_test.ts", "ragged ends and empty inputs"] as const;
const LARGE = ["losses_test.ts", "every element of large inputs"] as const;
const METRICS = ["metrics_test.ts", "over batches of any kind"] as const;
const MASKED_METRICS = ["metrics_test.ts", "same bits run after run"] as const;
const CLIP = ["clip_grad_norm_test.ts", "norm of all gradients"] as const;
const MANY = ["optimizers_test.ts", "hundreds of parameters"] as const;
const TWO_GPUS = ["two_devices_test.ts", "[cuda]"] as const;
const MATMUL = ["matmul_test.ts", "[cuda]"] as const;
const READS = ["cuda_memory_test.ts", "is the value at the call"] as const;
const COLLECTIVES = [
  "distributed_group_test.ts",
  "all of 2 replicas [cuda]",
] as const;
const GOLDEN = ["golden_test.ts", "reference on 2 replicas [cuda]"] as const;
const FAILURES = "cuda_failures_test.ts";
const MEMORY = "cuda_memory_test.ts";
const GROUP = "cuda_group_faults_test.ts";
const OPEN = "device_open_test.ts";

const TASKS = "cuda/reduce_tasks.cu";
const FLOAT32 = "cuda/losses_float32.cu";
const FLOAT64 = "cuda/losses_float64.cu";
const SAMPLES = "cuda/samples.cu";

export const FAULTS: readonly Fault[] = [
  /* ---- how a sum ends ---- */
  {
    name: "no barrier before the last block is known",
    file: "kernels/cuda/task.cuh",
    text: "    __syncthreads();\n    if (!is_last) return;",
    becomes: "    if (!is_last) return;",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "no fence behind a block's partial sum",
    file: "kernels/cuda/task.cuh",
    text: "share.block()], sum);\n      __threadfence();",
    becomes: "share.block()], sum);",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "no fence before the partial sums are read",
    file: "kernels/cuda/task.cuh",
    text: "    __threadfence();\n    double others = 0;",
    becomes: "    double others = 0;",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "no fence behind a task's value",
    file: "kernels/cuda/task.cuh",
    text: "if (total.result == nullptr) return;\n  __threadfence();",
    becomes: "if (total.result == nullptr) return;",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "no fence before the values of all tasks are read",
    file: "kernels/cuda/task.cuh",
    text: "!= last) return;\n  __threadfence();\n  al_loss_result all",
    becomes: "!= last) return;\n  al_loss_result all",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "tasks leave their partial sums in the same place",
    file: "kernels/cuda/task.cuh",
    text: "scratch.partials + share.first_block;",
    becomes: "scratch.partials;",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "tasks share a ticket",
    file: "kernels/cuda/task.cuh",
    text: "atomicInc(&scratch.tickets[share.task], last)",
    becomes: "atomicInc(&scratch.tickets[0], last)",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "what was told of a task is told again by the next launch",
    file: "kernels/cuda/task.cuh",
    text: "atomicExch(said, 0ull)",
    becomes: "atomicAdd(said, 0ull)",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "a mean of groups is multiplied by the factor of the first",
    file: "kernels/cuda/task.cuh",
    text: "return task.factors && !task.groups ?",
    becomes: "return task.factors ?",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "a launch that fails leaves its tickets behind",
    file: "kernels/cuda/losses.cu",
    text: "{is_last ? total : nullptr, count, table.count});",
    becomes: "{total, count, is_last ? count - first : table.count + 1});",
    test: [FAILURES, "leaves later totals right"],
  },
  {
    name: "the total comes with the first of several launches",
    file: "kernels/cuda/losses.cu",
    text: "{is_last ? total : nullptr, count, table.count});",
    becomes: "{first == 0 ? total : nullptr, count, table.count});",
    test: [FAILURES, "leaves later totals right"],
  },
  /* ---- samples, groups, structures ---- */
  {
    name: "no barrier before weight and storage are written again",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "    __syncthreads();  // weight and storage may be written again",
    becomes: "",
    source: FLOAT64,
    test: BLOCKS,
  },
  {
    name: "no barrier before the weight is read",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "    __syncthreads();\n    const T of_rows",
    becomes: "    const T of_rows",
    source: FLOAT64,
    test: BLOCKS,
  },
  {
    name: "no barrier behind the zeros of a block's groups",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "      of_block[g] = 0;\n    __syncthreads();",
    becomes: "      of_block[g] = 0;",
    source: SAMPLES,
    test: BLOCKS,
  },
  {
    name: "no barrier before a block's groups are added",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "  if (!few) return;\n  __syncthreads();",
    becomes: "  if (!few) return;",
    source: SAMPLES,
    test: BLOCKS,
  },
  {
    name: "groups of many are counted where there is room for few",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "task.group_count <= kBlockGroups;",
    becomes: "task.group_count > 0;",
    source: SAMPLES,
    test: BLOCKS,
  },
  {
    name: "no barrier before the last block of a count is known",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "  __syncthreads();\n  if (!is_last) return;",
    becomes: "  if (!is_last) return;",
    source: SAMPLES,
    test: BLOCKS,
  },
  {
    name: "no fence behind a block's count",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "slots[blockIdx.x], block);\n    __threadfence();",
    becomes: "slots[blockIdx.x], block);",
    source: SAMPLES,
    test: BLOCKS,
  },
  {
    name: "no fence before the counts of blocks are read",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "if (!is_last) return;\n  __threadfence();",
    becomes: "if (!is_last) return;",
    source: SAMPLES,
    test: BLOCKS,
  },
  {
    name: "missing labels are counted",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "sum += entries.element_counts(row, i - row * task.cols) ? 1 : 0;",
    becomes: "sum += entries.on(row, i - row * task.cols) ? 1 : 0;",
    source: SAMPLES,
    test: BLOCKS,
  },
  {
    name: "a structure's number goes to a row too many",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "row < of.offsets[i + 1];",
    becomes: "row <= of.offsets[i + 1];",
    source: SAMPLES,
    test: BLOCKS,
  },
  {
    name: "numbers are spread by natoms that do not fit",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "if (of.offsets == nullptr || is_wrong(of.task)) return;",
    becomes: "if (of.offsets == nullptr) return;",
    source: SAMPLES,
    test: WRONG,
  },
  {
    name: "a group that is not there is counted",
    file: "kernels/cuda/samples_kernels.cuh",
    text: "if (group < 0 || group >= task.group_count) {",
    becomes: "if (group < 0) {",
    source: SAMPLES,
    test: WRONG,
  },
  {
    name: "a task of which nothing counts has no gradient",
    file: "kernels/cuda/reduce_kernels.cuh",
    text: "if (is_wrong(task)) return nothing(in, share);",
    becomes: "if (is_wrong(task)) return 0;",
    source: FLOAT64,
    test: WRONG,
  },
  {
    name: "counts are not set to 0",
    file: "kernels/cuda/samples.cu",
    text:
      "    AL_CHECK(cudaMemsetAsync(counts, 0,\n                             static_cast<size_t>(groups) * sizeof *counts,\n                             device->compute));",
    becomes: "",
    test: BLOCKS,
  },
  {
    name: "counts are set to 0 on another stream",
    file: "kernels/cuda/samples.cu",
    text: "sizeof *counts,\n                             device->compute));",
    becomes: "sizeof *counts,\n                             nullptr));",
    test: BLOCKS,
  },
  {
    name: "offsets of structures are written on another stream",
    file: "kernels/cuda/samples.cu",
    text:
      "kThreads, device->compute, table);\n        });\n    for_tables(list, spreads",
    becomes:
      "kThreads, nullptr, table);\n        });\n    for_tables(list, spreads",
    test: BLOCKS,
  },
  {
    name: "offsets of two tasks overlap",
    file: "kernels/cuda/samples.cu",
    text: "next += of.task.structures + 1;",
    becomes: "next += of.task.structures;",
    test: BLOCKS,
  },
  /* ---- entries and rows ---- */
  {
    name: "a weight that is no number counts",
    file: "kernels/shared/entries.h",
    text: "return ok ? x : T(0);",
    becomes: "return x;",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "a gradient is not multiplied by the scale",
    file: "kernels/shared/one_entry.h",
    text: "Loss::grad(p, t, atoms, c) * scale : T(0));",
    becomes: "Loss::grad(p, t, atoms, c) : T(0));",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "a row that does not count has no gradient",
    file: "kernels/shared/one_entry.h",
    text:
      "for (int64_t j = 0; j < cols; ++j) grad[first + j] = store<S>(T(0));",
    becomes: "static_cast<void>(grad);",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "a loss of weighted elements has no parameters",
    file: "kernels/cuda/reduce_kernels.cuh",
    text:
      "  const Parameters<T> c(in.task.parameters);\n  const T factor = static_cast<T>(factor_of(in.task));\n  const int64_t n = in.elements();",
    becomes:
      "  const double none[AL_MAX_PARAMETERS] = {};\n  const Parameters<T> c(none);\n  const T factor = static_cast<T>(factor_of(in.task));\n  const int64_t n = in.elements();",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "no barrier of the warp before rows are read",
    file: "kernels/cuda/reduce_kernels.cuh",
    text: "    told.inputs += __popc(bad);\n    __syncwarp(kAllLanes);",
    becomes: "    told.inputs += __popc(bad);",
    source: FLOAT64,
    test: RAGGED,
  },
  {
    name: "no barrier of the warp before slopes are read",
    file: "kernels/cuda/reduce_kernels.cuh",
    text: "    __syncwarp(kAllLanes);\n    if (in.grad) {",
    becomes: "    if (in.grad) {",
    source: FLOAT64,
    test: RAGGED,
  },
  {
    name: "a row too many behind the last tile",
    file: "kernels/cuda/reduce_kernels.cuh",
    text: "  if (row < in.rows)\n    one_row",
    becomes: "  if (row <= in.rows)\n    one_row",
    source: FLOAT64,
    test: RAGGED,
  },
  {
    name: "a row too many where a thread has a row",
    file: "kernels/cuda/reduce_kernels.cuh",
    text:
      "threadIdx.x;\n       row < in.rows; row += int64_t{share.blocks} * kThreads)",
    becomes:
      "threadIdx.x;\n       row <= in.rows; row += int64_t{share.blocks} * kThreads)",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "half of a warp's sum of a row",
    file: "kernels/cuda/reduce_kernels.cuh",
    text: "offset > 0; offset /= 2)",
    becomes: "offset > 1; offset /= 2)",
    source: TASKS,
    test: BLOCKS,
  },
  {
    name: "a pack too many",
    file: "kernels/cuda/reduce_kernels.cuh",
    text: "if (i >= packs) break;",
    becomes: "if (i > packs) break;",
    source: FLOAT64,
    test: RAGGED,
  },
  {
    name: "an element too many of an unreduced loss",
    file: "kernels/cuda/unreduced_kernels.cuh",
    text:
      "i < n;\n       i += int64_t{gridDim.x} * kThreads) {\n    if constexpr",
    becomes:
      "i <= n;\n       i += int64_t{gridDim.x} * kThreads) {\n    if constexpr",
    source: FLOAT32,
    test: LARGE,
  },
  /* ---- metrics ---- */
  {
    name: "offsets of structures without their end",
    file: "kernels/cuda/metrics_kernels.cuh",
    text: "  if (threadIdx.x == 0) structures.offsets[structures.count] = end;",
    becomes: "  static_cast<void>(end);",
    test: METRICS,
  },
  {
    name: "one storage for two sums of a block",
    file: "kernels/cuda/metrics_kernels.cuh",
    text: "  const int any_negative = block_sum(negative);",
    becomes:
      "  const int any_negative = block_sum(negative) + 0 * block_sum(negative);",
    test: METRICS,
  },
  {
    name: "marks of structures are set by a store",
    file: "kernels/cuda/metrics_kernels.cuh",
    text: "atomicOr(&structures.marks[structure], marks);",
    becomes: "structures.marks[structure] |= marks;",
    test: MASKED_METRICS,
  },
  {
    name: "an atom too many",
    file: "kernels/cuda/metrics_kernels.cuh",
    text: "bool counts = atom < atoms.rows &&",
    becomes: "bool counts = atom <= atoms.rows &&",
    test: METRICS,
  },
  {
    name: "Metrics' launches are on another stream than its memory",
    file: "kernels/cuda/metrics.cu",
    text: "const cudaStream_t stream = device->compute;",
    becomes: "const cudaStream_t stream = nullptr;",
    test: METRICS,
  },
  /* ---- optimizers ---- */
  {
    name: "a clipped step is made although the norm forbids it",
    file: "kernels/cuda/optimizers.cu",
    text: "  if (clip.skips()) return;",
    becomes: "",
    test: ["clip_grad_norm_test.ts", "nothing is changed [cuda]"],
  },
  {
    name: "no barrier before the last block of a norm is known",
    file: "kernels/cuda/optimizers.cu",
    text: "  __syncthreads();\n  if (!is_last) return;",
    becomes: "  if (!is_last) return;",
    test: CLIP,
  },
  {
    name: "no fence behind a block's part of a norm",
    file: "kernels/cuda/optimizers.cu",
    text: "blockIdx.x], block);\n    __threadfence();",
    becomes: "blockIdx.x], block);",
    test: CLIP,
  },
  {
    name: "no barrier before a block knows its first parameter",
    file: "kernels/cuda/optimizers.cu",
    text: "      found = i;\n  __syncthreads();",
    becomes: "      found = i;",
    test: MANY,
  },
  {
    name: "a parameter has the elements up to the next",
    file: "kernels/cuda/optimizers.cu",
    text: "min(end - entry.begin, entry.parameter.size));",
    becomes: "end - entry.begin);",
    test: MANY,
  },
  {
    name: "a step is two launches, of which the second can fail",
    file: "kernels/cuda/optimizers.cu",
    text:
      "  const Launch launch(device, count, parameters, kStepBlocks);\n  if (launch.blocks() == 0) return AL_OK;",
    becomes: `  const int32_t half = count / 2;
  if (half > 0) run(device, half, parameters, rule, clip);
  const Launch launch(device, count - half, parameters + half, kStepBlocks);
  if (launch.blocks() == 0) return AL_OK;`,
    test: [FAILURES, "optimizer's step that fails"],
  },
  /* ---- two GPUs ---- */
  {
    name: "a step of an optimizer on the thread's current GPU",
    file: "kernels/cuda/optimizers.cu",
    text:
      "  const CurrentDevice current(device->ordinal);\n  const Launch launch(device, count, parameters, kStepBlocks);",
    becomes: "  const Launch launch(device, count, parameters, kStepBlocks);",
    test: TWO_GPUS,
  },
  {
    name: "a product on the thread's current GPU",
    file: "kernels/cuda/matmul.cu",
    text: "    const atomloss::CurrentDevice current(device->ordinal);\n",
    becomes: "",
    test: TWO_GPUS,
  },
  {
    name: "Metrics on the thread's current GPU",
    file: "kernels/cuda/metrics.cu",
    text: "    const CurrentDevice current(device->ordinal);\n",
    becomes: "",
    test: TWO_GPUS,
  },
  {
    name: "samples counted on the thread's current GPU",
    file: "kernels/cuda/samples.cu",
    text: "    const CurrentDevice current(device->ordinal);\n",
    becomes: "",
    test: TWO_GPUS,
  },
  {
    name: "losses reduced on the thread's current GPU",
    file: "kernels/cuda/losses.cu",
    text:
      "    const CurrentDevice current(device->ordinal);\n    if (count == 0) {",
    becomes: "    if (count == 0) {",
    test: TWO_GPUS,
  },
  {
    name: "a download on the thread's current GPU",
    file: "kernels/cuda/device.cu",
    text:
      "    const CurrentDevice current(device->ordinal);\n    *ticket = device->downloads",
    becomes: "    *ticket = device->downloads",
    test: TWO_GPUS,
  },
  /* ---- products ---- */
  {
    name: "half-precision products may be summed in half precision",
    file: "kernels/cuda/matmul.cu",
    text: "CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION",
    becomes: "0",
    test: MATMUL,
  },
  {
    name: "products on the default stream",
    file: "kernels/cuda/matmul.cu",
    text: "    AL_CHECK(cublasSetStream(made, device->compute));\n",
    becomes: "",
    test: MATMUL,
  },
  {
    name: "a product reads what it is to overwrite",
    file: "kernels/cuda/matmul.cu",
    text: "beta = accumulate ? 1 : 0;",
    becomes: "beta = 1;",
    test: MATMUL,
  },
  /* ---- memory ---- */
  {
    name: "tickets are not set to 0",
    file: "kernels/cuda/device.cu",
    text:
      "  AL_CHECK(cudaMemsetAsync(\n      tickets, 0, (atomloss::kMaxTasks + 1) * sizeof(unsigned), compute));\n",
    becomes: "",
    test: BLOCKS,
  },
  {
    name: "zeros on another stream",
    file: "kernels/cuda/device.cu",
    text:
      "    AL_CHECK(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes),\n                             device->compute));",
    becomes:
      "    AL_CHECK(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes),\n                             nullptr));",
    test: ["tensor_test.ts", "zeros() is zero although"],
  },
  {
    name: "a copy on another stream",
    file: "kernels/cuda/device.cu",
    text: "cudaMemcpyDeviceToDevice, device->compute));",
    becomes: "cudaMemcpyDeviceToDevice, nullptr));",
    test: ["tensor_test.ts", "copy_() copies between tensors"],
  },
  {
    name: "surplus memory is freed on another stream",
    file: "kernels/cuda/device.cu",
    text: "if (cudaFreeAsync(block, device->compute) != cudaSuccess)",
    becomes: "if (cudaFreeAsync(block, nullptr) != cudaSuccess)",
    test: [MEMORY, "memory that is surplus"],
  },
  {
    name: "freed memory is kept without limit",
    file: "kernels/shared/block_cache.h",
    text: "    while (kept_bytes_ > most) surplus.push_back(drop_oldest());\n",
    becomes: "    static_cast<void>(most);\n",
    source: "cuda/device.cu",
    test: [MEMORY, "memory that is surplus"],
  },
  {
    name: "what another device of the GPU keeps is not asked for",
    file: "kernels/cuda/device.cu",
    text: "  if (block == nullptr) {\n    device->pool->release();\n    block",
    becomes: "  if (block == nullptr) {\n    block",
    test: [MEMORY, "what one device of a GPU keeps"],
  },
  {
    name: "the pool is the process's",
    file: "kernels/cuda/memory_pool.cu",
    text: "AL_CHECK(cudaMemPoolCreate(&pool, &properties));",
    becomes: "AL_CHECK(cudaDeviceGetDefaultMemPool(&pool, ordinal));",
    test: [MEMORY, "leave the process's pool and GPU"],
  },
  {
    name: "the GPU that was the thread's is not put back",
    file: "kernels/cuda/current_device.cuh",
    text:
      "    if (before_ != ordinal_ && is_in_use(before_)) cudaSetDevice(before_);",
    becomes: "",
    test: [MEMORY, "leave the process's pool and GPU"],
  },
  {
    name: "a pinned block is used again before it has been read",
    file: "kernels/cuda/uploads.cu",
    text: "    AL_CHECK(cudaEventRecord(current_.done, stream_));\n",
    becomes: "",
    test: ["tensor_test.ts", "a large copy is complete"],
  },
  {
    name: "two uploads share the bytes of a pinned block",
    file: "kernels/cuda/uploads.cu",
    text:
      "    room_ -=\n        std::min(room_, (piece + kAlignment - 1) / kAlignment * kAlignment);\n",
    becomes: "",
    test: READS,
  },
  {
    name: "a small upload has a pinned block for itself",
    file: "kernels/cuda/uploads.cu",
    text: "if (room_ < piece) next_block();",
    becomes: "next_block();",
    test: [MEMORY, "small uploads behind large copies"],
  },
  {
    name: "a download pins memory in its call",
    file: "kernels/cuda/downloads.cu",
    text: "  Event copied = new_event();\n",
    becomes:
      "  const PinnedMemory pinned = new_pinned_memory(bytes);\n  Event copied = new_event();\n",
    test: [MEMORY, "a download pins nothing in its call"],
  },
  {
    name: "a download pins two blocks of its own",
    file: "kernels/cuda/downloads.cu",
    text: "      if (piece.memory == nullptr)\n        piece =",
    becomes: "      piece =",
    test: [MEMORY, "a download pins nothing in its call"],
  },
  {
    name: "a download of few bytes is not waited for",
    file: "kernels/cuda/downloads.cu",
    text: "    AL_CHECK(cudaEventSynchronize(download.slot->copied));\n",
    becomes: "",
    test: READS,
  },
  {
    name: "a download is fetched before it has been copied aside",
    file: "kernels/cuda/downloads.cu",
    text: "    AL_CHECK(cudaEventSynchronize(download.copied));\n",
    becomes: "",
    test: READS,
  },
  {
    name: "a piece of a download is not waited for",
    file: "kernels/cuda/downloads.cu",
    text: "      AL_CHECK(cudaEventSynchronize(piece.copied));\n",
    becomes: "",
    test: READS,
  },
  {
    name: "a slot is given to two downloads",
    file: "kernels/cuda/downloads.cu",
    text: "  free_slots_.pop_back();\n",
    becomes: "",
    test: READS,
  },
  /* ---- errors, and what they leave ---- */
  {
    name: "a launch has the last error of anybody",
    file: "kernels/cuda/check.cuh",
    text: `  check(cudaLaunchKernelEx(&config, kernel,
                           std::forward<Arguments>(arguments)...),
        "cudaLaunchKernelEx");`,
    becomes:
      `  cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  check(cudaGetLastError(), "cudaLaunchKernelEx");`,
    test: [FAILURES, "an error that others made"],
  },
  {
    name: "a device of a broken GPU is not ended",
    file: "kernels/cuda/device.cu",
    text: "  // In any case.\n",
    becomes: "  if (failed != AL_OK) return failed;\n",
    test: [FAILURES, "dispose() does not throw"],
  },
  {
    name: "dispose() throws what the GPU did before",
    file: "tensor/device.ts",
    text: "if (!(error instanceof AtomlossError)) throw error;",
    becomes: "throw error;",
    test: [FAILURES, "dispose() does not throw"],
  },
  {
    name: "what was made before a call failed is not given back",
    file: "kernels/cuda/owners.cuh",
    text: "if (handle_ != nullptr && static_cast<int>(release(handle_)) != 0)",
    becomes: "if (false)",
    source: "cuda/device.cu",
    test: [FAILURES, "Device.open() that fails"],
  },
  {
    name: "cuBLAS's handle is the device's before it is set up",
    file: "kernels/cuda/matmul.cu",
    text: "    atomloss::Blas made = atomloss::new_blas();\n",
    becomes:
      "    device->blas = atomloss::new_blas();\n    atomloss::Blas& made = device->blas;\n",
    test: [FAILURES, "copies and products that fail"],
  },
  {
    name: "a forgotten normalizer keeps its counts",
    file: "loss/normalizer.ts",
    text: "  pending.drop()\n);",
    becomes: "  void pending\n);",
    test: [GROUP, "slots of forgotten normalizers"],
  },
  /* ---- which GPU ---- */
  {
    name: "a GPU without code is opened",
    file: "kernels/cuda/gpus.cu",
    text:
      "  if (code == cudaErrorNoKernelImageForDevice ||\n      code == cudaErrorInvalidDeviceFunction) {",
    becomes: "  if (code != cudaSuccess) return;\n  if (false) {",
    test: [OPEN, "too old for the library"],
  },
  {
    name: "a driver that is too old has no GPU",
    file: "kernels/cuda/gpus.cu",
    text: "if (code == cudaErrorNoDevice || driver == 0) return 0;",
    becomes: "return 0;",
    test: [OPEN, "a driver is too old"],
  },
  {
    name: "a replica asks for the GPU of its rank, whatever it sees",
    file: "tensor/device.ts",
    text: 'return Number(text) % Math.max(1, await Device.count("cuda"));',
    becomes: "return Number(text);",
    test: [OPEN, "the GPU of the local rank"],
  },
  {
    name: "the driver is asked at every call",
    file: "ffi/nvidia_driver.ts",
    text: "return answer ??= askDriver(LIMIT_MS);",
    becomes: "return answer = askDriver(LIMIT_MS);",
    test: ["nvidia_driver_test.ts", "asks the driver once"],
  },
  {
    name: "a driver that hangs is waited for",
    file: "ffi/nvidia_driver.ts",
    text: "await Promise.race([cuInit(0), timeout])",
    becomes: "await cuInit(0)",
    test: ["nvidia_driver_test.ts", "does not answer"],
  },
  /* ---- collectives ---- */
  {
    name: "a collective does not wait for what computes its input",
    file: "kernels/cuda/group.cuh",
    text: "      AL_CHECK(cudaStreamWaitEvent(stream, mine.ready, 0));\n",
    becomes: "",
    test: COLLECTIVES,
  },
  {
    name: "a collective waits for its own stream",
    file: "kernels/cuda/group.cuh",
    text: "AL_CHECK(cudaEventRecord(mine.ready, device->compute));",
    becomes: "AL_CHECK(cudaEventRecord(mine.ready, stream));",
    test: COLLECTIVES,
  },
  {
    name: "what follows a collective does not wait for it",
    file: "kernels/cuda/group.cuh",
    text:
      "    if (order == Order::kBetween)\n      AL_CHECK(cudaStreamWaitEvent(device->compute, mine.done, 0));\n",
    becomes: "",
    test: COLLECTIVES,
  },
  {
    name: "the end of a collective is recorded before it",
    file: "kernels/cuda/group.cuh",
    text:
      "    hand_over(mine, numbered);\n    AL_CHECK(cudaEventRecord(mine.done, stream));",
    becomes:
      "    AL_CHECK(cudaEventRecord(mine.done, stream));\n    hand_over(mine, numbered);",
    test: COLLECTIVES,
  },
  {
    name: "NCCL's state in progress is ignored",
    file: "kernels/cuda/group.cuh",
    text: "    return now == ncclSuccess;",
    becomes: "    return true;",
    test: COLLECTIVES,
  },
  {
    name: "a group of NCCL's calls is not ended",
    file: "kernels/cuda/collectives.cu",
    text: "const ncclResult_t end = ncclGroupEnd();",
    becomes: "const ncclResult_t end = ncclSuccess;",
    test: COLLECTIVES,
  },
  {
    name: "the token of barriers is not set",
    file: "kernels/cuda/group.cu",
    text: "  AL_CHECK(cudaMemsetAsync(token, 0, sizeof(int), stream));\n",
    becomes: "  static_cast<void>(stream);\n",
    test: [GROUP, "a barrier reads its token"],
  },
  {
    name: "a call that fails on one replica leaves the group as it was",
    file: "kernels/cuda/group.cuh",
    text: "      leave(call);\n",
    becomes: "",
    test: [GROUP, "a call that fails before NCCL has it"],
  },
  {
    name: "counts are read before they are summed",
    file: "kernels/cuda/collectives.cu",
    text: "      AL_CHECK(cudaStreamWaitEvent(device->compute, arrival, 0));",
    becomes: "      static_cast<void>(arrival);",
    test: GOLDEN,
  },
  {
    name: "counts of the device are summed before they are there",
    file: "kernels/cuda/collectives.cu",
    text: "counts ? Order::kApart : Order::kBehindCompute",
    becomes: "Order::kApart",
    test: [GROUP, "counts of the device are copied"],
  },
  {
    name: "counts are written on another stream than they are summed on",
    file: "kernels/cuda/collectives.cu",
    text: "launch_kernel(write_counts, 1, kMaxCounts, stream,",
    becomes:
      "launch_kernel(write_counts, 1, kMaxCounts, group->device->compute,",
    test: GOLDEN,
  },
  {
    name: "counts are written over before they have been read",
    file: "kernels/cuda/count_slots.cuh",
    text: "           cudaEventQuery(slot.read) == cudaSuccess;",
    becomes: "           true;",
    test: GOLDEN,
  },
  {
    name: "counts' last reader is not noted",
    file: "kernels/cuda/collectives.cu",
    text: "    AL_CHECK(cudaEventRecord(slot.read, device->compute));\n",
    becomes: "",
    test: GOLDEN,
  },
  {
    name: "counts that are under way count as there",
    file: "kernels/cuda/group.cu",
    text: "    if (code == cudaErrorNotReady && broken.empty()) return;\n",
    becomes: "",
    test: GOLDEN,
  },
];
