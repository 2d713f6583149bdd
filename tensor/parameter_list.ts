/** The parameters of an optimiser with what it keeps of each, as the native library takes them. */
import { ArgumentError, DTypeError } from "../errors.ts";
import type { Device } from "./device.ts";
import { dtypeCode, isFloating } from "./dtype.ts";
import {
  addressOf,
  checkDevice,
  checkLike,
  checkTensor,
  checkWritable,
  Tensor,
} from "./tensor.ts";

/** al_parameter of kernels/atomloss.h: where its members are, in words of 8 bytes. */
const WORDS = 8;
const PARAM = 0;
const GRAD = 1;
const STATES = 2;
const MASTER = 5;
const SIZE = 6;
const DTYPE = 7;

/** Throws if two of the tensors share a part of their memory. */
function checkDistinct(tensors: readonly Tensor[], what: string): void {
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

/** Tensors that one native call changes, and what is kept of each between calls. */
export class ParameterList {
  readonly #params: readonly Tensor[];
  /** As many lists as an optimiser has states of a parameter. */
  readonly #states: Tensor[][] = [];
  readonly #masters: Tensor[] = [];
  /** An al_parameter for each. Addresses do not change while a tensor lives. */
  readonly #table: BigUint64Array<ArrayBuffer>;

  /**
   * @param params Of any floating dtypes, on one device.
   * @param what What to call them in messages.
   */
  constructor(params: readonly Tensor[], what = "parameter") {
    if (params.length === 0) {
      throw new ArgumentError(`there are no ${what}s, expected at least one`);
    }
    params.forEach((param, i) => {
      checkTensor(param, `${what} ${i}`);
      checkDevice(params[0]!, param, `${what} ${i}`);
      checkWritable(param, `${what} ${i}`);
      if (!isFloating(param.dtype)) {
        throw new DTypeError(
          `${what} ${i} has dtype ${param.dtype}, expected a floating dtype`,
        );
      }
    });
    checkDistinct(params, what);
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
  get count(): number {
    return this.#params.length;
  }

  /** Where they are. */
  get device(): Device {
    return this.#params[0]!.device;
  }

  /** The first state of each parameter, then the second; then the master weights. */
  get states(): readonly Tensor[] {
    return [...this.#states.flat(), ...this.#masters];
  }

  /** The parameters and what is kept of each: what a call reads and writes. */
  get tensors(): readonly Tensor[] {
    return [...this.#params, ...this.states];
  }

  /** Gives each parameter another state: zeros; float32 for half precision. */
  addState(): readonly Tensor[] {
    const offset = STATES + this.#states.length;
    const states = this.#params.map((param, i) => {
      const dtype = param.dtype === "float64" ? "float64" : "float32";
      const state = Tensor.zeros(param.device, param.shape, dtype);
      this.#table[WORDS * i + offset] = addressOf(state);
      return state;
    });
    this.#states.push(states);
    return states;
  }

  /** Frees the state that was added last. */
  dropState(): void {
    for (const state of this.#states.pop() ?? []) state.dispose();
  }

  /** Gives each parameter of half precision a master in float32. */
  addMasters(): void {
    this.#params.forEach((param, i) => {
      if (param.dtype !== "float16" && param.dtype !== "bfloat16") return;
      // A parameter that is not its master rounded is taken as it is: the zeros
      // become the parameters with the first step.
      const master = Tensor.zeros(param.device, param.shape, "float32");
      this.#table[WORDS * i + MASTER] = addressOf(master);
      this.#masters.push(master);
    });
  }

  /**
   * The al_parameters of a call. Throws, before anything is changed, if something
   * was disposed.
   */
  table(): BigUint64Array<ArrayBuffer> {
    for (let i = 0; i < this.#params.length; i++) addressOf(this.#params[i]!);
    for (const states of this.#states) {
      for (let i = 0; i < states.length; i++) addressOf(states[i]!);
    }
    for (let i = 0; i < this.#masters.length; i++) addressOf(this.#masters[i]!);
    return this.#table;
  }

  /** The same for a call that uses gradients: one like each parameter. */
  tableWith(grads: readonly Tensor[]): BigUint64Array<ArrayBuffer> {
    if (grads.length !== this.#params.length) {
      throw new ArgumentError(
        `there are ${this.#params.length} parameters and ${grads.length} gradients, expected as many`,
      );
    }
    const table = this.table();
    for (let i = 0; i < grads.length; i++) {
      checkLike(this.#params[i]!, grads[i]!, `gradient ${i}`);
      table[WORDS * i + GRAD] = addressOf(grads[i]!);
    }
    return table;
  }

  /** Frees the states and masters; the parameters stay. */
  dispose(): void {
    for (const state of this.states) state.dispose();
  }
}
