/** Gradient clipping by the norm of all gradients, which stays on the device. */
import { ArgumentError, NonFiniteGradientError } from "../errors.ts";
import { nativeOf } from "./device.ts";
import { ParameterList } from "./parameter_list.ts";
import {
  addressOf,
  checkTraced,
  onResult,
  pointerOf,
  type Remarks,
  resultTensor,
  type Tensor,
} from "./tensor.ts";

/** How gradients are clipped. */
export interface ClipOptions {
  /**
   * The p of the norm: 2 is the Euclidean one, `Infinity` the largest absolute
   * value. Default: 2.
   */
  normType?: number;
  /**
   * Whether a norm that is NaN or infinite is an error. Nothing waits for it: the
   * device then leaves everything as it was, and reading the norm throws. Default:
   * false, as in torch: a NaN goes into all gradients.
   */
  errorIfNonfinite?: boolean;
}

/** Options of {@linkcode clipGradNorm}. */
export interface ClipGradNormOptions extends ClipOptions {
  /** Where to put the norm: a float64 scalar. Default: a new tensor. */
  out?: Tensor;
}

/** al_clip of kernels/atomloss.h: where its members are, in units of their size. */
const CLIP_BYTES = 24;
const NORM_WORD = 0;
const MAX_NORM_DOUBLE = 1;
const SKIP_INT = 4;

/** What a native call reads to clip by a norm that is still being computed. */
export class GradientClip {
  /** The norm before clipping: a float64 scalar. */
  readonly norm: Tensor;
  readonly #bytes = new Uint8Array(CLIP_BYTES);
  readonly #words = new BigUint64Array(this.#bytes.buffer);
  readonly #doubles = new Float64Array(this.#bytes.buffer);
  readonly #ints = new Int32Array(this.#bytes.buffer);

  constructor(norm: Tensor) {
    this.norm = norm;
  }

  /**
   * Enqueues the norm of gradients.
   *
   * @param list Whose gradients they are.
   * @param table That of the list with them.
   * @returns The al_clip for the call that uses them.
   */
  measure(
    list: ParameterList,
    grads: readonly Tensor[],
    table: BigUint64Array<ArrayBuffer>,
    maxNorm: number,
    { normType = 2, errorIfNonfinite = false }: ClipOptions,
  ): Uint8Array<ArrayBuffer> {
    if (!(maxNorm >= 0)) {
      throw new ArgumentError(`maxNorm is ${maxNorm}, expected a number >= 0`);
    }
    if (!(normType > 0)) {
      throw new ArgumentError(
        `normType is ${normType}, expected a number > 0, or Infinity`,
      );
    }
    this.#words[NORM_WORD] = addressOf(this.norm);
    this.#doubles[MAX_NORM_DOUBLE] = maxNorm;
    this.#ints[SKIP_INT] = Number(errorIfNonfinite);
    const { library, handle } = nativeOf(list.device);
    checkTraced(
      list.device,
      library.symbols.al_grad_norm(
        handle,
        list.count,
        table,
        normType,
        pointerOf(this.norm),
      ),
      () => ({ reads: grads, writes: [this.norm] }),
    );
    onResult(this.norm, errorIfNonfinite ? throwIfNonFinite : ignore);
    return this.#bytes;
  }
}

function throwIfNonFinite({ inputs }: Remarks): void {
  if (inputs === 0) return;
  throw new NonFiniteGradientError(
    "the total norm of the gradients is NaN or infinite, expected a finite " +
      "number: nothing was changed by the call that computed it",
  );
}

function ignore(): void {}

/**
 * Scales gradients, in place, so that the norm of all of them together is at most
 * `maxNorm`: what torch.nn.utils.clip_grad_norm_ does, in two launches for any
 * number of gradients. Nothing waits for the device. `adam.step(grads, { maxNorm })`
 * clips on the way instead and writes no gradients.
 *
 * With replicas call it behind `group.averageGradients(grads)`: then all of them
 * have the same norm, to the bit. The norm is summed in float64, in an order that
 * depends on the sizes alone.
 *
 * @param grads Tensors of floating dtypes on one device, of any shapes.
 * @param maxNorm At least 0; `Infinity` to have the norm only.
 * @returns The norm before clipping, a float64 scalar to be read when it is
 * wanted, and to be disposed: `out` if given.
 * @throws {ArgumentError} if there are no gradients, two share memory, one is
 * read-only, or a number is out of range.
 * @throws {DTypeError | DeviceError | DisposedError} if a gradient does not fit.
 *
 * Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
 *
 * @example
 * ```ts
 * import { clipGradNorm, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using a = device.tensor(new Float64Array([3, 0]));
 * using b = device.tensor(new Float64Array([4]));
 * using norm = clipGradNorm([a, b], 1);
 * console.log(await norm.item()); // 5
 * console.log(await b.toList()); // [ 0.8 ] to 1e-6
 * ```
 */
export function clipGradNorm(
  grads: readonly Tensor[],
  maxNorm: number,
  options: ClipGradNormOptions = {},
): Tensor {
  const list = new ParameterList(grads, "gradient");
  const table = list.tableWith(grads);
  const norm = resultTensor(list.device, "float64", options.out, grads);
  try {
    const clip = new GradientClip(norm)
      .measure(list, grads, table, maxNorm, options);
    const { library, handle } = nativeOf(list.device);
    checkTraced(
      list.device,
      library.symbols.al_clip_grads(handle, list.count, table, clip),
      () => ({ reads: [...grads, norm], writes: grads }),
    );
  } catch (error) {
    if (norm !== options.out) norm.dispose();
    throw error;
  }
  return norm;
}
