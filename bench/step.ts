/** The losses of one training step: energies, forces and stresses of a batch. */
import { DDPLoss, type Device, type Tensor } from "../mod.ts";
import { cell, median, ROUNDS, time, TORCH_SECONDS } from "./timing.ts";
import type { TorchPeer } from "./torch_peer.ts";

/** Structures and atoms of a batch. */
const BATCHES = [[16, 1_300], [256, 20_000], [4_096, 330_000]] as const;

function random(device: Device, shape: readonly number[]): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  return device.tensor(
    Float32Array.from({ length: size }, () => Math.random() - 0.5),
    shape,
  );
}

/** Three tasks as they come out of a model. */
function makeTasks(device: Device, structures: number, atoms: number): Task[] {
  const natoms = device.tensor(
    new Int32Array(structures).fill(Math.floor(atoms / structures)),
  );
  const task = (loss: string, shape: readonly number[]): Task => {
    const ddp = new DDPLoss(loss);
    const [pred, target] = [random(device, shape), random(device, shape)];
    return {
      ddp,
      pred,
      target,
      natoms,
      out: ddp.valueAndGrad(pred, target, natoms),
    };
  };
  return [
    task("per_atom_mae", [structures, 1]),
    task("l2norm", [atoms, 3]),
    task("mae", [structures, 9]),
  ];
}

interface Task {
  readonly ddp: DDPLoss;
  readonly pred: Tensor;
  readonly target: Tensor;
  readonly natoms: Tensor;
  readonly out: ReturnType<DDPLoss["valueAndGrad"]>;
}

/** The table of the whole step, printed while it is made. */
export async function stepTable(
  device: Device,
  peer: TorchPeer | undefined,
): Promise<string> {
  const modes = device.type === "cuda"
    ? ["eager", "compile", "graph"] as const
    : ["eager"] as const;
  const lines = [
    "Energies (`per_atom_mae`), forces (`l2norm`) and stresses (`mae`) of a batch: three values, three gradients.",
    "",
    `| structures | atoms | ours µs | ${
      modes.map((m) => `PyTorch ${m} µs | ${m} / ours`).join(" | ")
    } |`,
    `|---|---|---|${"---|---|".repeat(modes.length)}`,
  ];
  console.log(`\n${lines.join("\n")}`);
  for (const [structures, atoms] of BATCHES) {
    const tasks = makeTasks(device, structures, atoms);
    const step = (): void => {
      for (const { ddp, pred, target, natoms, out } of tasks) {
        ddp.valueAndGrad(pred, target, natoms, { out });
      }
    };
    const rounds: number[] = [];
    for (let i = 0; i < ROUNDS; i++) rounds.push(await time(device, step));
    const ours = median(rounds);
    const cells = [structures, atoms, cell(ours)].map(String);
    for (const mode of modes) {
      const theirs = await peer?.time({
        structures,
        atoms,
        mode,
        seconds: TORCH_SECONDS,
        device: device.type,
      });
      cells.push(cell(theirs), cell(theirs && theirs / ours));
    }
    lines.push(`| ${cells.join(" | ")} |`);
    console.log(lines.at(-1));
    for (const { pred, target, natoms, out } of tasks) {
      for (const owned of [pred, target, natoms, out]) owned[Symbol.dispose]();
    }
  }
  return lines.join("\n");
}
