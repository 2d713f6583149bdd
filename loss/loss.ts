/** What a loss is: its value per element or row, and the gradient of that. */
import type { Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Where an operation puts its result. */
export interface OutOptions {
  /** A tensor of the result's shape, dtype and device. Default: a new one. */
  out?: Tensor;
}

/**
 * A loss function without reduction. Implement it to train with a loss of your
 * own: `DDPLoss` takes such an object wherever it takes a name.
 */
export interface Loss {
  /** Name, for messages and the registry. */
  readonly name: string;

  /**
   * Shape of the unreduced loss for predictions of this shape.
   *
   * @throws {ShapeError} if predictions cannot have this shape.
   */
  outputShape(shape: Shape): Shape;

  /**
   * The unreduced loss.
   *
   * @param pred Predictions.
   * @param target References; shape, dtype and device of `pred`.
   * @param natoms Atoms per structure, for losses that use it.
   * @returns Tensor of shape `outputShape(pred.shape)` and dtype of `pred`.
   */
  forward(
    pred: Tensor,
    target: Tensor,
    natoms?: Tensor | null,
    options?: OutOptions,
  ): Tensor;

  /**
   * Gradient with respect to `pred`.
   *
   * @param gradOutput Gradient with respect to what `forward` returned; default: ones.
   * @returns Tensor like `pred`.
   */
  backward(
    pred: Tensor,
    target: Tensor,
    natoms?: Tensor | null,
    gradOutput?: Tensor | null,
    options?: OutOptions,
  ): Tensor;
}
