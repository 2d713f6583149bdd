/** Matrix product: cuBLAS on GPUs, OpenBLAS on the CPU. */
import { ArgumentError, DTypeError, ShapeError } from "../errors.ts";
import { nativeOf } from "./device.ts";
import { dtypeCode, isFloating } from "./dtype.ts";
import { formatShape } from "./shape.ts";
import {
  checkDevice,
  checkTensor,
  checkTraced,
  outputTensor,
  pointerOf,
  type Tensor,
} from "./tensor.ts";

/** Options of {@linkcode matmul}. */
export interface MatmulOptions {
  /** Use the transpose of `a`. Default: false. */
  transposeA?: boolean;
  /** Use the transpose of `b`. Default: false. */
  transposeB?: boolean;
  /** Where to put the product. Default: a new tensor. */
  out?: Tensor;
  /** Add the product to what `out` holds. Default: false. */
  accumulate?: boolean;
}

function checkMatrix(tensor: Tensor, what: string): readonly [number, number] {
  checkTensor(tensor, what);
  if (tensor.shape.length !== 2) {
    throw new ShapeError(
      `${what} of matmul must be a matrix, not of shape ${
        formatShape(tensor.shape)
      }`,
    );
  }
  return [tensor.shape[0]!, tensor.shape[1]!];
}

/**
 * The matrix product of `a` and `b`, each transposed if asked. Half-precision
 * products are summed in float32. Enqueued on the device; does not wait.
 *
 * @param a `[m, k]`, or `[k, m]` with `transposeA`; float32, float64, float16
 * or bfloat16.
 * @param b `[k, n]`, or `[n, k]` with `transposeB`; dtype and device of `a`.
 * @returns `[m, n]`: `out` if given.
 * @throws {ShapeError | DTypeError | DeviceError} if the two do not fit.
 *
 * @example
 * ```ts
 * import { Device, matmul } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using a = device.tensor(new Float32Array([1, 2, 3, 4]), [2, 2]);
 * using x = device.tensor(new Float32Array([1, 1]), [2, 1]);
 * using y = matmul(a, x);
 * console.log(await y.toList()); // [ 3, 7 ]
 * ```
 */
export function matmul(
  a: Tensor,
  b: Tensor,
  options: MatmulOptions = {},
): Tensor {
  const { transposeA = false, transposeB = false, accumulate = false } =
    options;
  const [rowsA, colsA] = checkMatrix(a, "a");
  const [rowsB, colsB] = checkMatrix(b, "b");
  checkDevice(a, b, "b");
  if (a.dtype !== b.dtype || !isFloating(a.dtype)) {
    throw new DTypeError(
      `matmul needs two tensors of one floating dtype, got ${a.dtype} and ${b.dtype}`,
    );
  }
  const [m, k] = transposeA ? [colsA, rowsA] : [rowsA, colsA];
  const [inner, n] = transposeB ? [colsB, rowsB] : [rowsB, colsB];
  if (k !== inner) {
    throw new ShapeError(
      `matmul cannot multiply ${formatShape(a.shape)}${
        transposeA ? "ᵀ" : ""
      } with ` +
        `${formatShape(b.shape)}${transposeB ? "ᵀ" : ""}: ${k} is not ${inner}`,
    );
  }
  if (accumulate && options.out === undefined) {
    throw new ArgumentError("accumulate needs an out to add to");
  }
  const { library, handle } = nativeOf(a.device);
  const out = outputTensor(a.device, [m, n], a.dtype, options.out, [a, b]);
  checkTraced(
    a.device,
    library.symbols.al_matmul(
      handle,
      dtypeCode(a.dtype),
      Number(transposeA),
      Number(transposeB),
      BigInt(m),
      BigInt(n),
      BigInt(k),
      pointerOf(a),
      pointerOf(b),
      pointerOf(out),
      Number(accumulate),
    ),
    () => ({ reads: [a, b, accumulate ? out : null], writes: [out] }),
  );
  return out;
}
