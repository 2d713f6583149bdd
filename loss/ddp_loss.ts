/** A loss over all replicas, exact although they hold different numbers of atoms. */
import {
  ArgumentError,
  DeviceError,
  UnknownReductionError,
} from "../errors.ts";
import {
  countAllReduce,
  type ProcessGroup,
} from "../distributed/process_group.ts";
import { type Device, nativeOf } from "../tensor/device.ts";
import { type DType, dtypeCode } from "../tensor/dtype.ts";
import { shapeSize } from "../tensor/shape.ts";
import {
  checkTensor,
  type NonFiniteListener,
  onNonFinite,
  outputTensor,
  Tensor,
} from "../tensor/tensor.ts";
import "./losses.ts";
import type { Loss, OutOptions } from "./loss.ts";
import { checkPair, NativeLoss, prepareInput } from "./native_loss.ts";
import { lossNamed } from "./registry.ts";

/** How the entries of an unreduced loss become one number. */
export type Reduction = "mean" | "sum";

/** Options of {@linkcode DDPLoss}. */
export interface DDPLossOptions {
  /** The replicas to take the mean over. Default: this process alone. */
  group?: ProcessGroup;
  /**
   * Called with the number of NaN and infinite entries of the input when a
   * value is read whose input had any. Default: a warning on the console.
   */
  onNonFinite?: NonFiniteListener;
}

/** A loss and its gradient. Disposing it disposes both. */
export interface ValueAndGrad extends Disposable {
  /** The reduced loss, a scalar: float64 for float64 inputs, otherwise float32. */
  readonly value: Tensor;
  /** Its gradient with respect to the input: a tensor like the input. */
  readonly grad: Tensor;
}

/** The factor of a reduction: scale, or scale / *normalizer if there is one. */
interface Factor {
  readonly scale: number;
  readonly normalizer: Deno.PointerValue;
}

/** A value has room to grow that half-precision numbers do not have. */
function valueDType(input: DType): DType {
  return input === "float64" ? "float64" : "float32";
}

/** Bytes of the count of non-finite entries behind a value. */
const COUNT_OFFSET = 8;
const COUNT_BYTES = 8n;

/**
 * A loss reduced over this replica and normalised over all of them, as
 * fairchem's `DDPLoss`.
 *
 * With reduction `"mean"` the value is the sum over this replica, times the
 * number of replicas, divided by the number of entries on all replicas (by a
 * real all-reduce). When data-parallel training averages gradients over the
 * replicas it then gets those of the one true mean, although replicas hold
 * different numbers of atoms, or none. With `"sum"` it is the sum over this
 * replica.
 *
 * NaN in the input counts as 0 and an infinity as the largest finite number;
 * the gradient there is 0, and a warning comes with the value when it is read.
 * Sums accumulate in float64. Every replica must make the same calls, in the
 * same order.
 *
 * Reference: fairchem.core.modules.loss.DDPLoss.
 *
 * @example
 * ```ts
 * import { DDPLoss, Device, ProcessGroup } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using group = await ProcessGroup.init({ device });
 * const loss = new DDPLoss("l2norm", "mean", { group });
 * using forces = device.tensor(new Float32Array([3, 4, 0, 0, 0, 1]), [2, 3]);
 * using target = device.zeros([2, 3]);
 * using result = loss.valueAndGrad(forces, target);
 * console.log(await result.value.item()); // 3
 * ```
 */
export class DDPLoss {
  /** The loss without reduction. */
  readonly lossFn: Loss;
  /** Name of the reduction in use. */
  readonly reduction: Reduction;
  /** The reductions by name. */
  readonly reductionMap: Readonly<
    Record<
      Reduction,
      (input: Tensor, loss: Tensor, natoms?: Tensor | null) => Tensor
    >
  >;
  readonly #group: ProcessGroup | undefined;
  readonly #onNonFinite: NonFiniteListener;

  /**
   * A loss with its reduction.
   *
   * @param loss Name of a registered loss (`"mae"`, `"mse"`, `"per_atom_mae"`,
   * `"l2norm"` or its alias `"l2mae"`), or a loss object.
   * @param reduction `"mean"` or `"sum"`.
   * @param options The process group, and who is told of non-finite inputs.
   * @throws {UnknownLossError} if no loss has this name.
   * @throws {UnknownReductionError} if there is no such reduction.
   */
  constructor(
    loss: string | Loss,
    reduction: Reduction = "mean",
    options: DDPLossOptions = {},
  ) {
    this.lossFn = typeof loss === "string" ? lossNamed(loss) : loss;
    if (typeof this.lossFn?.forward !== "function") {
      throw new ArgumentError("loss must be a name or a Loss object");
    }
    this.reductionMap = {
      mean: (input, loss, natoms) => this.mean(input, loss, natoms),
      sum: (input, loss, natoms) => this.sum(input, loss, natoms),
    };
    if (!Object.hasOwn(this.reductionMap, reduction)) {
      throw new UnknownReductionError(
        `reduction '${reduction}' is unknown: expected one of ${
          Object.keys(this.reductionMap).join(", ")
        }`,
      );
    }
    this.reduction = reduction;
    this.#group = options.group;
    this.#onNonFinite = options.onNonFinite ??
      ((count) =>
        console.warn(
          `atomloss: Found nans or infs while computing loss: ${count} entries of the input of ` +
            `DDPLoss("${this.lossFn.name}") counted as 0 or as the largest finite number, without gradient`,
        ));
  }

  /**
   * The reduced loss. Enqueued on the device; does not wait for it.
   *
   * @param input Predictions; float32, float64, float16 or bfloat16.
   * @param target References; shape, dtype and device of `input`.
   * @param natoms Atoms per structure, int32 or int64, for losses that use it.
   * @param options `out`: a scalar to write to, of the value's dtype.
   * @returns Scalar: float64 for float64 inputs, otherwise float32.
   * @throws {ShapeError} if the shapes differ (there is no broadcasting) or the loss does not take them.
   * @throws {DTypeError} if the dtypes differ or are not floating.
   * @throws {DeviceError} if a tensor is not on the device of the others, or of the group.
   * @throws {DisposedError} if a tensor or the group was disposed.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  forward(
    input: Tensor,
    target: Tensor,
    natoms: Tensor | null = null,
    options: OutOptions = {},
  ): Tensor {
    this.#checkInput(input, target);
    const value = this.#outValue(input, options.out);
    if (this.lossFn instanceof NativeLoss) {
      this.#reduceFused(this.lossFn, input, target, natoms, value, null);
    } else {
      this.#reduceComposed(input, target, natoms, value, null);
    }
    return value;
  }

  /**
   * The reduced loss and its gradient, in one pass over the input. Enqueued on
   * the device; does not wait for it.
   *
   * @param input Predictions, as for `forward`.
   * @param target References, as for `forward`.
   * @param natoms Atoms per structure, as for `forward`.
   * @param options `out`: what a former call with the same shapes returned, to
   * be written again.
   * @returns The value and its gradient with respect to `input`.
   * @throws What `forward` throws.
   */
  valueAndGrad(
    input: Tensor,
    target: Tensor,
    natoms: Tensor | null = null,
    options: { out?: { value: Tensor; grad: Tensor } } = {},
  ): ValueAndGrad {
    this.#checkInput(input, target);
    const { out } = options;
    const grad = outputTensor(
      input.device,
      input.shape,
      input.dtype,
      out?.grad,
      [input, target],
    );
    const value = this.#outValue(input, out?.value);
    if (this.lossFn instanceof NativeLoss) {
      this.#reduceFused(this.lossFn, input, target, natoms, value, grad);
    } else {
      this.#reduceComposed(input, target, natoms, value, grad);
    }
    return {
      value,
      grad,
      [Symbol.dispose](): void {
        value.dispose();
        grad.dispose();
      },
    };
  }

  /**
   * Sum of an unreduced loss over this replica.
   *
   * @param _input Not used; there for the reference's signature.
   * @param loss The unreduced loss, of a floating dtype.
   * @returns Scalar: float64 for a float64 loss, otherwise float32.
   */
  sum(_input: Tensor, loss: Tensor, _natoms?: Tensor | null): Tensor {
    return this.#sumEntries(loss, { scale: 1, normalizer: null });
  }

  /**
   * Sum of an unreduced loss over this replica, times the number of replicas,
   * divided by the number of entries on all replicas.
   *
   * @param _input Not used; there for the reference's signature.
   * @param loss The unreduced loss, of a floating dtype.
   * @returns Scalar: float64 for a float64 loss, otherwise float32.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  mean(_input: Tensor, loss: Tensor, _natoms?: Tensor | null): Tensor {
    checkTensor(loss, "loss");
    using normalizer = this.#normalizer("mean", loss.device, loss.size);
    return this.#sumEntries(loss, normalizer);
  }

  #checkInput(input: Tensor, target: Tensor): void {
    checkPair(input, target, ["input", "target"]);
    const group = this.#group;
    if (group !== undefined && group.device !== input.device) {
      throw new DeviceError(
        `input is on ${input.device.name}, expected the device of the process group, ${group.device.name}`,
      );
    }
  }

  #outValue(input: Tensor, out: Tensor | undefined): Tensor {
    const value = outputTensor(
      input.device,
      [],
      valueDType(input.dtype),
      out,
      [],
    );
    onNonFinite(value, this.#onNonFinite);
    return value;
  }

  /** The factor of a reduction over so many entries here; the collective happens in this call. */
  #normalizer(
    reduction: Reduction,
    device: Device,
    entries: number,
  ): Factor & Disposable {
    const group = this.#group;
    if (reduction === "sum") return noNormalizer(1);
    if (group === undefined || group.worldSize === 1) {
      return noNormalizer(1 / entries);
    }
    const total = Tensor.empty(device, [1], "float64");
    try {
      countAllReduce(
        group,
        new BigInt64Array([BigInt(entries)]),
        total.pointer,
      );
    } catch (error) {
      total.dispose();
      throw error;
    }
    return {
      scale: group.worldSize,
      normalizer: total.pointer,
      [Symbol.dispose]: (): void => total.dispose(),
    };
  }

  /** One pass of the native library. */
  #reduceFused(
    loss: NativeLoss,
    input: Tensor,
    target: Tensor,
    natoms: Tensor | null,
    value: Tensor,
    grad: Tensor | null,
  ): void {
    const { loss: number, natoms: atoms, rows, cols } = prepareInput(
      loss,
      input,
      natoms,
    );
    const entries = cols === 1 ? input.size : rows;
    const { library, handle } = nativeOf(input.device);
    using factor = this.#normalizer(this.reduction, input.device, entries);
    library.check(
      library.symbols.al_loss_reduce(
        handle,
        number,
        dtypeCode(input.dtype),
        input.pointer,
        target.pointer,
        atoms === null ? null : atoms.pointer,
        atoms === null ? 0 : dtypeCode(atoms.dtype),
        BigInt(rows),
        BigInt(cols),
        factor.scale,
        factor.normalizer,
        value.pointer,
        grad === null ? null : grad.pointer,
      ),
    );
  }

  /** The same for a loss that is written elsewhere, from its own forward and backward. */
  #reduceComposed(
    input: Tensor,
    target: Tensor,
    natoms: Tensor | null,
    value: Tensor,
    grad: Tensor | null,
  ): void {
    const { device, dtype } = input;
    const { library, handle } = nativeOf(device);
    const { symbols } = library;
    const code = dtypeCode(dtype);
    const size = BigInt(input.size);
    const entries = shapeSize(this.lossFn.outputShape(input.shape));
    using factor = this.#normalizer(this.reduction, device, entries);

    using finite = Tensor.empty(device, input.shape, dtype);
    using nonfinite = Tensor.empty(device, [1], "int64");
    library.check(
      symbols.al_nan_to_num(
        handle,
        code,
        input.pointer,
        size,
        finite.pointer,
        nonfinite.pointer,
      ),
    );
    using unreduced = this.lossFn.forward(finite, target, natoms);
    this.#sumInto(unreduced, factor, value);
    const count = Deno.UnsafePointer.offset(value.pointer, COUNT_OFFSET);
    library.check(
      symbols.al_copy(handle, count, nonfinite.pointer, COUNT_BYTES),
    );
    if (grad === null) return;

    using gradOutput = Tensor.empty(device, unreduced.shape, dtype);
    library.check(
      symbols.al_fill(
        handle,
        code,
        gradOutput.pointer,
        BigInt(gradOutput.size),
        factor.scale,
        factor.normalizer,
      ),
    );
    const written = this.lossFn.backward(finite, target, natoms, gradOutput, {
      out: grad,
    });
    if (written !== grad) {
      using other = written;
      grad.copy_(other);
    }
    library.check(
      symbols.al_zero_nonfinite(
        handle,
        code,
        input.pointer,
        size,
        grad.pointer,
      ),
    );
  }

  #sumEntries(loss: Tensor, factor: Factor): Tensor {
    checkTensor(loss, "loss");
    const value = Tensor.empty(loss.device, [], valueDType(loss.dtype));
    this.#sumInto(loss, factor, value);
    return value;
  }

  #sumInto(loss: Tensor, { scale, normalizer }: Factor, value: Tensor): void {
    const { library, handle } = nativeOf(loss.device);
    library.check(
      library.symbols.al_sum(
        handle,
        dtypeCode(loss.dtype),
        loss.pointer,
        BigInt(loss.size),
        scale,
        normalizer,
        value.pointer,
      ),
    );
  }
}

/** A factor that needs no collective, and nothing freed. */
function noNormalizer(scale: number): Factor & Disposable {
  return { scale, normalizer: null, [Symbol.dispose](): void {} };
}
