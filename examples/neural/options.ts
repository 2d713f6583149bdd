/**
 * The command line of the neural potential.
 *
 * @module
 */

import {
  type NumberRange,
  OptionError,
  parseArguments,
  readNumber,
} from "../command/arguments.ts";

/** The text of `--help`. */
export const HELP = `\
Trains a neural potential on energies and forces.

  deno run -A launch.ts --nproc-per-node 2 examples/neural_potential.ts [options]

  --train FILE…       structures to train on, extended XYZ in eV and Å, plain or
                      gzip; without, silicon crystals with the Stillinger–Weber
                      potential are made
  --test FILE…        structures to test on (without: a fifth of the others)
  --steps N           optimiser steps (default: 8000)
  --batch N           structures per step, over all replicas (default: 4)
  --lr X              the highest learning rate (default: 0.002)
  --energy-weight X   what energies per atom weigh against forces (default: 10)
  --seed N            first parameters, order of the structures (default: 1)
  --checkpoint FILE   write the state of the training there as safetensors, and
                      go on from it if it is there
  --checkpoint-every N  steps between two of them (default: 500)
  --report FILE       write the results as JSON
  -h, --help          show this
`;

/** What the command line asks for. */
export interface Options {
  readonly train: readonly string[];
  readonly test: readonly string[];
  readonly testFraction: number;
  readonly steps: number;
  readonly batch: number;
  readonly lr: number;
  readonly energyWeight: number;
  readonly seed: number;
  readonly checkpoint: string | undefined;
  readonly checkpointEvery: number;
  readonly report: string | undefined;
}

/**
 * Reads the command line.
 *
 * @returns The options, or undefined where help is asked for.
 * @throws {OptionError} for an unknown option or a bad value.
 */
export function readOptions(args: readonly string[]): Options | undefined {
  const { options, others } = parseArguments(args, {
    train: "values",
    test: "values",
    steps: "value",
    batch: "value",
    lr: "value",
    "energy-weight": "value",
    seed: "value",
    checkpoint: "value",
    "checkpoint-every": "value",
    report: "value",
    help: "nothing",
  });
  if (options.has("help")) return undefined;
  if (others.length > 0) {
    throw new OptionError(`unknown argument ${others[0]}; --help lists them`);
  }
  const text = (name: string): string | undefined => options.get(name)?.[0];
  const number = (
    name: string,
    fallback: number,
    range: NumberRange,
  ): number => readNumber(options, name, fallback, range);
  return {
    train: options.get("train") ?? [],
    test: options.get("test") ?? [],
    testFraction: 0.2,
    steps: number("steps", 8000, { from: 1, integer: true }),
    batch: number("batch", 4, { from: 1, integer: true }),
    lr: number("lr", 0.002, {}),
    energyWeight: number("energy-weight", 10, {}),
    seed: number("seed", 1, { integer: true }),
    checkpoint: text("checkpoint"),
    checkpointEvery: number("checkpoint-every", 500, {
      from: 1,
      integer: true,
    }),
    report: text("report"),
  };
}
