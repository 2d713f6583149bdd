/** One loss of forces, beside a copy of the same memory and beside PyTorch. */
import { DDPLoss, type Device, type DType, type Tensor } from "../mod.ts";
import { cell, median, ROUNDS, time, TORCH_SECONDS } from "./timing.ts";
import type { TorchPeer } from "./torch_peer.ts";

const LOSSES = ["mae", "mse", "l2norm"];
const ATOMS = {
  cpu: [1_300, 30_000, 1_000_000, 8_000_000],
  cuda: [1_300, 30_000, 1_000_000, 33_000_000],
};

/** Measured at the largest size of a GPU, where only bytes count. */
const OTHER_DTYPES: readonly DType[] = ["float64", "bfloat16"];

const COLUMNS = [
  "atoms",
  "dtype",
  "loss",
  "ours µs",
  "fresh outputs µs",
  "GB/s",
  "copy GB/s",
  "ours / copy",
  "PyTorch µs",
  "PyTorch / ours",
  "compiled µs",
  "compiled / ours",
];

function forces(device: Device, atoms: number, dtype: DType): Tensor {
  const shape = [atoms, 3];
  const random = (): number => Math.random() - 0.5;
  const length = 3 * atoms;
  if (dtype === "float64") {
    return device.tensor(Float64Array.from({ length }, random), shape);
  }
  const data = Float32Array.from({ length }, random);
  if (dtype === "float32") return device.tensor(data, shape);
  const bits = new Uint32Array(data.buffer);
  return device.tensor(Uint16Array.from(bits, (b) => b >>> 16), shape, dtype);
}

/** One row of the table. */
async function row(
  device: Device,
  atoms: number,
  dtype: DType,
  loss: string,
  peer: TorchPeer | undefined,
): Promise<string[]> {
  using pred = forces(device, atoms, dtype);
  using target = forces(device, atoms, dtype);
  using copied = device.empty([atoms, 3], dtype);
  const ddp = new DDPLoss(loss);
  using out = ddp.valueAndGrad(pred, target);
  /** GB/s of so many arrays in a time. */
  const speed = (arrays: number, microseconds: number): number =>
    arrays * pred.byteLength / microseconds / 1e3;

  const copy: number[] = [];
  const ours: number[] = [];
  const fresh: number[] = [];
  const ratios: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    copy.push(speed(2, await time(device, () => copied.copy_(pred))));
    ours.push(
      await time(device, () => ddp.valueAndGrad(pred, target, null, { out })),
    );
    fresh.push(
      await time(device, () => {
        using _result = ddp.valueAndGrad(pred, target);
      }),
    );
    ratios.push(speed(3, ours.at(-1)!) / copy.at(-1)!);
  }
  const mine = median(ours);
  const torch = (mode: "eager" | "compile"): Promise<number> | undefined =>
    dtype === "float32"
      ? peer?.time({
        loss,
        atoms,
        mode,
        seconds: TORCH_SECONDS,
        device: device.type,
      })
      : undefined;
  const eager = await torch("eager");
  const compiled = await torch("compile");
  return [
    atoms.toLocaleString("en").replaceAll(",", " "),
    dtype,
    loss,
    cell(mine),
    cell(median(fresh)),
    cell(speed(3, mine)),
    cell(median(copy)),
    cell(median(ratios), 2),
    cell(eager),
    cell(eager && eager / mine),
    cell(compiled),
    cell(compiled && compiled / mine),
  ];
}

/** The table of the losses, printed while it is made. */
export async function lossTable(
  device: Device,
  peer: TorchPeer | undefined,
): Promise<string> {
  const lines = [
    "Forward and backward of the mean over forces [atoms, 3], called from TypeScript; bytes are pred and target read, grad written. PyTorch takes the reference's steps, with its check for NaN; compiled (torch.compile) without, which cannot be compiled.",
    "",
    `| ${COLUMNS.join(" | ")} |`,
    `|${"---|".repeat(COLUMNS.length)}`,
  ];
  console.log(lines.join("\n"));
  const sizes = ATOMS[device.type];
  for (const atoms of sizes) {
    const others = device.type === "cuda" && atoms === sizes.at(-1)
      ? OTHER_DTYPES
      : [];
    for (const dtype of ["float32", ...others] as const) {
      for (const loss of LOSSES) {
        const cells = await row(device, atoms, dtype, loss, peer);
        lines.push(`| ${cells.join(" | ")} |`);
        console.log(lines.at(-1));
      }
    }
  }
  return lines.join("\n");
}
