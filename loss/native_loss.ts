/** The losses of kernels/loss_ops.h: arguments checked here, computed there. */
import { ArgumentError, DTypeError, ShapeError } from "../errors.ts";
import type { Library } from "../ffi/library.ts";
import { type Device, nativeOf } from "../tensor/device.ts";
import { dtypeCode, isFloating } from "../tensor/dtype.ts";
import { equalShapes, formatShape, type Shape } from "../tensor/shape.ts";
import {
  checkDevice,
  checkLike,
  checkTensor,
  checkTraced,
  outputTensor,
  pointerOf,
  type Tensor,
} from "../tensor/tensor.ts";
import type { Loss, OutOptions } from "./loss.ts";
import { ParameterList } from "./parameters.ts";

/** al_loss_kind of kernels/atomloss.h. */
const KINDS = { element: 0, row: 1 };

/** What the C ABI needs to know of a loss's input. */
export interface LossInput {
  /** Number of the loss in the native library. */
  readonly loss: number;
  readonly kind: "element" | "row";
  readonly natoms: Tensor | null;
  readonly rows: number;
  readonly cols: number;
  /** Entries of the unreduced loss. */
  readonly entries: number;
}

/** Throws unless pred and target can be compared: same shape, dtype, device; floating. */
export function checkPair(
  pred: Tensor,
  target: Tensor,
  predName: string,
  targetName: string,
): void {
  checkTensor(pred, predName);
  checkLike(pred, target, targetName);
  if (!isFloating(pred.dtype)) {
    throw new DTypeError(
      `${predName} has dtype ${pred.dtype}, expected float32, float64, float16 or bfloat16`,
    );
  }
}

/** What is known of a loss besides what its objects say. */
interface Declaration {
  readonly parameters: ParameterList;
  /** Numbers that a row must have; 0: two or more. */
  readonly columns: number;
}

const declarations = new Map<string, Declaration>();
const NOTHING: Declaration = { parameters: new ParameterList(""), columns: 0 };

/** Says what a loss of this name has, whoever makes an object of it. */
export function declareLoss(name: string, declaration: Declaration): void {
  declarations.set(name, declaration);
}

function declarationOf({ name }: NativeLoss): Declaration {
  return declarations.get(name) ?? NOTHING;
}

/** The parameters of a loss. */
export function parametersOf(loss: NativeLoss): ParameterList {
  return declarationOf(loss).parameters;
}

/** Numbers that a row of a loss must have; 0: any. */
export function columnsOf(loss: NativeLoss): number {
  return declarationOf(loss).columns;
}

let friend: {
  prepare: (
    loss: NativeLoss,
    pred: Tensor,
    natoms: Tensor | null,
  ) => LossInput;
  number: (loss: NativeLoss, library: Library) => number;
};

/**
 * A loss of kernels/loss_ops.h, computed by the native library: the parent of
 * the losses that come with this package.
 */
export class NativeLoss implements Loss {
  /** Name in kernels/loss_ops.h, by which `DDPLoss` finds it. */
  readonly name: string;
  readonly #kind: "element" | "row";
  readonly #usesNatoms: boolean;
  readonly #numbers = new Map<Library, number>();

  static {
    friend = {
      prepare: (loss, pred, natoms) => loss.#prepare(pred, natoms),
      number: (loss, library) => loss.#number(library),
    };
  }

  /**
   * A loss by its name in kernels/loss_ops.h.
   *
   * @param name Its name there.
   * @param kind Whether it has one value per element or one per row.
   * @param usesNatoms Whether it reads natoms.
   * @throws {ArgumentError} if there is no such kind. Whether it is that of the
   * library's loss shows when it is first used.
   */
  constructor(name: string, kind: "element" | "row", usesNatoms = false) {
    if (kind !== "element" && kind !== "row") {
      throw new ArgumentError(`kind is ${kind}, expected element or row`);
    }
    this.name = name;
    this.#kind = kind;
    this.#usesNatoms = usesNatoms;
  }

  /**
   * Shape of the unreduced loss for predictions of this shape: the same, or
   * `[N]` for the rows of `[N, D]`, D > 1.
   *
   * @throws {ShapeError} if predictions cannot have this shape.
   */
  outputShape(shape: Shape): Shape {
    if (this.#kind === "element") return shape;
    const { columns } = declarationOf(this);
    if (columns > 0) {
      if (shape.length === 2 && shape[1] === columns) return [shape[0]!];
      throw new ShapeError(
        `${this.name} takes rows of ${columns} numbers, [N, ${columns}], not shape ${
          formatShape(shape)
        }`,
      );
    }
    if (shape.length === 2 && shape[1]! > 1) return [shape[0]!];
    throw new ShapeError(
      `${this.name} takes rows of two or more numbers, [N, D], not shape ${
        formatShape(shape)
      }`,
    );
  }

  /**
   * The unreduced loss. Enqueued on the device; does not wait.
   *
   * @param pred Predictions; float32, float64, float16 or bfloat16.
   * @param target References; shape, dtype and device of `pred`.
   * @param natoms Atoms per structure, int32 or int64; read by per-atom losses alone.
   * @param options `out`: where to put the result.
   * @returns One entry per element or row, in the dtype of `pred`.
   * @throws {ShapeError} if the shapes differ (there is no broadcasting) or are not allowed.
   * @throws {DTypeError} if the dtypes differ or are not floating.
   * @throws {DeviceError} if the devices differ.
   * @throws {DisposedError} if a tensor was disposed.
   */
  forward(
    pred: Tensor,
    target: Tensor,
    natoms: Tensor | null = null,
    options: OutOptions = {},
  ): Tensor {
    checkPair(pred, target, "pred", "target");
    const input = this.#prepare(pred, natoms);
    const { library, handle } = nativeOf(pred.device);
    const shape = this.outputShape(pred.shape);
    const out = outputTensor(pred.device, shape, pred.dtype, options.out, [
      pred,
      target,
    ]);
    checkTraced(
      pred.device,
      library.symbols.al_loss_forward(
        handle,
        input.loss,
        dtypeCode(pred.dtype),
        pointerOf(pred),
        pointerOf(target),
        input.natoms && pointerOf(input.natoms),
        dtypeCode(input.natoms?.dtype ?? "int64"),
        BigInt(input.rows),
        BigInt(input.cols),
        parametersOf(this).defaults,
        pointerOf(out),
      ),
      () => ({ reads: [pred, target, input.natoms], writes: [out] }),
    );
    return out;
  }

  /**
   * Gradient with respect to `pred`. Enqueued on the device; does not wait.
   *
   * @param pred Predictions, as for `forward`.
   * @param target References, as for `forward`.
   * @param natoms Atoms per structure, as for `forward`.
   * @param gradOutput Gradient with respect to what `forward` returned, with
   * its shape and dtype; default: ones.
   * @param options `out`: where to put the result.
   * @returns Tensor like `pred`.
   * @throws {ShapeError | DTypeError | DeviceError | DisposedError} as `forward`.
   */
  backward(
    pred: Tensor,
    target: Tensor,
    natoms: Tensor | null = null,
    gradOutput: Tensor | null = null,
    options: OutOptions = {},
  ): Tensor {
    checkPair(pred, target, "pred", "target");
    const input = this.#prepare(pred, natoms);
    const inputs = [pred, target];
    if (gradOutput !== null) {
      checkTensor(gradOutput, "gradOutput");
      checkGradOutput(gradOutput, pred, this.outputShape(pred.shape));
      inputs.push(gradOutput);
    }
    const { library, handle } = nativeOf(pred.device);
    const out = outputTensor(
      pred.device,
      pred.shape,
      pred.dtype,
      options.out,
      inputs,
    );
    checkTraced(
      pred.device,
      library.symbols.al_loss_backward(
        handle,
        input.loss,
        dtypeCode(pred.dtype),
        pointerOf(pred),
        pointerOf(target),
        input.natoms && pointerOf(input.natoms),
        dtypeCode(input.natoms?.dtype ?? "int64"),
        BigInt(input.rows),
        BigInt(input.cols),
        parametersOf(this).defaults,
        gradOutput && pointerOf(gradOutput),
        pointerOf(out),
      ),
      () => ({ reads: [...inputs, input.natoms], writes: [out] }),
    );
    return out;
  }

  /** Checks shape and natoms, and says what to pass on. */
  #prepare(pred: Tensor, natoms: Tensor | null): LossInput {
    // Also throws for a shape that this loss does not take.
    this.outputShape(pred.shape);
    const { shape } = pred;
    const rows = shape[0] ?? 1;
    let cols = 1;
    for (let i = 1; i < shape.length; i++) cols *= shape[i]!;
    return {
      loss: this.#number(nativeOf(pred.device).library),
      kind: this.#kind,
      natoms: this.#usesNatoms ? this.#checkNatoms(pred, natoms) : null,
      rows,
      cols,
      entries: this.#kind === "row" ? rows : pred.size,
    };
  }

  #checkNatoms(pred: Tensor, natoms: Tensor | null): Tensor {
    if (natoms === null || natoms === undefined) {
      throw new ShapeError(
        `${this.name} needs natoms, one number per structure: ${
          pred.shape[0]
        } of them`,
      );
    }
    checkNatoms(pred, natoms);
    const [rows = 1] = pred.shape;
    if (natoms.size !== rows) {
      throw new ShapeError(
        `natoms has shape ${
          formatShape(natoms.shape)
        }, expected ${rows} numbers, ` +
          `one per row of pred ${formatShape(pred.shape)}`,
      );
    }
    return natoms;
  }

  /** The number of this loss in a native library. */
  #number(library: Library): number {
    let number = this.#numbers.get(library);
    if (number === undefined) {
      const loss = new Int32Array(1);
      const kind = new Int32Array(1);
      const name = new TextEncoder().encode(`${this.name}\0`);
      library.check(library.symbols.al_loss_find(name, loss, kind));
      if (kind[0] !== KINDS[this.#kind]) {
        throw new ArgumentError(
          `${this.name} is not a loss per ${this.#kind} in ${library.path}`,
        );
      }
      number = loss[0]!;
      this.#numbers.set(library, number);
    }
    return number;
  }
}

/** Throws unless gradOutput is like the unreduced loss of pred. */
function checkGradOutput(gradOutput: Tensor, pred: Tensor, shape: Shape): void {
  checkDevice(pred, gradOutput, "gradOutput");
  if (gradOutput.dtype !== pred.dtype) {
    throw new DTypeError(
      `gradOutput has dtype ${gradOutput.dtype}, expected ${pred.dtype}`,
    );
  }
  if (!equalShapes(gradOutput.shape, shape)) {
    throw new ShapeError(
      `gradOutput has shape ${formatShape(gradOutput.shape)}, expected ${
        formatShape(shape)
      }`,
    );
  }
}

/** What the C ABI needs to know for these arguments, which are checked. */
export function prepareInput(
  loss: NativeLoss,
  pred: Tensor,
  natoms: Tensor | null,
): LossInput {
  return friend.prepare(loss, pred, natoms);
}

/** The number of a loss in the library of a device. */
export function lossNumber(loss: NativeLoss, device: Device): number {
  return friend.number(loss, nativeOf(device).library);
}

/** Throws unless natoms holds integers on the device of pred. */
export function checkNatoms(pred: Tensor, natoms: Tensor): void {
  checkTensor(natoms, "natoms");
  checkDevice(pred, natoms, "natoms");
  if (natoms.dtype !== "int32" && natoms.dtype !== "int64") {
    throw new DTypeError(
      `natoms has dtype ${natoms.dtype}, expected int32 or int64`,
    );
  }
}
