/** The parameters of losses: numbers that a task or a call may give, checked against their domains. */
import { ArgumentError } from "../errors.ts";

/** Numbers by the name of a parameter. */
export type Parameters = Readonly<Record<string, number>>;

/** Where a parameter may be: on one side of a number. */
export type Bound = `${">" | ">=" | "<" | "<="} ${number}`;

/** AL_MAX_PARAMETERS of kernels/atomloss.h. */
export const MAX_PARAMETERS = 16;

const HOLDS: Record<string, (x: number, bound: number) => boolean> = {
  ">": (x, bound) => x > bound,
  ">=": (x, bound) => x >= bound,
  "<": (x, bound) => x < bound,
  "<=": (x, bound) => x <= bound,
};

/** One parameter of a loss. */
interface Parameter {
  readonly name: string;
  readonly value: number;
  readonly bounds: readonly Bound[];
}

/** What a loss has in place of numbers: their names, and what they are if nothing is said. */
export class ParameterList {
  /** In the order in which the kernels take them. */
  readonly #list: readonly Parameter[];
  /** The defaults, as the native library takes them. */
  readonly defaults: Float64Array<ArrayBuffer>;

  /**
   * @param loss For messages.
   * @throws {ArgumentError} if there are too many, a bound is none or of no
   * parameter, or a default is out of its bounds.
   */
  constructor(
    loss: string,
    values: Parameters = {},
    domains: Readonly<Record<string, Bound | readonly Bound[]>> = {},
  ) {
    this.#list = Object.entries(values).map(([name, value]) => {
      const bounds = domains[name] ?? [];
      return {
        name,
        value,
        bounds: typeof bounds === "string" ? [bounds] : bounds,
      };
    });
    if (this.#list.length > MAX_PARAMETERS) {
      throw new ArgumentError(
        `loss '${loss}' has ${this.#list.length} parameters, expected at most ${MAX_PARAMETERS}`,
      );
    }
    for (const [name, bounds] of Object.entries(domains)) {
      if (!Object.hasOwn(values, name)) {
        throw new ArgumentError(
          `loss '${loss}' has a domain for '${name}', which is not one of its parameters`,
        );
      }
      for (const bound of [bounds].flat()) {
        const [sign, number, ...rest] = String(bound).split(" ");
        const isBound = Object.hasOwn(HOLDS, sign!) && rest.length === 0 &&
          number !== "" && Number.isFinite(Number(number));
        if (!isBound) {
          throw new ArgumentError(
            `loss '${loss}': the domain of ${name} is '${bound}', expected bounds like "> 0"`,
          );
        }
      }
    }
    this.defaults = new Float64Array(MAX_PARAMETERS);
    this.#list.forEach(({ value }, i) => this.defaults[i] = value);
    this.over(this.defaults, values, `loss '${loss}'`);
  }

  /** Names in the order of their numbers. */
  get names(): readonly string[] {
    return this.#list.map(({ name }) => name);
  }

  /**
   * These numbers in place of those of `values`.
   *
   * @param of Whose they are, for messages.
   * @throws {ArgumentError} if the loss has no parameter of a name, or a number
   * is not finite or out of its domain.
   */
  over(
    values: Float64Array<ArrayBuffer>,
    given: Parameters | undefined,
    of: string,
  ): Float64Array<ArrayBuffer> {
    if (given === undefined) return values;
    const changed = values.slice();
    for (const [name, number] of Object.entries(given)) {
      const i = this.#list.findIndex((parameter) => parameter.name === name);
      if (i < 0) {
        const { names } = this;
        throw new ArgumentError(
          `${of} has no parameter '${name}': expected ${
            names.length === 0 ? "none" : `one of ${names.join(", ")}`
          }`,
        );
      }
      const { bounds } = this.#list[i]!;
      const isIn = Number.isFinite(number) && bounds.every((bound) => {
        const [sign, edge] = bound.split(" ");
        return HOLDS[sign!]!(number, Number(edge));
      });
      if (!isIn) {
        throw new ArgumentError(
          `parameter ${name} of ${of} is ${number}, expected a finite number${
            bounds.map((bound) => ` ${bound}`).join(" and")
          }`,
        );
      }
      changed[i] = number;
    }
    return changed;
  }
}
