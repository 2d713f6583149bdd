/** Losses that users write, compiled into the fused pass. */
import { ArgumentError } from "../errors.ts";
import { checkUserLoss } from "../ffi/build.ts";
import { Library } from "../ffi/library.ts";
import { definedLossHeader, type LossSource } from "../ffi/loss_source.ts";
import { NativeLoss } from "./native_loss.ts";
import { hasLoss, registerLoss } from "./registry.ts";
import { huber, logCosh, smoothL1 } from "./shipped_losses.ts";

/** A loss as {@linkcode defineLoss} takes it: two expressions of C++. */
export interface LossDefinition {
  /**
   * What it has a value for. Default: `"element"`, any shape. `"row"`: the rows
   * of `[N, D]`, D > 1, by the Euclidean norm of their error.
   */
  kind?: "element" | "row";
  /**
   * The value. Of an element: an expression in `p` (prediction), `t` (target),
   * `d` = p − t, `n` (atoms of its row, with `natoms`) and the parameters. Of a
   * row: in `s` = the sum of the squares of p − t, `r` = sqrt(s) and the
   * parameters. Their type is `T`, float or double: write constants as
   * `T(0.5)`. There are abs, cosh, exp, expm1, log, log1p, max, min, pow, sign,
   * sinh, sqrt and tanh.
   */
  value: string;
  /**
   * The derivative with respect to `p`, in the same names. Of a row: the number
   * that multiplies p − t in the gradient.
   */
  grad: string;
  /** Constants by name. */
  parameters?: Readonly<Record<string, number>>;
  /** Whether it reads natoms, one number per row. Default: false. */
  natoms?: boolean;
}

const NAME = /^[a-z][a-z0-9_]*$/;
/** Names that have a meaning in the expressions. */
const RESERVED = new Set(["p", "t", "d", "n", "s", "r", "T"]);

/** Definitions wait for each other: their order is that of their numbers. */
let last: Promise<unknown> = Promise.resolve();

/**
 * Makes a loss from one line of C++ each for value and gradient, compiled with
 * the kernels into the fused pass of every device, and usable by name wherever
 * the built-in ones are: on a GPU without extra launches, with masks, in
 * {@linkcode MultiTaskLoss}.
 *
 * The text is checked at once. It is compiled for the devices that are open,
 * and for others when they are opened: define losses before `Device.open` to
 * compile them once. The result is kept in the user's cache directory.
 * {@linkcode checkGradient} compares `grad` with differences of `value`.
 *
 * @param name Lower-case letters, digits and `_`; not taken.
 * @param definition Its expressions and parameters.
 * @returns The loss.
 * @throws {ArgumentError} if the name is taken, or a name or number is not allowed.
 * @throws {LossDefinitionError} if the text does not compile: the compiler's
 * message, with the line. What only nvcc refuses, a function that there is on the
 * host alone, is told when it is compiled for a GPU.
 * @throws {BuildError} if there is no compiler.
 *
 * @example
 * ```ts
 * import { checkGradient, DDPLoss, defineLoss, Device } from "@atomloss/atomloss";
 *
 * await defineLoss("charbonnier", {
 *   value: "sqrt(d * d + eps * eps)",
 *   grad: "d / sqrt(d * d + eps * eps)",
 *   parameters: { eps: 4 },
 * });
 * using device = await Device.open("cpu");
 * await checkGradient("charbonnier", device);
 * using pred = device.tensor(new Float32Array([3, 0]));
 * using target = device.zeros([2]);
 * using value = new DDPLoss("charbonnier").forward(pred, target);
 * console.log(await value.item()); // 4.5
 * ```
 */
export function defineLoss(
  name: string,
  definition: LossDefinition,
): Promise<NativeLoss> {
  const result = last.then(() => define(name, definition));
  last = result.catch(() => {});
  return result;
}

async function define(
  name: string,
  definition: LossDefinition,
): Promise<NativeLoss> {
  const source = lossSource(name, definition);
  if (hasLoss(name)) {
    throw new ArgumentError(`a loss '${name}' is there already`);
  }
  await checkUserLoss(source);
  await Library.defineLoss(source);
  registerDefined(source);
  return lossOf(source);
}

function lossOf({ name, kind, natoms }: LossSource): NativeLoss {
  return new NativeLoss(name, kind, natoms);
}

function registerDefined(source: LossSource): void {
  registerLoss(source.name, () => lossOf(source));
}

/** The definition as the compiler gets it. Throws for what is not allowed. */
function lossSource(
  name: string,
  { kind = "element", value, grad, parameters = {}, natoms = false }:
    LossDefinition,
): LossSource {
  const fail = (message: string): never => {
    throw new ArgumentError(`loss '${name}': ${message}`);
  };
  if (!NAME.test(name)) {
    fail("expected a name of lower-case letters, digits and _");
  }
  if (kind !== "element" && kind !== "row") {
    fail(`kind is '${kind}', expected element or row`);
  }
  if (kind === "row" && natoms) fail("a loss per row does not read natoms");
  for (const [part, text] of Object.entries({ value, grad })) {
    if (typeof text !== "string" || text.trim() === "") {
      fail(`${part} must be an expression of C++`);
    }
    // A # at the start of a line, or a comment that goes on, would escape.
    if (/^\s*#|\/\*|\\$/m.test(text)) {
      fail(`${part} must be an expression, without comments or directives`);
    }
  }
  for (const [parameter, number] of Object.entries(parameters)) {
    if (!/^[A-Za-z]\w*$/.test(parameter) || RESERVED.has(parameter)) {
      fail(
        `'${parameter}' cannot name a parameter: expected letters, digits and _, and none of ${
          [...RESERVED].join(", ")
        }`,
      );
    }
    if (!Number.isFinite(number)) {
      fail(`parameter ${parameter} is ${number}, expected a finite number`);
    }
  }
  return { name, kind, natoms, value, grad, parameters };
}

/** The losses of kernels/defined_losses.h: through the same door, compiled beforehand. */
const shipped: readonly LossSource[] = [
  lossSource("huber", huber),
  lossSource("smooth_l1", smoothL1),
  lossSource("log_cosh", logCosh),
];
shipped.forEach(registerDefined);

/** The text of kernels/defined_losses.h. `deno run -A loss/define_loss.ts` writes it. */
export function shippedHeader(): string {
  return definedLossHeader(shipped);
}

if (import.meta.main) {
  const file = new URL("../kernels/defined_losses.h", import.meta.url);
  await Deno.writeTextFile(file, shippedHeader());
}
