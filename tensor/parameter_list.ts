/** The parameters of an optimiser with what it keeps of each, as the native library takes them. */
import { ArgumentError, DTypeError } from "../errors.ts";
import type { Device } from "./device.ts";
import { dtypeCode, isFloating } from "./dtype.ts";
import {
  addressOf,
  checkDevice,
  checkLike,
  checkTensor,
  Tensor,
} from "./tensor.ts";

/** al_parameter of kernels/atomloss.h, and where its members are, in words of 8 bytes. */
const WORDS = 7;
const PARAM = 0;
const GRAD = 1;
const STATES = 2;
const SIZE = 5;
const DTYPE = 6;

/** Throws if two of the tensors share a part of their memory. */
export function checkDistinct(tensors: readonly Tensor[], what: string): void {
  const ranges = tensors
    .map((tensor, index) => ({ tensor, index, begin: addressOf(tensor) }))
    .filter(({ tensor }) => tensor.size > 0)
    .sort((a, b) => a.begin < b.begin ? -1 : a.begin > b.begin ? 1 : 0);
  for (let i = 1; i < ranges.length; i++) {
    const { tensor, index, begin } = ranges[i - 1]!;
    const next = ranges[i]!;
    if (begin + BigInt(tensor.byteLength) <= next.begin) continue;
    const [first, second] = [index, next.index].sort((a, b) => a - b);
    throw new ArgumentError(
      `${what} ${second} is in the memory of ${what} ${first}, expected each ${what} once`,
    );
  }
}

/** Tensors that are stepped together, and their states. */
export class ParameterList {
  readonly #params: readonly Tensor[];
  readonly #states: Tensor[][] = [];
  /** An al_parameter for each; its addresses do not change while they live. */
  readonly #table: BigUint64Array<ArrayBuffer>;

  constructor(params: readonly Tensor[]) {
    if (params.length === 0) {
      throw new ArgumentError("there are no parameters, expected at least one");
    }
    params.forEach((param, i) => {
      checkTensor(param, `parameter ${i}`);
      checkDevice(params[0]!, param, `parameter ${i}`);
      if (!isFloating(param.dtype)) {
        throw new DTypeError(
          `parameter ${i} has dtype ${param.dtype}, expected a floating dtype`,
        );
      }
    });
    checkDistinct(params, "parameter");
    this.#params = [...params];
    this.#table = new BigUint64Array(WORDS * params.length);
    this.#params.forEach((param, i) => {
      const at = WORDS * i;
      this.#table[at + PARAM] = addressOf(param);
      this.#table[at + SIZE] = BigInt(param.size);
      this.#table[at + DTYPE] = BigInt(dtypeCode(param.dtype));
    });
  }

  /** How many there are. */
  get size(): number {
    return this.#params.length;
  }

  /** Where they are. */
  get device(): Device {
    return this.#params[0]!.device;
  }

  /** The states of all parameters: the first of each, then the second. */
  get states(): readonly Tensor[] {
    return this.#states.flat();
  }

  /** Gives each parameter another state: zeros; float32 for half precision. */
  addState(): void {
    const offset = STATES + this.#states.length;
    this.#states.push(
      this.#params.map((param, i) => {
        const dtype = param.dtype === "float64" ? "float64" : "float32";
        const state = Tensor.zeros(param.device, param.shape, dtype);
        this.#table[WORDS * i + offset] = addressOf(state);
        return state;
      }),
    );
  }

  /**
   * The al_parameters for a step with these gradients. Throws, before anything
   * is changed, if one does not fit or something was disposed.
   */
  table(grads: readonly Tensor[]): BigUint64Array<ArrayBuffer> {
    if (grads.length !== this.#params.length) {
      throw new ArgumentError(
        `step needs ${this.#params.length} gradients, one per parameter, and got ${grads.length}`,
      );
    }
    for (let i = 0; i < grads.length; i++) {
      const param = this.#params[i]!;
      addressOf(param); // throws if it was disposed
      checkLike(param, grads[i]!, `gradient ${i}`);
      this.#table[WORDS * i + GRAD] = addressOf(grads[i]!);
    }
    for (const states of this.#states) states.forEach(addressOf);
    return this.#table;
  }
}
