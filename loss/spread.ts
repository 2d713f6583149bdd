/** al_spread of kernels/atomloss.h: a tensor of which every entry of a loss has a number, in one of several shapes. */
import { DTypeError, ShapeError } from "../errors.ts";
import { equalShapes, formatShape } from "../tensor/shape.ts";
import { checkDevice, checkTensor, type Tensor } from "../tensor/tensor.ts";
import type { LossInput } from "./native_loss.ts";
import { valueDType } from "./reduction.ts";

/** Where the number of row i and column j is: at i rowStride + j colStride. */
export interface Spread {
  readonly values: Tensor;
  /** Not null: the values are of structures, and the device writes those of their rows here. */
  readonly byRow: Tensor | null;
  readonly rowStride: number;
  readonly colStride: number;
}

/** Throws unless the mask says of every entry, or of every row, whether it counts. */
export function maskOf(
  mask: Tensor,
  pred: Tensor,
  input: LossInput,
  entries: readonly number[],
  what: string,
): Spread {
  checkTensor(mask, what);
  checkDevice(pred, mask, what);
  if (mask.dtype !== "bool") {
    throw new DTypeError(`${what} has dtype ${mask.dtype}, expected bool`);
  }
  const perRow = pred.shape.slice(0, 1);
  const isEntries = equalShapes(mask.shape, entries);
  if (!isEntries && !equalShapes(mask.shape, perRow)) {
    throw new ShapeError(
      `${what} has shape ${formatShape(mask.shape)}, expected ${
        formatShape(entries)
      }${
        equalShapes(entries, perRow)
          ? ""
          : ` or, one entry per row, ${formatShape(perRow)}`
      }`,
    );
  }
  return isEntries && input.kind === "element"
    ? { values: mask, byRow: null, rowStride: input.cols, colStride: 1 }
    : { values: mask, byRow: null, rowStride: 1, colStride: 0 };
}

/**
 * Weights (`of: "entries"`) or a scale (`"elements"`) of a loss with this input,
 * by the first shape that fits. `natoms`: what a tensor per structure is spread
 * by; `rows` makes the memory that it is spread to.
 */
export function spreadOf(
  values: Tensor,
  of: "entries" | "elements",
  pred: Tensor,
  input: LossInput,
  natoms: Tensor | null,
  rows: () => Tensor,
  what: string,
): Spread {
  checkTensor(values, what);
  checkDevice(pred, values, what);
  const dtype = valueDType(pred.dtype);
  if (values.dtype !== dtype) {
    throw new DTypeError(
      `${what} has dtype ${values.dtype}, expected ${dtype} for an input of ${pred.dtype}`,
    );
  }
  const { shape } = values;
  const is = (...expected: number[]): boolean => equalShapes(shape, expected);
  const spread = (rowStride: number, colStride: number): Spread => {
    return { values, byRow: null, rowStride, colStride };
  };
  const byColumn = of === "elements" || input.kind === "element";
  if (is(input.rows) || is(input.rows, 1)) return spread(1, 0);
  if (byColumn) {
    if (equalShapes(shape, pred.shape)) return spread(input.cols, 1);
    if (is(1, input.cols)) return spread(0, 1);
  }
  if (natoms !== null && is(natoms.size)) {
    return { values, byRow: rows(), rowStride: 1, colStride: 0 };
  }
  const expected = [
    [input.rows],
    [input.rows, 1],
    ...(byColumn ? [pred.shape, [1, input.cols]] : []),
    ...(natoms === null ? [] : [[natoms.size]]),
  ].map(formatShape);
  throw new ShapeError(
    `${what} has shape ${formatShape(shape)}, expected one of ${
      [...new Set(expected)].join(", ")
    }${
      natoms === null ? "; one number per structure needs natoms" : ""
    } for an input of shape ${formatShape(pred.shape)}`,
  );
}
