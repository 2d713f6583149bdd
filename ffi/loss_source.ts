/**
 * Losses written as one line of C++ each, as structs of kernels/loss_ops.h: the
 * text of kernels/defined_losses.h and of user_losses.h, and what the compiler
 * says of it in the lines of the one who wrote it.
 */

/** A loss in C++. Names and numbers have been checked. */
export interface LossSource {
  readonly name: string;
  readonly kind: "element" | "row";
  readonly natoms: boolean;
  readonly value: string;
  readonly grad: string;
  readonly parameters: Readonly<Record<string, number>>;
}

/** A number as C++ reads it: JavaScript's shortest form, with a point or an exponent. */
function literal(value: number): string {
  const text = String(value);
  return `T(${/[.e]/.test(text) ? text : `${text}.0`})`;
}

function functionOf(
  loss: LossSource,
  name: "value" | "grad",
  resume: (line: number) => string,
): (firstLine: number) => string[] {
  return (firstLine) => {
    const perRow = loss.kind === "row";
    const cppName = perRow && name === "grad" ? "slope" : name;
    const head = [
      "  template <class T>",
      `  AL_HD static T ${cppName}(${
        perRow ? "T s" : "T p, T t, [[maybe_unused]] T n"
      }) {`,
      "    using namespace loss_math;",
      perRow
        ? "    [[maybe_unused]] const T r = sqrt(s);"
        : "    [[maybe_unused]] const T d = p - t;",
      ...Object.entries(loss.parameters).map(([parameter, value]) =>
        `    [[maybe_unused]] const T ${parameter} = ${literal(value)};`
      ),
      "    return static_cast<T>(",
      `#line 1 "${loss.name}.${name}"`,
      ...loss[name].split("\n"),
    ];
    return [...head, resume(firstLine + head.length + 1), "    );", "  }"];
  };
}

/**
 * A header with losses.
 *
 * @param file Its name.
 * @param losses In the order of their numbers.
 * @param lists Macros, and which of the losses each lists.
 * @param shared Whether all libraries mean the same by their names: those of
 * users in two workers of a process may not.
 */
function lossHeader(
  file: string,
  losses: readonly LossSource[],
  lists: Readonly<Record<string, readonly LossSource[]>>,
  shared: boolean,
): string {
  const lines = [
    "/** Written by ffi/loss_source.ts: losses from one line of C++ each. */",
    "// clang-format off",
    "namespace atomloss {",
    ...(shared ? [] : ["namespace {"]),
  ];
  const resume = (line: number): string => `#line ${line + 1} "${file}"`;
  for (const loss of losses) {
    lines.push(
      "",
      `struct Defined_${loss.name} {`,
      `  static constexpr const char* name = "${loss.name}";`,
      `  static constexpr al_loss_kind kind = ${
        loss.kind === "row" ? "AL_PER_ROW" : "AL_PER_ELEMENT"
      };`,
      `  static constexpr bool uses_natoms = ${loss.natoms};`,
    );
    for (const name of ["value", "grad"] as const) {
      lines.push(...functionOf(loss, name, resume)(lines.length));
    }
    lines.push("};");
  }
  lines.push("", ...(shared ? [] : ["}  // namespace"]));
  lines.push("}  // namespace atomloss", "");
  for (const [macro, listed] of Object.entries(lists)) {
    const names = listed.map(({ name }) => ` X(Defined_${name})`);
    lines.push(`#define ${macro}(X)${names.join("")}`);
  }
  return `${lines.join("\n")}\n`;
}

/** The text of kernels/defined_losses.h: the losses that come with the package. */
export function definedLossHeader(losses: readonly LossSource[]): string {
  const lists = { AL_DEFINED_LOSSES: losses };
  return lossHeader("defined_losses.h", losses, lists, true);
}

/** The text of user_losses.h: all that were defined, the last of which is new. */
export function userLossHeader(losses: readonly LossSource[]): string {
  const lists = {
    AL_USER_LOSSES: losses,
    AL_NEW_LOSSES: losses.slice(-1),
  };
  return lossHeader("user_losses.h", losses, lists, false);
}

/**
 * A compiler's errors in the text of a loss, each with its line, and a mark
 * where the compiler says the column: g++ writes "name.value:1:5: error: …",
 * nvcc "name.value(1): error: …".
 */
export function errorsIn(
  loss: LossSource,
  output: string,
): string | undefined {
  const pattern = new RegExp(
    String
      .raw`^${loss.name}\.(value|grad)(?::(\d+):(\d+)|\((\d+)\)): (?:fatal )?error\b.*$`,
    "gm",
  );
  const errors = Array.from(
    output.matchAll(pattern),
    ([text, part, row, column, nvccRow]) => {
      const lines = loss[part as "value" | "grad"].split("\n");
      const source = lines[Number(row ?? nvccRow) - 1];
      if (source === undefined) return text;
      const mark = column && `\n    ${" ".repeat(Number(column) - 1)}^`;
      return `${text}\n    ${source}${mark ?? ""}`;
    },
  );
  return errors.length > 0 ? [...new Set(errors)].join("\n") : undefined;
}
