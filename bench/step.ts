/** The losses of one training step: energies, forces and stresses of a batch. */
import {
  type Device,
  MultiTaskLoss,
  type TaskInput,
  type TaskOptions,
  type Tensor,
} from "../mod.ts";
import { cell, median, ROUNDS, time, TORCH_SECONDS } from "./timing.ts";
import type { TorchPeer } from "./torch_peer.ts";

/** Structures and atoms of a batch. */
const BATCHES = [[16, 1_300], [256, 20_000], [4_096, 330_000]] as const;

/** Heads of a model, each with its own energies, forces and stresses. */
const SETS = [1, 5];

interface Step extends Disposable {
  readonly loss: MultiTaskLoss<string>;
  readonly inputs: Record<string, TaskInput>;
  /** The same, with every seventh atom's forces masked. */
  readonly masked: Record<string, TaskInput>;
}

/** Tasks as they come out of a model. */
function makeStep(
  device: Device,
  structures: number,
  atoms: number,
  sets: number,
): Step {
  const stack = new DisposableStack();
  const random = (shape: readonly number[]): Tensor => {
    const length = shape.reduce((a, b) => a * b, 1);
    const data = Float32Array.from({ length }, () => Math.random() - 0.5);
    return stack.use(device.tensor(data, shape));
  };
  const each = Math.floor(atoms / structures);
  const natoms = stack.use(
    device.tensor(new Int32Array(structures).fill(each)),
  );
  const mask = stack.use(
    device.tensor(
      Uint8Array.from({ length: atoms }, (_, i) => Number(i % 7 > 0)),
      [atoms],
      "bool",
    ),
  );
  const tasks: Record<string, TaskOptions> = {};
  const inputs: Record<string, TaskInput> = {};
  const masked: Record<string, TaskInput> = {};
  for (let set = 0; set < sets; set++) {
    for (
      const [name, loss, shape] of [
        ["energy", "per_atom_mae", [structures, 1]],
        ["forces", "l2norm", [atoms, 3]],
        ["stress", "mae", [structures, 9]],
      ] as const
    ) {
      const key = `${name}${set}`;
      tasks[key] = { loss };
      inputs[key] = { input: random(shape), target: random(shape), natoms };
      masked[key] = name === "forces" ? { ...inputs[key], mask } : inputs[key];
    }
  }
  return {
    loss: new MultiTaskLoss(tasks),
    inputs,
    masked,
    [Symbol.dispose]: (): void => stack.dispose(),
  };
}

/** The table of the whole step, printed while it is made. */
export async function stepTable(
  device: Device,
  peer: TorchPeer | undefined,
): Promise<string> {
  const modes = device.type === "cuda"
    ? ["eager", "compile", "graph"] as const
    : ["eager", "compile"] as const;
  const columns = [
    "tasks",
    "structures",
    "atoms",
    "ours µs",
    "fresh outputs µs",
    "masked µs",
    "GB/s",
    ...modes.flatMap((mode) => [`PyTorch ${mode} µs`, `${mode} / ours`]),
  ];
  const lines = [
    "Energies (`per_atom_mae`), forces (`l2norm`) and stresses (`mae`) of a batch, and five such sets, by `MultiTaskLoss`: " +
    "all values, their total, all gradients. Masked: every seventh atom's forces left out.",
    "",
    `| ${columns.join(" | ")} |`,
    `|${"---|".repeat(columns.length)}`,
  ];
  console.log(`\n${lines.join("\n")}`);
  for (const sets of SETS) {
    for (const [structures, atoms] of BATCHES) {
      using step = makeStep(device, structures, atoms, sets);
      const { loss, inputs, masked } = step;
      using out = loss.valueAndGrad(inputs);
      const calls = [
        (): unknown => loss.valueAndGrad(inputs, { out }),
        (): void => loss.valueAndGrad(inputs)[Symbol.dispose](),
        (): unknown => loss.valueAndGrad(masked, { out }),
      ];
      const rounds: number[][] = calls.map(() => []);
      for (let i = 0; i < ROUNDS; i++) {
        for (const [call, run] of calls.entries()) {
          rounds[call]!.push(await time(device, run));
        }
      }
      const [ours, fresh, withMask] = rounds.map(median);
      const bytes = 3 * 4 * sets * (structures * 10 + atoms * 3);
      const cells = [
        String(3 * sets),
        String(structures),
        String(atoms),
        cell(ours),
        cell(fresh),
        cell(withMask),
        cell(bytes / ours! / 1e3),
      ];
      for (const mode of modes) {
        const theirs = await peer?.time({
          structures,
          atoms,
          sets,
          mode,
          seconds: TORCH_SECONDS,
          device: device.type,
        });
        cells.push(cell(theirs), cell(theirs && theirs / ours!));
      }
      lines.push(`| ${cells.join(" | ")} |`);
      console.log(lines.at(-1));
    }
  }
  return lines.join("\n");
}
