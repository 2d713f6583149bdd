// Says what is in a data set before anything is trained on it:
//
//   deno run -A examples/inspect_dataset.ts FILE… [--json]

import { OptionError, parseArguments } from "./command/arguments.ts";
import { findFiles } from "./command/files.ts";
import { KEY_OPTIONS, readKeys } from "./command/key_options.ts";
import { runCommand } from "./command/run.ts";
import { ExtxyzFile } from "./extxyz/read.ts";
import { pageOf } from "./inspect/page.ts";
import { tabulate } from "./inspect/table.ts";

const HELP = `\
Says what is in files of extended XYZ, plain or gzip.

  deno run -A examples/inspect_dataset.ts FILE… [options]

FILE may be a pattern in quotes: 'data/*.xyz'

  --json            one JSON object instead of a page; of several files,
                    {"files": {NAME: object}}
  --energy-key KEY  the key of the energies (default: the first of the known
                    ones that is there, like REF_energy or energy)
  --forces-key KEY  the column of the forces
  --stress-key KEY  the key of the stresses
  -h, --help        show this
`;

async function main(): Promise<void> {
  const { options, others } = parseArguments(Deno.args, {
    json: "nothing",
    ...KEY_OPTIONS,
    help: "nothing",
  });
  if (options.has("help")) {
    console.log(HELP);
    return;
  }
  if (others.length === 0) throw new OptionError("no FILE; --help says how");

  const tables = new Map<string, unknown>();
  const pages: string[] = [];
  for (const path of await findFiles(others)) {
    const file = await ExtxyzFile.open(path, readKeys(options));
    const { table, details } = await tabulate(file);
    tables.set(path, table);
    pages.push(pageOf(path, table, details));
    for (const warning of file.warnings) console.error(`warning: ${warning}`);
  }
  if (!options.has("json")) console.log(pages.join("\n\n"));
  else {
    const [first] = tables.values();
    const all = { files: Object.fromEntries(tables) };
    console.log(JSON.stringify(tables.size === 1 ? first : all));
  }
}

await runCommand(main);
