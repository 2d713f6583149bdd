/** What the options of a loss cost, beside the same loss without them. */
import {
  defineLoss,
  type Device,
  MultiTaskLoss,
  type TaskInput,
  type TaskOptions,
  type Tensor,
} from "../mod.ts";
import { cell, median, ROUNDS, time } from "./timing.ts";

/** Structures and atoms of a batch; the first fit a cache. */
const BATCHES = [[16, 1_300], [256, 20_000], [4_096, 330_000], [
  65_536,
  4_000_000,
]] as const;

/** ‖d‖₂ as text by the columns of a row: `l2norm` by another way. */
await defineLoss("bench_columns", {
  kind: "columns",
  columns: 3,
  value:
    "sqrt((p[0] - t[0]) * (p[0] - t[0]) + (p[1] - t[1]) * (p[1] - t[1]) + (p[2] - t[2]) * (p[2] - t[2]))",
  grad: [0, 1, 2].map((i) =>
    `(p[${i}] - t[${i}]) / sqrt((p[0] - t[0]) * (p[0] - t[0]) + (p[1] - t[1]) * (p[1] - t[1]) + (p[2] - t[2]) * (p[2] - t[2]))`
  ),
});

/** Tensors of one batch, as the options need them. */
interface Batch {
  readonly input: Tensor;
  readonly target: Tensor;
  /** The same, with every seventh row missing. */
  readonly missing: Tensor;
  readonly natoms: Tensor;
  readonly mask: Tensor;
  readonly perRow: Tensor;
  readonly perStructure: Tensor;
  readonly groups: Tensor;
}

function makeBatch(
  device: Device,
  structures: number,
  atoms: number,
  stack: DisposableStack,
): Batch {
  const floats = (
    shape: readonly number[],
    of: (i: number) => number,
  ): Tensor =>
    stack.use(device.tensor(
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) =>
        of(i)),
      shape,
    ));
  const random = (): number => Math.random() - 0.5;
  const each = Math.floor(atoms / structures);
  const counts = new Int32Array(structures).fill(each);
  counts[0]! += atoms - each * structures;
  return {
    input: floats([atoms, 3], random),
    target: floats([atoms, 3], random),
    missing: floats(
      [atoms, 3],
      (i) => Math.floor(i / 3) % 7 === 0 ? NaN : random(),
    ),
    natoms: stack.use(device.tensor(counts)),
    mask: stack.use(device.tensor(
      Uint8Array.from({ length: atoms }, (_, i) => Number(i % 7 > 0)),
      [atoms],
      "bool",
    )),
    perRow: floats([atoms], Math.random),
    perStructure: floats([structures], Math.random),
    groups: stack.use(
      device.tensor(Int32Array.from({ length: atoms }, (_, i) => i % 5)),
    ),
  };
}

/** Name, task and input of each row of the table; the first is what the others are compared with. */
function variants(
  { input, target, missing, natoms, mask, perRow, perStructure, groups }: Batch,
): [string, TaskOptions, TaskInput][] {
  const loss = "l2norm";
  const plain = { input, target, natoms };
  return [
    ["plain", { loss }, plain],
    ["`mask` of atoms", { loss }, { ...plain, mask }],
    ["`weights` of atoms", { loss }, { ...plain, weights: perRow }],
    ["`weights` of structures", { loss }, { ...plain, weights: perStructure }],
    ["`scale` of atoms", { loss }, { ...plain, scale: perRow }],
    [
      '`normalize: "weights"`',
      { loss, normalize: "weights" },
      { ...plain, weights: perRow },
    ],
    ["`ignoreNaN`, all there", { loss, ignoreNaN: true }, plain],
    [
      "`ignoreNaN`, a seventh missing",
      { loss, ignoreNaN: true },
      { ...plain, target: missing },
    ],
    ['"per_structure"', { loss, reduction: "per_structure" }, plain],
    [
      '"per_group" of 5',
      { loss, reduction: "per_group", groupWeights: [1, 1, 1, 1, 1] },
      { ...plain, groups },
    ],
    ["by columns of a row", { loss: "bench_columns" }, plain],
  ];
}

/** The table of options, printed while it is made. */
export async function optionTable(device: Device): Promise<string> {
  const columns = [
    "forces by `l2norm`",
    ...BATCHES.flatMap(([structures, atoms]) => [
      `${atoms} atoms, ${structures} structures: µs`,
      "of plain",
    ]),
  ];
  const rows = new Map<string, string[]>();
  for (const [structures, atoms] of BATCHES) {
    using stack = new DisposableStack();
    const batch = makeBatch(device, structures, atoms, stack);
    const calls = variants(batch).map(([name, task, input]) => {
      const loss = new MultiTaskLoss({ forces: task });
      const out = stack.use(loss.valueAndGrad({ forces: input }));
      return {
        name,
        rounds: [] as number[],
        run: (): unknown => loss.valueAndGrad({ forces: input }, { out }),
      };
    });
    for (let round = 0; round < ROUNDS; round++) {
      for (const { run, rounds } of calls) {
        rounds.push(await time(device, run));
      }
    }
    const plain = calls[0]!.rounds;
    for (const { name, rounds } of calls) {
      const cells = rows.get(name) ?? [];
      const ratios = rounds.map((t, i) => t / plain[i]!);
      rows.set(name, [
        ...cells,
        cell(median(rounds)),
        cell(median(ratios), 2),
      ]);
    }
  }
  const lines = [
    "What options cost: value and gradient of one task of `MultiTaskLoss`, one collective's counts included where entries have to be counted.",
    "",
    `| ${columns.join(" | ")} |`,
    `|${"---|".repeat(columns.length)}`,
    ...[...rows].map(([name, cells]) => `| ${name} | ${cells.join(" | ")} |`),
  ];
  console.log(`\n${lines.join("\n")}`);
  return lines.join("\n");
}
