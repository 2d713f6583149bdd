/** Adam's step with clipping by the norm of all gradients. */
import { Adam, type Device, type Tensor } from "../mod.ts";
import { cell, median, ROUNDS, time, TORCH_SECONDS } from "./timing.ts";
import type { TorchPeer } from "./torch_peer.ts";

/** Parameters, and elements of each. */
const MODELS = [[1, 64], [50, 4_096], [300, 16_384], [300, 131_072]] as const;

/** Bytes of an element of float32: gradient and three arrays in, those three out. */
const STEP_BYTES = 7 * 4;

function randomTensors(device: Device, count: number, size: number): Tensor[] {
  return Array.from(
    { length: count },
    () =>
      device.tensor(
        Float32Array.from({ length: size }, () => Math.random() - 0.5),
      ),
  );
}

/** The table of steps, printed while it is made. */
export async function optimizerTable(
  device: Device,
  peer: TorchPeer | undefined,
): Promise<string> {
  const modes = ["eager", "compile"] as const;
  const columns = [
    "parameters",
    "elements of each",
    "step µs",
    "GB/s",
    "clip + step µs",
    ...modes.flatMap((mode) => [`PyTorch ${mode} µs`, `${mode} / ours`]),
  ];
  const lines = [
    "A step of `Adam` in float32, alone and with `maxNorm`; PyTorch's is `clip_grad_norm_` and `Adam.step`, the two compiled together by torch.compile.",
    "",
    `| ${columns.join(" | ")} |`,
    `|${"---|".repeat(columns.length)}`,
  ];
  console.log(`\n${lines.join("\n")}`);
  for (const [count, size] of MODELS) {
    const params = randomTensors(device, count, size);
    const grads = randomTensors(device, count, size);
    using adam = new Adam(params);
    const plain: number[] = [];
    const clipped: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      plain.push(await time(device, () => adam.step(grads)));
      clipped.push(await time(device, () => adam.step(grads, { maxNorm: 1 })));
    }
    for (const tensor of [...params, ...grads]) tensor.dispose();
    const [step, both] = [median(plain), median(clipped)];
    const cells = [
      String(count),
      String(size),
      cell(step),
      cell(STEP_BYTES * count * size / step / 1e3),
      cell(both),
    ];
    for (const mode of modes) {
      const theirs = await peer?.time({
        parameters: count,
        size,
        mode,
        seconds: TORCH_SECONDS,
        device: device.type,
      });
      cells.push(cell(theirs), cell(theirs && theirs / both));
    }
    lines.push(`| ${cells.join(" | ")} |`);
    console.log(lines.at(-1));
  }
  return lines.join("\n");
}
