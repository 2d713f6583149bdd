/**
 * The command line of the training script.
 *
 * @module
 */

import {
  type Follows,
  type NumberRange,
  OptionError,
  parseArguments,
  readNumber,
  unknown,
} from "../command/arguments.ts";
import { KEY_OPTIONS, readKeys } from "../command/key_options.ts";
import { SYMBOLS } from "../extxyz/elements.ts";

/** Losses for energies, and what each weighs against the loss of forces. */
const ENERGY_LOSSES = { per_atom_mae: 10, mae: 0.2, mse: 0.03 } as const;
const FORCE_LOSSES = ["l2norm", "mae", "mse"] as const;
const DTYPES = ["float32", "float64"] as const;

/** What the command line asks for. */
export interface Options {
  /** Names and patterns of files; none for structures that are made. */
  readonly train: readonly string[];
  readonly test: readonly string[];
  /** How much of the structures to train on is held out where no test is named. */
  readonly testFraction: number;
  readonly energyKey: string | undefined;
  readonly forcesKey: string | undefined;
  readonly stressKey: string | undefined;
  readonly steps: number;
  readonly batch: number;
  readonly microBatch: number | undefined;
  readonly lr: number;
  readonly cutoff: number;
  readonly energyLoss: keyof typeof ENERGY_LOSSES;
  readonly energyWeight: number;
  readonly forceLoss: typeof FORCE_LOSSES[number];
  readonly stressWeight: number;
  readonly configTypeWeights: ReadonlyMap<string, number>;
  /** eV by atomic number. */
  readonly e0s: ReadonlyMap<number, number>;
  /** GiB. */
  readonly memory: number;
  readonly dtype: typeof DTYPES[number];
  readonly device: string;
  readonly seed: number;
  readonly report: string | undefined;
  readonly plot: string | undefined;
  readonly save: string | undefined;
  readonly checkpoint: string | undefined;
  readonly checkpointEvery: number;
  readonly resume: boolean;
}

/** The text of `--help`. */
export const HELP = `\
Trains an interatomic potential on energies and forces.

  deno run -A launch.ts --nproc-per-node 2 examples/train_potential.ts [options]

Data: extended XYZ, up to ten chemical elements, any periodicity; energies in
eV, forces in eV/Å, stresses in eV/Å³, of which any may be missing.
  --train FILE…       structures to train on, plain or gzip; a pattern in quotes
                      names all that fit it: 'data/*.xyz'. Without, silicon
                      crystals with the Stillinger–Weber potential are made
  --test FILE…        structures to test on
  --test-fraction X   without --test: the part of the structures to train on that
                      is held out to test on, drawn by the seed (default: 0.2)
  --energy-key KEY    the key of the energies (default: the first of the known
                      ones that a file has, like REF_energy or energy)
  --forces-key KEY    the column of the forces
  --stress-key KEY    the key of the stresses
  --cutoff Å          how far an atom sees (default: 5)

Training:
  --steps N           optimiser steps (default: 1500)
  --batch N           structures per step, over all replicas (default: 32)
  --micro-batch N     structures that a replica's model takes at a time; the
                      step is the same (default: its share of the batch)
  --lr X              learning rate at the start (default: 0.001)
  --energy-loss NAME  ${
  Object.keys(ENERGY_LOSSES).join(", ")
} (default: per_atom_mae)
  --energy-weight X   what it weighs against the force loss (default:
                      ${
  Object.entries(ENERGY_LOSSES).map(([name, weight]) => `${weight} for ${name}`)
    .join(", ")
})
  --force-loss NAME   ${FORCE_LOSSES.join(", ")} (default: l2norm)
  --stress-weight X   what the mean absolute error of stresses weighs against
                      the force loss (default: 10)
  --config-type-weights JSON  what structures weigh by their config_type, as in
                      '{"bulk": 1, "surface": 4}'; "Default" of those that have
                      none (default: 1 of all); times config_weight,
                      config_energy_weight, config_forces_weight and
                      config_stress_weight of the structures
  --e0s LIST          energies of free atoms in eV, as in "Si=-0.8,O=-1.2"
                      (default: of isolated atoms among the structures, and
                      what fits the energies best)
  --seed N            order of the structures (default: 1)

Machine:
  --dtype NAME        ${DTYPES.join(", ")} (default: float32)
  --memory GIB        what a replica keeps of its data in memory; the rest waits
                      in a temporary file (default: 0.5)
  --device NAME       cpu, cuda, cuda:1, auto (default: auto)

Results:
  --report FILE       write them as JSON
  --plot FILE         plot predictions and the loss as SVG
  --save FILE         write the potential as safetensors, for Potential.load()
                      of examples/potential/potential.ts
  --checkpoint DIR    write the state of the training there: as it goes on, at
                      its end, when it fails and when it is interrupted
  --checkpoint-every N  steps between checkpoints (default: 100)
  --resume            go on from the checkpoint in DIR, if there is one; data
                      and options of the training must be the same
  -h, --help          show this
`;

/** The options, and what follows each. */
const KNOWN: Readonly<Record<string, Follows>> = {
  train: "values",
  test: "values",
  "test-fraction": "value",
  ...KEY_OPTIONS,
  cutoff: "value",
  steps: "value",
  batch: "value",
  "micro-batch": "value",
  lr: "value",
  "energy-loss": "value",
  "energy-weight": "value",
  "force-loss": "value",
  "stress-weight": "value",
  "config-type-weights": "value",
  e0s: "value",
  seed: "value",
  memory: "value",
  dtype: "value",
  device: "value",
  report: "value",
  plot: "value",
  save: "value",
  checkpoint: "value",
  "checkpoint-every": "value",
  resume: "nothing",
  help: "nothing",
};

/** Options that say nothing without another. */
const NEEDS = [
  ["test", "train"],
  ["test-fraction", "train"],
  ["energy-key", "train"],
  ["forces-key", "train"],
  ["stress-key", "train"],
  ["resume", "checkpoint"],
  ["checkpoint-every", "checkpoint"],
] as const;

/** The weights of config types, of a JSON object. */
function parseTypeWeights(text = "{}"): Map<string, number> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const isObject = typeof value === "object" && value !== null &&
    !Array.isArray(value);
  const entries: [string, unknown][] = isObject
    ? Object.entries(value!)
    : [["", value]];
  for (const [, weight] of entries) {
    if (typeof weight === "number" && weight >= 0 && weight < Infinity) {
      continue;
    }
    throw new OptionError(
      `--config-type-weights is '${text}', expected JSON with numbers from 0, ` +
        `as in '{"bulk": 1, "surface": 4}'`,
    );
  }
  return new Map(entries as [string, number][]);
}

/** Energies by atomic number, of a list like `Si=-0.8,O=-1.2`. */
function parseE0s(text = ""): Map<number, number> {
  const energies = new Map<number, number>();
  for (const part of text === "" ? [] : text.split(",")) {
    const [symbol = "", number = "", more] = part.split("=").map((word) =>
      word.trim()
    );
    const z = SYMBOLS.indexOf(symbol);
    const energy = Number(number);
    if (
      z < 1 || number === "" || !Number.isFinite(energy) ||
      more !== undefined || energies.has(z)
    ) {
      throw new OptionError(
        `--e0s is "${text}", expected energies in eV of elements, each once, ` +
          `as in "Si=-0.8,O=-1.2"`,
      );
    }
    energies.set(z, energy);
  }
  return energies;
}

/**
 * Reads the command line.
 *
 * @returns The options, or undefined where help is asked for.
 * @throws {OptionError} for an unknown option or a bad value.
 */
export function parseOptions(args: readonly string[]): Options | undefined {
  const { options: given, others } = parseArguments(args, KNOWN);
  if (others.length > 0) throw unknown(others[0]!, Object.keys(KNOWN));
  if (given.has("help")) return undefined;

  const text = (name: string): string | undefined => given.get(name)?.[0];
  const choice = <T extends string>(
    name: string,
    allowed: readonly T[],
  ): T => {
    const value = text(name) ?? allowed[0]!;
    const found = allowed.find((one) => one === value);
    if (found !== undefined) return found;
    throw new OptionError(
      `--${name} is "${value}", expected one of ${allowed.join(", ")}`,
    );
  };
  const number = (
    name: string,
    fallback: number,
    range: NumberRange,
  ): number => readNumber(given, name, fallback, range);

  const energyLoss = choice(
    "energy-loss",
    Object.keys(ENERGY_LOSSES) as (keyof typeof ENERGY_LOSSES)[],
  );
  const device = text("device") ?? "auto";
  if (!/^(cpu|auto|cuda(:\d+)?)$/.test(device)) {
    throw new OptionError(
      `--device is "${device}", expected cpu, cuda, cuda:N or auto`,
    );
  }
  const options = {
    train: given.get("train") ?? [],
    test: given.get("test") ?? [],
    testFraction: number("test-fraction", 0.2, { to: 0.9 }),
    ...readKeys(given),
    cutoff: number("cutoff", 5, { from: 1, to: 20 }),
    steps: number("steps", 1500, { from: 1, integer: true }),
    batch: number("batch", 32, { from: 1, integer: true }),
    microBatch: text("micro-batch") === undefined
      ? undefined
      : number("micro-batch", 1, { from: 1, integer: true }),
    lr: number("lr", 0.001, {}),
    energyLoss,
    energyWeight: number("energy-weight", ENERGY_LOSSES[energyLoss], {}),
    forceLoss: choice("force-loss", FORCE_LOSSES),
    stressWeight: number("stress-weight", 10, {}),
    configTypeWeights: parseTypeWeights(text("config-type-weights")),
    e0s: parseE0s(text("e0s")),
    seed: number("seed", 1, { to: 2 ** 31 - 1, integer: true }),
    memory: number("memory", 0.5, {}),
    dtype: choice("dtype", DTYPES),
    device,
    report: text("report"),
    plot: text("plot"),
    save: text("save"),
    checkpoint: text("checkpoint"),
    checkpointEvery: number("checkpoint-every", 100, {
      from: 1,
      integer: true,
    }),
    resume: given.has("resume"),
  };
  for (const [name, needed] of NEEDS) {
    if (given.has(name) && !given.has(needed)) {
      throw new OptionError(`--${name} needs --${needed}`);
    }
  }
  if (given.has("test") && given.has("test-fraction")) {
    throw new OptionError("--test-fraction is for a training without --test");
  }
  return options;
}
