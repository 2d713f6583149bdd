/** Losses that users write, compiled into the fused pass. */
import { ArgumentError } from "../errors.ts";
import { checkUserLoss } from "../ffi/build.ts";
import { Library } from "../ffi/library.ts";
import { definedLossHeader, type LossSource } from "../ffi/loss_source.ts";
import { declareLoss, NativeLoss } from "./native_loss.ts";
import { type Bound, ParameterList, type Parameters } from "./parameters.ts";
import { hasLoss, registerLoss } from "./registry.ts";
import { huber, logCosh, smoothL1 } from "./shipped_losses.ts";

/** What the expressions of every {@linkcode LossDefinition} may use. */
export interface LossParameters {
  /**
   * Numbers by the names that the expressions have for them, at most 16: a task
   * or a call may give others (`parameters`), and these are what they are
   * otherwise. Nothing is compiled for other numbers.
   */
  parameters?: Parameters;
  /**
   * Where a parameter may be: `{ delta: "> 0" }`, or several bounds. Others,
   * given now or later, are an `ArgumentError`. Default: any finite number.
   */
  domains?: Readonly<Record<string, Bound | readonly Bound[]>>;
}

/** A loss of every element, in inputs of any shape. */
export interface ElementDefinition extends LossParameters {
  /** A loss of elements is what is meant where no kind is given. */
  kind?: "element";
  /**
   * The value: an expression in `p` (prediction), `t` (target), `d` = p − t, `n`
   * (atoms of its row, with `natoms`) and the parameters. What is of the
   * difference should say `d` alone: a task's `scale` then loses no digits.
   */
  value: string;
  /** The derivative with respect to `p`, in the same names. */
  grad: string;
  /** Whether it reads natoms, one number per row. Default: false. */
  natoms?: boolean;
}

/** A loss of the rows of `[N, D]`, D > 1, by the length of their error. */
export interface RowDefinition extends LossParameters {
  /** Each row has one loss. */
  kind: "row";
  /**
   * The value: in `s` = the sum of the squares of p − t, `r` = sqrt(s) and the
   * parameters.
   */
  value: string;
  /** The number that multiplies p − t in the gradient. */
  grad: string;
}

/** A loss of the rows of `[N, D]`, D > 1, by the sums of all their products. */
export interface ProductsDefinition extends LossParameters {
  /** Each row has one loss. */
  kind: "row";
  /**
   * The value: in `pp`, `pt` and `tt` = the sums of p², p t and t², in `s` and
   * `r` as of a {@linkcode RowDefinition}, and the parameters.
   */
  value: string;
  /** The gradient is gradP · p + gradT · t: what multiplies p, in the same names. */
  gradP: string;
  /** What multiplies t in the gradient. */
  gradT: string;
}

/** A loss of the rows of `[N, columns]` by their numbers. */
export interface ColumnsDefinition extends LossParameters {
  /** Each row has one loss, of its numbers. */
  kind: "columns";
  /** How many numbers a row has. */
  columns: number;
  /** The value: in `p[0]`, `t[0]` and so on, and the parameters. */
  value: string;
  /** The derivative with respect to each of p[0], p[1], …, in the same names. */
  grad: readonly string[];
}

/**
 * A loss as {@linkcode defineLoss} takes it: expressions of C++. Their type is
 * `T`, float or double: write constants as `T(0.5)`. There are abs, cosh, erf,
 * exp, expm1, log, log1p, max, min, pow, sign, sinh, sqrt and tanh.
 */
export type LossDefinition =
  | ElementDefinition
  | RowDefinition
  | ProductsDefinition
  | ColumnsDefinition;

const NAME = /^[a-z][a-z0-9_]*$/;
/** Names that have a meaning in the expressions. */
const RESERVED = new Set([
  "p",
  "t",
  "d",
  "n",
  "s",
  "r",
  "pp",
  "pt",
  "tt",
  "j",
  "T",
]);

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
  const parameters = parametersOf(name, definition);
  if (hasLoss(name)) {
    throw new ArgumentError(`a loss '${name}' is there already`);
  }
  await checkUserLoss(source);
  await Library.defineLoss(source);
  return registerDefined(source, parameters)();
}

/** Makes the loss known; gives what makes its objects. */
function registerDefined(
  { name, kind, natoms, columns }: LossSource,
  parameters: ParameterList,
): () => NativeLoss {
  declareLoss(name, { parameters, columns });
  const make = (): NativeLoss =>
    new NativeLoss(name, kind === "element" ? "element" : "row", natoms);
  registerLoss(name, make);
  return make;
}

function parametersOf(
  name: string,
  { parameters, domains }: LossDefinition,
): ParameterList {
  return new ParameterList(name, parameters, domains);
}

/** The definition as the compiler gets it. Throws for what is not allowed. */
function lossSource(name: string, definition: LossDefinition): LossSource {
  const fail = (message: string): never => {
    throw new ArgumentError(`loss '${name}': ${message}`);
  };
  if (!NAME.test(name)) {
    fail("expected a name of lower-case letters, digits and _");
  }
  const { kind, columns, texts } = expressionsOf(definition, fail);
  const natoms = definition.kind === undefined ||
      definition.kind === "element"
    ? definition.natoms ?? false
    : "natoms" in definition && definition.natoms
    ? fail("a loss per row does not read natoms")
    : false;
  for (const [part, text] of Object.entries(texts)) {
    if (typeof text !== "string" || text.trim() === "") {
      fail(`${part} must be an expression of C++`);
    }
    // A # at the start of a line, or a comment that goes on, would escape.
    if (/^\s*#|\/\*|\\$/m.test(text)) {
      fail(`${part} must be an expression, without comments or directives`);
    }
    if (kind !== "columns") continue;
    for (const [found, index] of text.matchAll(/\b[pt]\s*\[([^\]]*)\]/g)) {
      if (/^\s*\d+\s*$/.test(index!) && Number(index) < columns) continue;
      fail(`${part} has ${found}, expected a column from 0 to ${columns - 1}`);
    }
  }
  const { parameters = {} } = definition;
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
  return {
    name,
    kind,
    natoms,
    columns,
    texts,
    parameters: Object.keys(parameters),
  };
}

/** What a definition is, and its expressions by their names. */
function expressionsOf(
  definition: LossDefinition,
  fail: (message: string) => never,
): Pick<LossSource, "kind" | "columns" | "texts"> {
  const { kind = "element", value } = definition;
  if (kind === "columns") {
    const { columns, grad } = definition as ColumnsDefinition;
    if (!Number.isInteger(columns) || columns < 1) {
      fail(`columns is ${columns}, expected an integer >= 1`);
    }
    if (!Array.isArray(grad) || grad.length !== columns) {
      fail(
        `grad has ${
          Array.isArray(grad)
            ? `${grad.length} expressions`
            : "no list of expressions"
        }, expected ${columns}, one for each column`,
      );
    }
    const grads = grad.map((text, j) => [`grad[${j}]`, text]);
    return { kind, columns, texts: { value, ...Object.fromEntries(grads) } };
  }
  if (kind !== "element" && kind !== "row") {
    fail(`kind is '${kind}', expected element, row or columns`);
  }
  if ("gradP" in definition || "gradT" in definition) {
    if (kind !== "row") fail("gradP and gradT are of a loss per row");
    if ("grad" in definition) {
      fail("grad, or gradP and gradT: expected not all of them");
    }
    const { gradP, gradT } = definition;
    return { kind: "products", columns: 0, texts: { value, gradP, gradT } };
  }
  const { grad } = definition as ElementDefinition;
  return {
    kind: kind === "row" ? "squares" : "element",
    columns: 0,
    texts: { value, grad },
  };
}

/** The losses of kernels/defined/defined_losses.h: through the same door, compiled beforehand. */
const shipped: readonly LossSource[] = Object.entries({
  huber,
  smooth_l1: smoothL1,
  log_cosh: logCosh,
}).map(([name, definition]) => {
  const source = lossSource(name, definition);
  registerDefined(source, parametersOf(name, definition));
  return source;
});

/** The text of kernels/defined/defined_losses.h. `deno run -A loss/define_loss.ts` writes it. */
export function shippedHeader(): string {
  return definedLossHeader(shipped);
}

if (import.meta.main) {
  const file = new URL("../kernels/defined/defined_losses.h", import.meta.url);
  await Deno.writeTextFile(file, shippedHeader());
}
