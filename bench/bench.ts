/**
 * `deno task bench`: the fused loss pass against a copy of the same memory and
 * against PyTorch computing the reference's steps, all in one run.
 *
 * Machines drift, so everything that is compared is measured in turns: in each
 * round the copy, ours with outputs reused, ours with fresh outputs. A table
 * entry is the median over rounds; the ratio to the copy is the median of the
 * rounds' ratios. Writes its section of bench/RESULTS.md.
 */
import { parseArgs } from "@std/cli/parse-args";
import { DDPLoss, Device, type Tensor } from "../mod.ts";
import { TorchPeer } from "./torch_peer.ts";
import { machine, writeSection } from "./results.ts";
import { stepTable } from "./step.ts";
import { cell, median, ROUNDS, time, TORCH_SECONDS } from "./timing.ts";

const LOSSES = ["mae", "mse", "l2norm"];
const ATOMS = {
  cpu: [1_300, 30_000, 1_000_000, 8_000_000],
  cuda: [1_300, 30_000, 1_000_000, 33_000_000],
};

const args = parseArgs(Deno.args, {
  string: ["device"],
  default: { device: "cpu" },
});

function forces(device: Device, atoms: number): Tensor {
  const data = Float32Array.from(
    { length: 3 * atoms },
    () => Math.random() - 0.5,
  );
  return device.tensor(data, [atoms, 3]);
}

interface Row {
  atoms: number;
  loss: string;
  microseconds: number;
  fresh: number;
  gigabytes: number;
  copy: number;
  ratio: number;
  torch: number | undefined;
  compiled: number | undefined;
}

/** One row of the table. */
async function measure(
  device: Device,
  loss: string,
  atoms: number,
  peer: TorchPeer | undefined,
): Promise<Row> {
  using pred = forces(device, atoms);
  using target = forces(device, atoms);
  using copied = device.empty([atoms, 3]);
  const ddp = new DDPLoss(loss);
  using out = ddp.valueAndGrad(pred, target);
  const arrayBytes = pred.byteLength;

  const ours: number[] = [],
    fresh: number[] = [],
    copy: number[] = [],
    ratios: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    copy.push(
      2 * arrayBytes / await time(device, () => copied.copy_(pred)) / 1e3,
    );
    ours.push(
      await time(device, () => ddp.valueAndGrad(pred, target, null, { out })),
    );
    fresh.push(
      await time(device, () => {
        using _result = ddp.valueAndGrad(pred, target);
      }),
    );
    ratios.push(3 * arrayBytes / ours.at(-1)! / 1e3 / copy.at(-1)!);
  }
  const request = { loss, atoms, seconds: TORCH_SECONDS, device: device.type };
  return {
    atoms,
    loss,
    microseconds: median(ours),
    fresh: median(fresh),
    gigabytes: 3 * arrayBytes / median(ours) / 1e3,
    copy: median(copy),
    ratio: median(ratios),
    torch: await peer?.time({ ...request, mode: "eager" }),
    compiled: device.type === "cuda"
      ? await peer?.time({ ...request, mode: "compile" })
      : undefined,
  };
}

using device = await Device.open(args.device);
await using peer = await TorchPeer.start();
if (peer === undefined) {
  console.error("python3 has no torch: its columns stay empty");
}

using nothing = device.zeros([0, 3]);
const idle = new DDPLoss("mae");
using idleOut = idle.valueAndGrad(nothing, nothing);
const floor = await time(
  device,
  () => idle.valueAndGrad(nothing, nothing, null, { out: idleOut }),
);

const lines = [
  "| atoms | loss | ours µs | fresh outputs µs | GB/s | copy GB/s | ours / copy | PyTorch µs | PyTorch / ours |" +
  (device.type === "cuda" ? " compiled µs | compiled / ours |" : ""),
  "|---|---|---|---|---|---|---|---|---|" +
  (device.type === "cuda" ? "---|---|" : ""),
];
console.log(lines.join("\n"));
for (const atoms of ATOMS[device.type]) {
  for (const loss of LOSSES) {
    const row = await measure(device, loss, atoms, peer);
    const { torch, compiled, microseconds } = row;
    const cells = [
      atoms.toLocaleString("en").replaceAll(",", " "),
      loss,
      cell(microseconds),
      cell(row.fresh),
      cell(row.gigabytes),
      cell(row.copy),
      cell(row.ratio, 2),
      cell(torch),
      cell(torch && torch / microseconds),
      ...(device.type === "cuda"
        ? [cell(compiled), cell(compiled && compiled / microseconds)]
        : []),
    ];
    lines.push(`| ${cells.join(" | ")} |`);
    console.log(lines.at(-1));
  }
}
const text = [
  await machine(device, peer?.version),
  `Command: \`deno task bench${
    device.type === "cpu" ? "" : ` --device ${args.device}`
  }\`. ` +
  "Forward and backward of a mean over float32 forces [atoms, 3], called from TypeScript; bytes are pred and " +
  "target read, grad written; medians of rounds in which copy and loss take turns.",
  `A call with no atoms takes ${floor.toFixed(2)} µs.`,
  lines.join("\n"),
  await stepTable(device, peer),
].join("\n\n");
await writeSection(device.type, text);
