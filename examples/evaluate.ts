// Says how good a trained potential is on some files, and what it predicts for
// them:
//
//   deno run -A examples/evaluate.ts MODEL FILE… [--out predicted.extxyz]

import { Device } from "../mod.ts";
import { OptionError, parseArguments } from "./command/arguments.ts";
import { findFiles } from "./command/files.ts";
import { KEY_OPTIONS, readKeys } from "./command/key_options.ts";
import { runCommand } from "./command/run.ts";
import { describeKeys } from "./extxyz/label_keys.ts";
import { ExtxyzFile } from "./extxyz/read.ts";
import { formatStructure } from "./extxyz/write.ts";
import { ErrorSums, type Predicted } from "./potential/errors.ts";
import { ParityPoints } from "./potential/parity.ts";
import { drawPlot } from "./potential/plot.ts";
import { Potential } from "./potential/potential.ts";
import { ResultFile } from "./potential/result_file.ts";
import { printErrors, writeResult } from "./potential/results.ts";
import { atomCount } from "./potential/structure.ts";

const HELP = `\
Predicts energies, forces and stresses of structures in extended XYZ, plain or
gzip, and compares them with their labels, where they have some.

  deno run -A examples/evaluate.ts MODEL FILE… [options]

MODEL is what train_potential.ts --save has written; FILE may be a pattern in
quotes: 'data/*.xyz'

Results:
  --out FILE        write the structures with what is predicted for them: energy
                    (eV), forces (eV/Å), stress (eV/Å³, of those that are
                    periodic in three directions), by the names that ASE reads
  --report FILE     write the errors as JSON
  --plot FILE       plot predictions against labels as SVG

Labels:
  --energy-key KEY  the key of the energies (default: the first of the known
                    ones that is there, like REF_energy or energy)
  --forces-key KEY  the column of the forces
  --stress-key KEY  the key of the stresses

  -h, --help        show this
`;

/** Structures whose errors are added at once. */
const CHUNK = 100;

async function main(): Promise<void> {
  const { options, others } = parseArguments(Deno.args, {
    out: "value",
    report: "value",
    plot: "value",
    ...KEY_OPTIONS,
    help: "nothing",
  });
  if (options.has("help")) {
    console.log(HELP);
    return;
  }
  const [model, ...names] = others;
  if (model === undefined || names.length === 0) {
    throw new OptionError("no MODEL or no FILE; --help says how");
  }
  const value = (name: string): string | undefined => options.get(name)?.[0];
  const keys = readKeys(options);
  const report = value("report");
  const plot = value("plot");

  const potential = await Potential.load(model);
  const files = await findFiles(names);
  using device = await Device.open("cpu");
  using owned = new DisposableStack();
  const path = value("out");
  const out = path && owned.use(await ResultFile.create(path));
  // Whether results can be written is better known before than after.
  for (const path of [report, plot]) {
    if (path !== undefined) await writeResult(path, "", { append: true });
  }

  using sums = new ErrorSums(device);
  const points = new ParityPoints();
  let structures = 0;
  let atoms = 0;
  for (const path of files) {
    const file = await ExtxyzFile.open(path, keys);
    console.log(`${path}: ${describeKeys(file.keys)}`);
    let chunk: Predicted[] = [];
    for await (const structure of file.structures()) {
      const [prediction] = potential.predict([structure]);
      if (out) await out.write(formatStructure(structure, prediction!));
      points.add([structure, prediction!]);
      structures++;
      atoms += atomCount(structure);
      chunk.push([structure, prediction!]);
      if (chunk.length < CHUNK) continue;
      sums.add(chunk);
      chunk = [];
    }
    sums.add(chunk);
    for (const warning of file.warnings) console.error(`warning: ${warning}`);
  }
  if (out) await out.complete();

  const errors = await sums.result();
  const types = Object.entries(errors.byConfigType)
    .map(([type, errors]) => [type || "(no config_type)", errors] as const);
  printErrors([["all", errors], ...types.length > 1 ? types : []]);
  if (report !== undefined) {
    const results = { model, files, structures, atoms, ...errors };
    await writeResult(report, JSON.stringify(results, null, 2) + "\n");
  }
  if (plot !== undefined) {
    await writeResult(plot, await drawPlot({ predictions: points }));
  }
}

await runCommand(main);
