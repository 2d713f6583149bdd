/** A loss over all replicas, exact although they hold different numbers of atoms. */
import { DeviceError, DTypeError } from "../errors.ts";
import type { ProcessGroup } from "../distributed/process_group.ts";
import { nativeOf } from "../tensor/device.ts";
import { dtypeCode, isFloating } from "../tensor/dtype.ts";
import { shapeSize } from "../tensor/shape.ts";
import {
  checkTensor,
  checkTraced,
  INPUTS_OFFSET,
  onResult,
  pointerOf,
  type ResultListener,
  Tensor,
} from "../tensor/tensor.ts";
import { Divisors } from "./divisors.ts";
import type { Loss } from "./loss.ts";
import {
  checkPair,
  NativeLoss,
  parametersOf,
  prepareInput,
} from "./native_loss.ts";
import { ParameterList, type Parameters } from "./parameters.ts";
import {
  checkSamples,
  type Factor,
  factorsOf,
  type Normalizer,
  normalizerOf,
} from "./normalizer.ts";
import {
  checkReduction,
  type DDPLossCallOptions,
  lossOf,
  type LossOutputs,
  type ReducedLossOptions,
  type ValueAndGrad,
  valueAndGrad,
  valueDType,
  valueOnly,
} from "./reduction.ts";
import { remarksOn } from "./remarks.ts";
import { TaskTable } from "./task_table.ts";

/** How the entries of an unreduced loss become one number. */
export type Reduction = "mean" | "sum";

/** Options of {@linkcode DDPLoss}. */
export interface DDPLossOptions extends ReducedLossOptions {
  /** Numbers in place of those of the loss's definition. The same on all replicas. */
  parameters?: Parameters;
}

/** Of what is not divided. */
const NO_FACTOR: Factor = { scale: 1, factors: 0n, totals: null };

/** Divided by their number over all replicas, whatever that is. */
const DIVISORS = new Divisors([{ groupWeights: null, ofWeights: false }], 0);

/** Of a loss that is written elsewhere. */
const NO_PARAMETERS = new ParameterList("");

/** What becomes of targets that are not finite. */
const IN_THE_VALUE =
  "are in the value: DDPMTLoss and MultiTaskLoss have ignoreNaN for labels that are missing";

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
  readonly #remarks: ResultListener;
  readonly #parameters: Float64Array<ArrayBuffer>;
  readonly #table = new TaskTable(1);

  /**
   * A loss with its reduction.
   *
   * @param loss Name of a registered loss (`"mae"`, `"mse"`, `"per_atom_mae"`,
   * `"l2norm"` or its alias `"l2mae"`, …), or a loss object.
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
    this.lossFn = lossOf(loss);
    this.reductionMap = {
      mean: (input, loss, natoms) => this.mean(input, loss, natoms),
      sum: (input, loss, natoms) => this.sum(input, loss, natoms),
    };
    checkReduction(reduction, Object.keys(this.reductionMap));
    this.reduction = reduction;
    this.#group = options.group;
    this.#parameters = this.#over(
      this.lossFn instanceof NativeLoss
        ? parametersOf(this.lossFn).defaults
        : NO_PARAMETERS.defaults,
      options.parameters,
    );
    this.#remarks = remarksOn(
      `DDPLoss("${this.lossFn.name}")`,
      IN_THE_VALUE,
      options.onNonFinite,
    );
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
   * @throws {ArgumentError} if the normalizer was made by another loss, or for fewer samples.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  forward(
    input: Tensor,
    target: Tensor,
    natoms: Tensor | null = null,
    options: DDPLossCallOptions<Tensor> = {},
  ): Tensor {
    this.#checkInput(input, target);
    const { out } = options;
    return this.#reduce(
      input,
      target,
      natoms,
      options,
      () => valueOnly(input, target, out),
    ).value;
  }

  /**
   * The reduced loss and its gradient, in one pass over the input. Enqueued on
   * the device; does not wait for it.
   *
   * @param input Predictions, as for `forward`.
   * @param target References, as for `forward`.
   * @param natoms Atoms per structure, as for `forward`.
   * @param options `out`: what a former call with the same shapes returned, to
   * be written again. `normalizer`: the samples of the whole step.
   * @returns The value and its gradient with respect to `input`.
   * @throws What `forward` throws.
   */
  valueAndGrad(
    input: Tensor,
    target: Tensor,
    natoms: Tensor | null = null,
    options: DDPLossCallOptions<{ value: Tensor; grad: Tensor }> = {},
  ): ValueAndGrad {
    this.#checkInput(input, target);
    const { out } = options;
    return this.#reduce(
      input,
      target,
      natoms,
      options,
      () => valueAndGrad(input, target, out),
    );
  }

  /**
   * Starts the collective of a step's sample counts, before its predictions are
   * there; see {@linkcode Normalizer}.
   *
   * @param samples Entries of the unreduced loss on this replica, over all
   * micro-batches of the step: elements for `"mae"`, rows for `"l2norm"`.
   * @returns To be passed to every call of the step, then disposed.
   * @throws {ArgumentError} if samples is not an integer >= 0.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  normalizer(samples: number): Normalizer {
    checkSamples(samples, "samples");
    return normalizerOf(this.#group, [samples], DIVISORS, this);
  }

  /**
   * Sum of an unreduced loss over this replica.
   *
   * @param _input Not used; there for the reference's signature.
   * @param loss The unreduced loss, of a floating dtype.
   * @returns Scalar: float64 for a float64 loss, otherwise float32.
   */
  sum(_input: Tensor, loss: Tensor, _natoms?: Tensor | null): Tensor {
    return this.#sumEntries(loss, NO_FACTOR);
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
    const entries = loss.size;
    using normalizer = normalizerOf(this.#group, [entries], DIVISORS, this);
    const factor = factorsOf(normalizer, loss.device, this)(0, entries, "");
    return this.#sumEntries(loss, factor);
  }

  /** Numbers of the loss's parameters in place of others. */
  #over(
    values: Float64Array<ArrayBuffer>,
    given: Parameters | undefined,
  ): Float64Array<ArrayBuffer> {
    const { lossFn } = this;
    const list = lossFn instanceof NativeLoss
      ? parametersOf(lossFn)
      : NO_PARAMETERS;
    return list.over(values, given, lossFn.name);
  }

  #checkInput(input: Tensor, target: Tensor): void {
    checkPair(input, target, "input", "target");
    const group = this.#group;
    if (group !== undefined && group.device !== input.device) {
      throw new DeviceError(
        `input is on ${input.device.name}, expected the device of the process group, ${group.device.name}`,
      );
    }
  }

  /**
   * Writes value and, if it is not null, gradient. `outputs` makes them once the
   * arguments are known to fit: what throws before has taken no memory.
   */
  #reduce<T extends LossOutputs>(
    input: Tensor,
    target: Tensor,
    natoms: Tensor | null,
    { normalizer: given, parameters: now }: DDPLossCallOptions<unknown>,
    outputs: () => T,
  ): T {
    const parameters = this.#over(this.#parameters, now);
    const native = this.lossFn instanceof NativeLoss
      ? prepareInput(this.lossFn, input, natoms)
      : undefined;
    const entries = native?.entries ??
      shapeSize(this.lossFn.outputShape(input.shape));
    const mean = this.reduction === "mean";
    // The collective of a mean whose samples were not given happens here.
    const own = mean && given === undefined
      ? normalizerOf(this.#group, [entries], DIVISORS, this)
      : undefined;
    const normalizer = given ?? own;
    try { // `using` would take a fifth of the call
      const factor = mean && normalizer !== undefined
        ? factorsOf(normalizer, input.device, this)(0, entries, "")
        : NO_FACTOR;
      const written = outputs();
      const { value, grad } = written;
      if (native === undefined) {
        this.#reduceComposed(input, target, natoms, factor, value, grad);
      } else {
        this.#table.setInput(0, native, input, target, "asTheyAre");
        this.#table.setParameters(0, parameters);
        this.#table.setOutput(0, value, grad);
        this.#table.setFactor(0, factor.scale, factor.factors);
        this.#table.reduce(input.device, null, () => ({
          reads: [input, target, native.natoms, factor.totals],
          writes: [value, grad],
        }));
      }
      onResult(value, this.#remarks);
      return written;
    } finally {
      own?.dispose();
    }
  }

  /** The same for a loss that is written elsewhere, from its own forward and backward. */
  #reduceComposed(
    input: Tensor,
    target: Tensor,
    natoms: Tensor | null,
    factor: Factor,
    value: Tensor,
    grad: Tensor | null,
  ): void {
    const { device, dtype } = input;
    const { library, handle } = nativeOf(device);
    const { symbols } = library;
    const code = dtypeCode(dtype);
    const size = BigInt(input.size);

    using finite = Tensor.empty(device, input.shape, dtype);
    using finiteTarget = Tensor.empty(device, input.shape, dtype);
    using nonfinite = Tensor.empty(device, [2], "int64");
    for (
      const [i, x, to] of [[0, input, finite], [
        1,
        target,
        finiteTarget,
      ]] as const
    ) {
      const count = Deno.UnsafePointer.offset(pointerOf(nonfinite), 8 * i);
      checkTraced(
        device,
        symbols.al_nan_to_num(
          handle,
          code,
          pointerOf(x),
          size,
          pointerOf(to),
          count,
        ),
        () => ({ reads: [x, nonfinite], writes: [to, nonfinite] }),
      );
    }
    using unreduced = this.lossFn.forward(finite, target, natoms);
    this.#sumInto(unreduced, factor, value);
    // Of the input, then of the target.
    const counts = Deno.UnsafePointer.offset(pointerOf(value), INPUTS_OFFSET);
    checkTraced(
      device,
      symbols.al_copy(
        handle,
        counts,
        pointerOf(nonfinite),
        BigInt(nonfinite.byteLength),
      ),
      () => ({ reads: [value, nonfinite], writes: [value] }),
    );
    if (grad === null) return;

    using gradOutput = Tensor.empty(device, unreduced.shape, dtype);
    checkTraced(
      device,
      symbols.al_fill(
        handle,
        code,
        pointerOf(gradOutput),
        BigInt(gradOutput.size),
        factor.scale,
        Deno.UnsafePointer.create(factor.factors),
      ),
      () => ({ reads: [factor.totals], writes: [gradOutput] }),
    );
    const written = this.lossFn.backward(finite, target, natoms, gradOutput, {
      out: grad,
    });
    if (written !== grad) {
      using other = written;
      grad.copy_(other);
    }
    checkTraced(
      device,
      symbols.al_zero_nonfinite(
        handle,
        code,
        pointerOf(input),
        size,
        pointerOf(grad),
      ),
      () => ({ reads: [input, grad], writes: [grad] }),
    );
  }

  #sumEntries(loss: Tensor, factor: Factor): Tensor {
    checkTensor(loss, "loss");
    if (!isFloating(loss.dtype)) {
      throw new DTypeError(
        `loss has dtype ${loss.dtype}, expected a floating one`,
      );
    }
    const value = Tensor.empty(loss.device, [], valueDType(loss.dtype));
    this.#sumInto(loss, factor, value);
    return value;
  }

  #sumInto(
    loss: Tensor,
    { scale, factors, totals }: Factor,
    value: Tensor,
  ): void {
    const { library, handle } = nativeOf(loss.device);
    checkTraced(
      loss.device,
      library.symbols.al_sum(
        handle,
        dtypeCode(loss.dtype),
        pointerOf(loss),
        BigInt(loss.size),
        scale,
        Deno.UnsafePointer.create(factors),
        pointerOf(value),
      ),
      () => ({ reads: [loss, totals], writes: [value] }),
    );
  }
}
