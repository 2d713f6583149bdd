/** What the reduced losses have in common: their result, and the errors for wrong options. */
import { ArgumentError, UnknownReductionError } from "../errors.ts";
import type { ProcessGroup } from "../distributed/process_group.ts";
import type { DType } from "../tensor/dtype.ts";
import { outputTensor, resultTensor, type Tensor } from "../tensor/tensor.ts";
import type { Loss } from "./loss.ts";
import type { Normalizer } from "./normalizer.ts";
import type { Parameters } from "./parameters.ts";
import type { NonFiniteListener } from "./remarks.ts";
// Registered by name there.
import "./define_loss.ts";
import "./losses.ts";
import { lossNamed } from "./registry.ts";

/** Options of the reduced losses. */
export interface ReducedLossOptions {
  /** The replicas to take the mean over. Default: this process alone. */
  group?: ProcessGroup;
  /**
   * Called with how many numbers of the input, target, weights and scale were
   * NaN or infinite where they counted, when a value is read of which any were.
   * Default: a warning on the console.
   */
  onNonFinite?: NonFiniteListener;
}

/** Options of one call of a reduced loss. */
export interface ReduceOptions<Out> {
  /** What a former call with the same shapes returned, to be written again. */
  out?: Out;
  /** The samples of the whole step. Default: those of this call. */
  normalizer?: Normalizer;
}

/** Options of one call of {@linkcode DDPLoss}. */
export interface DDPLossCallOptions<Out> extends ReduceOptions<Out> {
  /** Of this call, each in place of the loss's. The same on all replicas. */
  parameters?: Parameters;
}

/** A loss and its gradient. Disposing it disposes both. */
export interface ValueAndGrad extends Disposable {
  /** The reduced loss, a scalar: float64 for float64 inputs, otherwise float32. */
  readonly value: Tensor;
  /** Its gradient with respect to the input: a tensor like the input. */
  readonly grad: Tensor;
}

/** A value has room to grow that half-precision numbers do not have. */
export function valueDType(input: DType): DType {
  return input === "float64" ? "float64" : "float32";
}

/** The loss of this name, or the loss itself. */
export function lossOf(loss: string | Loss): Loss {
  const found = typeof loss === "string" ? lossNamed(loss) : loss;
  if (typeof found?.forward !== "function") {
    throw new ArgumentError("loss must be a name or a Loss object");
  }
  return found;
}

/** Throws unless the reduction is one of those that there are. */
export function checkReduction(
  reduction: string,
  known: readonly string[],
): void {
  if (!known.includes(reduction)) {
    throw new UnknownReductionError(
      `reduction '${reduction}' is unknown: expected one of ${
        known.join(", ")
      }`,
    );
  }
}

/** What a reduced loss writes. */
export interface LossOutputs {
  readonly value: Tensor;
  readonly grad: Tensor | null;
}

/** Where a loss writes its value: `out`, or a new tensor. */
export function valueOnly(
  input: Tensor,
  target: Tensor,
  out: Tensor | undefined,
): { readonly value: Tensor; readonly grad: null } {
  const dtype = valueDType(input.dtype);
  const value = resultTensor(input.device, dtype, out, [input, target]);
  return { value, grad: null };
}

/** Where a loss writes value and gradient, as one thing to dispose: `out`, or new tensors. */
export function valueAndGrad(
  input: Tensor,
  target: Tensor,
  out: { value: Tensor; grad: Tensor } | undefined,
): ValueAndGrad {
  const { device, shape, dtype } = input;
  const inputs = [input, target];
  const grad = outputTensor(device, shape, dtype, out?.grad, inputs);
  inputs.push(grad);
  const value = resultTensor(device, valueDType(dtype), out?.value, inputs);
  return new Written(value, grad);
}

/** A class, as an object with a method of its own takes 0.2 us to make. */
class Written implements ValueAndGrad {
  readonly value: Tensor;
  readonly grad: Tensor;

  constructor(value: Tensor, grad: Tensor) {
    this.value = value;
    this.grad = grad;
  }

  [Symbol.dispose](): void {
    this.value.dispose();
    this.grad.dispose();
  }
}
