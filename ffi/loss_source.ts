/**
 * Losses written as one line of C++ each, as structs of kernels/loss_ops.h: the
 * text of kernels/defined/defined_losses.h and of user_losses.h, and what the compiler
 * says of it in the lines of the one who wrote it.
 */

/** A loss in C++. Names and numbers have been checked. */
export interface LossSource {
  readonly name: string;
  /** What its value is a function of. */
  readonly kind: LossKind;
  readonly natoms: boolean;
  /** That a row must have; 0: any number. */
  readonly columns: number;
  /** Its expressions by the name of what they are: value, grad or, of columns, grad[0] and so on. */
  readonly texts: Readonly<Record<string, string>>;
  /** Names of the parameters, in their order. */
  readonly parameters: readonly string[];
}

/** An element; the sum of the squares of a row's errors, or also those of its products; a row's numbers. */
export type LossKind = "element" | "squares" | "products" | "columns";

/** How a struct of kernels/loss_ops.h says it: of one kind. */
interface Form {
  readonly members: readonly string[];
  /** Arguments of its functions, before the parameters. */
  readonly arguments: string;
  /** What its expressions may use besides. */
  readonly locals: readonly string[];
  /** Functions by the text that is their body. */
  readonly functions: Readonly<Record<string, string>>;
}

const ROW = ["const T r = sqrt(s);"];

function formOf({ name, kind, natoms, columns, texts }: LossSource): Form {
  const row = (type: string): string =>
    `template <class T> using Row = ${type}<Defined_${name}, T>;`;
  switch (kind) {
    case "element": {
      // Then it may see the difference alone, whose digits a scale leaves.
      const difference = !Object.values(texts)
        .some((text) => /(?<![\w.])[pt](?!\w)/.test(text));
      return {
        members: [
          `static constexpr bool of_difference = ${difference};`,
          `static constexpr bool uses_natoms = ${natoms};`,
        ],
        arguments:
          "[[maybe_unused]] T p, [[maybe_unused]] T t, [[maybe_unused]] T n",
        locals: ["const T d = p - t;"],
        functions: { value: "value", grad: "grad" },
      };
    }
    case "squares":
      return {
        members: [
          "static constexpr bool of_squares = true;",
          row("SquaresRow"),
        ],
        arguments: "[[maybe_unused]] T s",
        locals: ROW,
        functions: { value: "value", grad: "slope" },
      };
    case "products":
      return {
        members: [
          "static constexpr bool of_difference = false;",
          row("ProductsRow"),
        ],
        arguments: ["s", "pp", "pt", "tt"]
          .map((sum) => `[[maybe_unused]] T ${sum}`).join(", "),
        locals: ROW,
        functions: { value: "value", gradP: "grad_p", gradT: "grad_t" },
      };
    case "columns":
      return {
        members: [
          "static constexpr bool of_difference = false;",
          `static constexpr int columns = ${columns};`,
          row("ColumnsRow"),
        ],
        arguments: "[[maybe_unused]] const T* p, [[maybe_unused]] const T* t",
        locals: [],
        functions: Object.fromEntries(
          Object.keys(texts).map((part) => [part, part.replace(/\W/g, "_")]),
        ),
      };
  }
}

/** The lines of a function. `line`: how many there are before it. */
function functionOf(
  loss: LossSource,
  form: Form,
  part: string,
  line: number,
  resume: (line: number) => string,
): string[] {
  const head = [
    "  template <class T>",
    `  AL_HD static T ${
      form.functions[part]
    }(${form.arguments}, [[maybe_unused]] const Parameters<T>& _c) {`,
    "    using namespace loss_math;",
    ...[
      ...form.locals,
      ...loss.parameters.map((name, i) => `const T ${name} = _c[${i}];`),
    ].map((local) => `    [[maybe_unused]] ${local}`),
    "    return static_cast<T>(",
    `#line 1 "${loss.name}.${part}"`,
    ...loss.texts[part]!.split("\n"),
  ];
  return [...head, resume(line + head.length + 1), "    );", "  }"];
}

/** The gradient by column: of a row of columns. */
function gradOfColumn({ columns }: LossSource): string[] {
  return [
    "  template <class T>",
    "  AL_HD static T grad(int64_t j, const T* p, const T* t, const Parameters<T>& _c) {",
    "    switch (j) {",
    ...Array.from(
      { length: columns },
      (_, j) => `      case ${j}: return grad_${j}_(p, t, _c);`,
    ),
    "    }",
    "    return T(0);",
    "  }",
  ];
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
    const form = formOf(loss);
    const parent = loss.kind === "element" ? "ElementLoss" : "RowLoss";
    lines.push(
      "",
      `struct Defined_${loss.name} : ${parent} {`,
      `  static constexpr const char* name = "${loss.name}";`,
      ...form.members.map((member) => `  ${member}`),
    );
    for (const part of Object.keys(form.functions)) {
      lines.push(...functionOf(loss, form, part, lines.length, resume));
    }
    if (loss.kind === "columns") lines.push(...gradOfColumn(loss));
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

/** The text of kernels/defined/defined_losses.h: the losses that come with the package. */
export function definedLossHeader(losses: readonly LossSource[]): string {
  const lists = { AL_DEFINED_LOSSES: losses };
  return lossHeader("defined/defined_losses.h", losses, lists, true);
}

/** The text of user_losses.h: all that were defined, the last of which is new. */
export function userLossHeader(losses: readonly LossSource[]): string {
  const lists = {
    AL_USER_LOSSES: losses,
    AL_NEW_LOSSES: losses.slice(-1),
  };
  return lossHeader("defined/user_losses.h", losses, lists, false);
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
      .raw`^${loss.name}\.([\w[\]]+)(?::(\d+):(\d+)|\((\d+)\)): (?:fatal )?error\b.*$`,
    "gm",
  );
  const errors = Array.from(
    output.matchAll(pattern),
    ([text, part, row, column, nvccRow]) => {
      const lines = loss.texts[part!]?.split("\n");
      const source = lines?.[Number(row ?? nvccRow) - 1];
      if (source === undefined) return text;
      const mark = column && `\n    ${" ".repeat(Number(column) - 1)}^`;
      return `${text}\n    ${source}${mark ?? ""}`;
    },
  );
  return errors.length > 0 ? [...new Set(errors)].join("\n") : undefined;
}
