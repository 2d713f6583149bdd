/**
 * The state of a training in a file, from which it goes on to the same bits: the
 * parameters, what the optimiser keeps, and how many steps were taken. The rest
 * (batches, their order, whitening) follows from the data and the options.
 *
 * @module
 */

import { type Adam, AtomlossError, type Tensor } from "../../mod.ts";
import type { Options } from "./options.ts";
import {
  decodeSafetensors,
  encodeSafetensors,
  type SafetensorsArray,
} from "./safetensors.ts";

/** A checkpoint cannot be written, or not be gone on from. */
export class CheckpointError extends AtomlossError {}

const FILE = "checkpoint.safetensors";

/** The options on which every later step depends. */
const DECISIVE = [
  "train",
  "test",
  "cutoff",
  "steps",
  "batch",
  "lr",
  "energyLoss",
  "energyWeight",
  "forceLoss",
  "seed",
  "dtype",
] as const;

/** A training as its checkpoint has it. */
export interface Training {
  readonly parameters: Tensor;
  readonly adam: Adam;
  readonly options: Options;
}

function fingerprint(options: Options): string {
  return JSON.stringify(
    Object.fromEntries(DECISIVE.map((key) => [key, options[key] ?? null])),
  );
}

function tensorsOf({ parameters, adam }: Training): Record<string, Tensor> {
  return Object.fromEntries([
    ["parameters", parameters] as const,
    ...adam.state.map((tensor, i) => [`adam.${i}`, tensor] as const),
  ]);
}

/** Writes the state after `step` steps. What was there stays until all is written. */
export async function writeCheckpoint(
  directory: string,
  step: number,
  training: Training,
): Promise<void> {
  const arrays: Record<string, SafetensorsArray> = {};
  for (const [name, tensor] of Object.entries(tensorsOf(training))) {
    const data = await tensor.data();
    arrays[name] = {
      shape: tensor.shape,
      data: data as Float64Array<ArrayBuffer>,
    };
  }
  const bytes = encodeSafetensors({
    arrays,
    metadata: { step: String(step), options: fingerprint(training.options) },
  });
  const [path, temporary] = [`${directory}/${FILE}`, `${directory}/.${FILE}`];
  try {
    await Deno.mkdir(directory, { recursive: true });
    {
      using file = await Deno.open(temporary, {
        write: true,
        create: true,
        truncate: true,
      });
      for (let at = 0; at < bytes.length;) {
        at += await file.write(bytes.subarray(at));
      }
      await file.sync();
    }
    await Deno.rename(temporary, path);
  } catch (error) {
    throw new CheckpointError(
      `${path}: cannot be written: ${
        error instanceof Error ? error.message : error
      }`,
    );
  }
}

/**
 * Puts the state of the checkpoint into a training, if there is one.
 *
 * @returns How many steps it has taken; 0 without a checkpoint.
 * @throws {CheckpointError} if it is of a training with other options.
 * @throws {SafetensorsError} if the file is damaged.
 */
export async function readCheckpoint(
  directory: string,
  training: Training,
): Promise<number> {
  const path = `${directory}/${FILE}`;
  let file: Uint8Array<ArrayBuffer>;
  try {
    file = await Deno.readFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
  const { arrays, metadata } = decodeSafetensors(file, path);
  const mine = fingerprint(training.options);
  if (metadata.options !== mine) {
    throw new CheckpointError(
      `${path}: is of a training with other options: ${metadata.options}, not ${mine}`,
    );
  }
  const step = Number(metadata.step);
  if (!Number.isSafeInteger(step) || step < 0) {
    throw new CheckpointError(`${path}: has no number of steps`);
  }
  const tensors = Object.entries(tensorsOf(training));
  for (const [name, tensor] of tensors) {
    const array = arrays[name];
    if (array?.data.length !== tensor.size) {
      throw new CheckpointError(`${path}: has no ${name} of this training`);
    }
  }
  for (const [name, tensor] of tensors) tensor.copy_(arrays[name]!.data);
  training.adam.steps = step;
  return step;
}
