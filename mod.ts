/**
 * Loss functions of atomistic machine learning, with gradients, on CPUs and
 * NVIDIA GPUs, alone or over the replicas of a data-parallel job.
 *
 * @example
 * ```ts
 * import { DDPLoss, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("auto");
 * using pred = device.tensor(new Float32Array([1, 2, 3]), [1, 3]);
 * using target = device.zeros([1, 3], "float32");
 * using result = new DDPLoss("mae").valueAndGrad(pred, target);
 * console.log(await result.value.item()); // 2
 * ```
 *
 * @module
 */
export * from "./errors.ts";
export { Device, type MemoryState } from "./tensor/device.ts";
export { CapturedStep } from "./tensor/captured_step.ts";
export type { DType, TensorData } from "./tensor/dtype.ts";
export type { Shape } from "./tensor/shape.ts";
export type { DLPackOptions } from "./tensor/dlpack.ts";
export { Tensor, type WrapOptions } from "./tensor/tensor.ts";
export { matmul, type MatmulOptions } from "./tensor/matmul.ts";
export {
  Optimizer,
  type OptimizerOptions,
  type StepOptions,
} from "./tensor/optimizer.ts";
export { Adam, type AdamOptions } from "./tensor/adam.ts";
export { SGD, type SGDOptions } from "./tensor/sgd.ts";
export {
  clipGradNorm,
  type ClipGradNormOptions,
  type ClipOptions,
} from "./tensor/clip_grad_norm.ts";
export {
  ExponentialMovingAverage,
  type ExponentialMovingAverageOptions,
} from "./tensor/exponential_moving_average.ts";
export type { Loss, OutOptions } from "./loss/loss.ts";
export {
  CrossEntropyLoss,
  L2NormLoss,
  MAELoss,
  MSELoss,
  PerAtomMAELoss,
} from "./loss/losses.ts";
export {
  type ColumnsDefinition,
  defineLoss,
  type ElementDefinition,
  type LossDefinition,
  type LossParameters,
  type ProductsDefinition,
  type RowDefinition,
} from "./loss/define_loss.ts";
export type { Bound, Parameters } from "./loss/parameters.ts";
export { huber, logCosh, smoothL1 } from "./loss/shipped_losses.ts";
export { checkGradient } from "./loss/check_gradient.ts";
export { NativeLoss } from "./loss/native_loss.ts";
export { registerLoss } from "./loss/registry.ts";
export {
  DDPLoss,
  type DDPLossOptions,
  type Reduction,
} from "./loss/ddp_loss.ts";
export type {
  DDPLossCallOptions,
  ReducedLossOptions,
  ReduceOptions,
  ValueAndGrad,
} from "./loss/reduction.ts";
export type { NonFiniteListener } from "./loss/remarks.ts";
export {
  type DDPMTCallOptions,
  DDPMTLoss,
  type DDPMTLossOptions,
} from "./loss/ddp_mt_loss.ts";
export {
  type MultiTaskCallOptions,
  MultiTaskLoss,
  type MultiTaskLossOptions,
  type TaskInputs,
  type TaskListener,
  type TaskOptions,
} from "./loss/multi_task_loss.ts";
export type {
  MultiTaskGrads,
  MultiTaskNumbers,
  MultiTaskValues,
} from "./loss/multi_task_result.ts";
export type {
  MaskedReduction,
  TaskInput,
  TaskVariant,
} from "./loss/masked_tasks.ts";
export { Normalizer } from "./loss/normalizer.ts";
export {
  type Compared,
  type ComparedForces,
  Metrics,
  type MetricsBatch,
  type MetricsOptions,
  type MetricsReport,
} from "./loss/metrics.ts";
export {
  type GroupBackend,
  ProcessGroup,
  type ProcessGroupOptions,
  type ReduceOp,
} from "./distributed/process_group.ts";
