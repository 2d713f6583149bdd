/** Whether the gradient of a loss is that of its value. */
import { GradientError } from "../errors.ts";
import type { Device } from "../tensor/device.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Loss } from "./loss.ts";
import { columnsOf, NativeLoss } from "./native_loss.ts";
import { lossOf } from "./reduction.ts";

/** Sizes of the errors that are tried: 1e-3 to 1e2, in the predictions' unit. */
const EXPONENTS = [-3, 2] as const;
const ROWS = 400;
const COLS = 3;

/** Step of the differences, relative to the error. */
const STEP = 1e-4;
/** Fourth order: what is left is rounding, some 1e-16 / STEP. */
const TOLERANCE = 1e-7;

/**
 * Compares the gradient of a loss with central differences of its value, in
 * float64 on the device, at errors of all sizes from 1e-3 to 1e2 and either
 * sign. Points within a step of a kink are left out.
 *
 * @param loss Name of a registered loss, or a loss object.
 * @param device Where to compute.
 * @throws {GradientError} if they differ by more than 1e-7 of the larger: says
 * where, and both numbers.
 * @throws {UnknownLossError} if no loss has this name.
 *
 * @example
 * ```ts
 * import { checkGradient, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * await checkGradient("huber", device);
 * ```
 */
export async function checkGradient(
  loss: string | Loss,
  device: Device,
): Promise<void> {
  const fn = lossOf(loss);
  const shape = shapeFor(fn);
  const cols = shape[1] ?? 1;
  const perRow = fn.outputShape(shape).length < shape.length;
  const size = ROWS * cols;
  const target = Float64Array.from({ length: size }, (_, i) => Math.sin(7 * i));
  const error = Float64Array.from({ length: size }, (_, i) => {
    const [low, high] = EXPONENTS;
    // Of a row, all components have about the same size.
    const place = Math.floor(i / cols) / ROWS;
    const digits = low + (high - low) * place;
    return 10 ** digits * (1.3 + Math.cos(11 * i)) * (i % 2 ? -1 : 1);
  });
  const natoms = Int32Array.from({ length: ROWS }, (_, i) => 1 + i % 5);

  using stack = new DisposableStack();
  const on = (data: Float64Array): Tensor =>
    stack.use(device.tensor(Float64Array.from(data), shape));
  const t = on(target);
  const n = stack.use(device.tensor(natoms));
  /** Values where component `col` of every error is changed by steps. */
  const valueAt = async (col: number, steps: number): Promise<number[]> => {
    const p = on(
      target.map((x, i) =>
        x + error[i]! * (1 + (i % cols === col ? steps * STEP : 0))
      ),
    );
    return await stack.use(fn.forward(p, t, n)).toList();
  };
  const pred = on(target.map((x, i) => x + error[i]!));
  const grad = await stack.use(fn.backward(pred, t, n)).toList();

  for (let col = 0; col < cols; col++) {
    const [a, b, c, d] = await Promise.all(
      [-2, -1, 1, 2].map((steps) => valueAt(col, steps)),
    );
    for (let i = col; i < size; i += cols) {
      const entry = perRow ? Math.floor(i / cols) : i;
      const at = (values?: number[]): number => values![entry]!;
      const h = STEP * error[i]!;
      const near = (at(c) - at(b)) / (2 * h);
      const far = (at(d) - at(a)) / (4 * h);
      const expected = (4 * near - far) / 3;
      const actual = grad[i]!;
      // The two differences agree to second order, unless a kink is between.
      const size = Math.max(Math.abs(near), Math.abs(far), Math.abs(actual));
      if (Math.abs(near - far) > 1e-5 * size) continue;
      // Rounding of values that are large beside their differences.
      const rounding = 1e-15 * Math.abs(at(b)) / Math.abs(h);
      if (Math.abs(actual - expected) <= TOLERANCE * size + rounding) continue;
      throw new GradientError(
        `the gradient of ${fn.name} is not that of its value: at p = ${
          target[i]! + error[i]!
        }, t = ${
          target[i]
        } it is ${actual}, central differences give ${expected}`,
      );
    }
  }
}

/** A shape that the loss takes: matrices, or one number per row. */
function shapeFor(loss: Loss): readonly number[] {
  const columns = loss instanceof NativeLoss ? columnsOf(loss) : 0;
  if (columns > 0) return [ROWS, columns];
  try {
    loss.outputShape([ROWS, COLS]);
    return [ROWS, COLS];
  } catch {
    return [ROWS];
  }
}
