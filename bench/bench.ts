/**
 * `deno task bench [--device cuda]`: the fused loss pass beside a copy of the
 * same memory and beside PyTorch computing the reference's steps, in one run.
 *
 * Machines drift, so what is compared is measured in turns: in each round the
 * copy, ours with outputs reused, ours with fresh outputs. A table entry is the
 * median over the rounds; the ratio to the copy is the median of the rounds'
 * ratios. Writes its section of bench/RESULTS.md.
 */
import { parseArgs } from "@std/cli/parse-args";
import { DDPLoss, Device } from "../mod.ts";
import { lossTable } from "./losses.ts";
import { optionTable } from "./options.ts";
import { optimizerTable } from "./optimizers.ts";
import { machine, writeSection } from "./results.ts";
import { stepTable } from "./step.ts";
import { median, ROUNDS, time } from "./timing.ts";
import { TorchPeer } from "./torch_peer.ts";

/** Microseconds of a call that has nothing to do: on a GPU an empty launch. */
async function timeNothing(device: Device): Promise<number> {
  using nothing = device.zeros([0, 3]);
  const loss = new DDPLoss("mae");
  using out = loss.valueAndGrad(nothing, nothing);
  const rounds: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    rounds.push(
      await time(
        device,
        () => loss.valueAndGrad(nothing, nothing, null, { out }),
      ),
    );
  }
  return median(rounds);
}

const args = parseArgs(Deno.args, {
  string: ["device"],
  default: { device: "cpu" },
});
using device = await Device.open(args.device);
await using peer = await TorchPeer.start();
if (peer === undefined) {
  console.error("python3 has no torch: its columns stay empty");
}
const option = device.type === "cpu" ? "" : ` --device ${args.device}`;
const text = [
  await machine(device, peer?.version),
  `Command: \`deno task bench${option}\`. Medians of rounds in which what is compared takes turns.`,
  `A call with no atoms takes ${(await timeNothing(device)).toFixed(2)} µs.`,
  await lossTable(device, peer),
  await stepTable(device, peer),
  await optionTable(device),
  await optimizerTable(device, peer),
].join("\n\n");
await writeSection(device.type, text);
