/**
 * The state of a training in a file, from which it goes on to the same bits: the
 * parameters, what the optimiser keeps, how many steps were taken and with what
 * loss. The order of the batches follows from the seed and the steps.
 *
 * The file has the whitening as well: with the descriptors' options, it is the
 * potential.
 *
 * @module
 */

import {
  type Adam,
  AtomlossError,
  type Tensor,
  type TensorData,
} from "../../mod.ts";
import { replaceFile } from "../../tensor/replace_file.ts";
import {
  decodeSafetensors,
  encodeSafetensors,
  type Safetensors,
  type SafetensorsArray,
} from "../../tensor/safetensors.ts";
import type { LossPoint } from "./plot.ts";
import type { Settings } from "./settings.ts";
import type { Whitening } from "./whitening.ts";

/** A checkpoint cannot be written, or not be gone on from. */
export class CheckpointError extends AtomlossError {}

const FILE = "checkpoint.safetensors";

/** A training as its checkpoint has it. */
export interface Training {
  readonly parameters: Tensor;
  /** What Adam keeps of these parameters; its `steps` are those of the training. */
  readonly adam: Pick<Adam, "steps" | "state">;
  /** The loss along the way. */
  readonly losses: LossPoint[];
  readonly whitening: Whitening;
  /** What the steps depend on: another one is another training. */
  readonly settings: Settings;
  /** How the steps are divided over machines, on which only rounding depends. */
  readonly division: Settings;
}

/**
 * Makes the folder and finds out whether a checkpoint can be written, which is
 * better known before the training than after hours of it.
 *
 * @param resume Whether there may be a checkpoint: otherwise it would be lost.
 * @throws {CheckpointError} if it cannot, or there is one that may not be.
 */
export async function prepareCheckpoints(
  directory: string,
  resume: boolean,
): Promise<void> {
  const path = `${directory}/${FILE}`;
  const probe = temporaryName(directory);
  let exists: boolean;
  try {
    await Deno.mkdir(directory, { recursive: true });
    await Deno.writeFile(probe, new Uint8Array());
    await Deno.remove(probe);
    exists = await Deno.stat(path).then(() => true, notFound);
  } catch (error) {
    throw failure(path, "cannot be written", error);
  }
  if (exists && !resume) {
    throw new CheckpointError(
      `${path}: is there from another training: go on with --resume, or name another folder`,
    );
  }
}

/**
 * Writes the state of a training. What was there stays until all is written.
 *
 * @throws {CheckpointError} if it cannot be written.
 */
export async function writeCheckpoint(
  directory: string,
  training: Training,
): Promise<void> {
  const steps = training.adam.steps;
  const arrays: Record<string, SafetensorsArray> = constants(training);
  for (const [name, tensor] of Object.entries(tensorsOf(training))) {
    const { dtype, shape } = tensor;
    arrays[name] = { dtype, shape, data: await tensor.data() };
  }
  arrays.losses = {
    dtype: "float64",
    shape: [training.losses.length, 2],
    data: Float64Array.from(
      training.losses.flatMap(({ step, loss }) => [step, loss]),
    ),
  };
  const bytes = encodeSafetensors({
    arrays,
    metadata: {
      steps: String(steps),
      settings: JSON.stringify(training.settings),
      division: JSON.stringify(training.division),
    },
  });
  const path = `${directory}/${FILE}`;
  try {
    await Deno.mkdir(directory, { recursive: true });
    await replaceFile(path, bytes);
  } catch (error) {
    throw failure(path, "cannot be written", error);
  }
}

/**
 * Puts the state of the checkpoint into a training, if there is one.
 *
 * @returns What is divided otherwise than in the training that wrote it, so that
 * rounding differs: texts to show.
 * @throws {CheckpointError} if it is of another training, or cannot be read;
 * then nothing is changed.
 * @throws {SafetensorsError} if the file is damaged.
 */
export async function readCheckpoint(
  directory: string,
  training: Training,
): Promise<string[]> {
  const path = `${directory}/${FILE}`;
  let file: Uint8Array<ArrayBuffer>;
  try {
    file = await Deno.readFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw failure(path, "cannot be read", error);
  }
  const checkpoint = decodeSafetensors(file, path);
  const { arrays, metadata } = checkpoint;

  // The settings first: most else follows from them, and would say less.
  const others = differences(
    training.settings,
    parseSettings(path, metadata.settings),
  );
  if (others.length > 0) {
    throw new CheckpointError(
      `${path}: is of a training with other options: ${others.join("; ")}`,
    );
  }
  for (const [name, { shape, data }] of Object.entries(constants(training))) {
    const saved = arrayOf(checkpoint, path, name, shape, "float64");
    if (!saved.every((x: number | bigint, i: number) => x === data[i])) {
      throw new CheckpointError(
        `${path}: ${name} is another: it was written by another version of this script`,
      );
    }
  }
  const steps = /^\d{1,15}$/.test(metadata.steps ?? "")
    ? Number(metadata.steps)
    : NaN;
  if (!(steps <= Number(training.settings["--steps"]))) {
    throw new CheckpointError(`${path}: has no number of steps`);
  }
  const tensors = Object.entries(tensorsOf(training)).map(([name, tensor]) => {
    const { shape, dtype } = tensor;
    return [tensor, arrayOf(checkpoint, path, name, shape, dtype)] as const;
  });
  const readings = arrays.losses?.shape[0] ?? 0;
  const losses = arrayOf(checkpoint, path, "losses", [readings, 2], "float64");
  const divided = differences(
    training.division,
    parseSettings(path, metadata.division),
  );

  for (const [tensor, data] of tensors) tensor.copy_(data);
  training.adam.steps = steps;
  training.losses.length = 0;
  for (let i = 0; i < losses.length; i += 2) {
    training.losses.push({
      step: Number(losses[i]),
      loss: Number(losses[i + 1]),
    });
  }
  return divided;
}

/** What changes from step to step, on the device. */
function tensorsOf({ parameters, adam }: Training): Record<string, Tensor> {
  return Object.fromEntries([
    ["parameters", parameters] as const,
    ...adam.state.map((tensor, i) => [`adam.${i}`, tensor] as const),
  ]);
}

/** What the parameters mean: the same from the first step to the last. */
function constants({ whitening }: Training): Record<string, SafetensorsArray> {
  const { freeAtoms, mean, transform, size } = whitening;
  return {
    "whitening.freeAtoms": {
      dtype: "float64",
      shape: [freeAtoms.length],
      data: Float64Array.from(freeAtoms),
    },
    "whitening.mean": {
      dtype: "float64",
      shape: [mean.length],
      data: Float64Array.from(mean),
    },
    "whitening.transform": {
      dtype: "float64",
      shape: [mean.length, size],
      data: Float64Array.from(transform),
    },
  };
}

/** An array of a checkpoint, which must be as this training's. */
function arrayOf(
  { arrays }: Safetensors,
  path: string,
  name: string,
  shape: readonly number[],
  dtype: string,
): TensorData {
  const array = arrays[name];
  const isLike = array !== undefined && array.dtype === dtype &&
    array.shape.length === shape.length &&
    array.shape.every((n, i) => n === shape[i]);
  if (isLike) return array.data;
  throw new CheckpointError(
    `${path}: has no ${name} of shape [${shape}] and dtype ${dtype}`,
  );
}

function parseSettings(path: string, text: string | undefined): Settings {
  try {
    return Object(JSON.parse(text!)) as Settings;
  } catch {
    throw new CheckpointError(`${path}: does not say with which options`);
  }
}

/** What is otherwise now than it was: a text for each. */
function differences(now: Settings, then: Settings): string[] {
  return Object.keys({ ...then, ...now })
    .filter((key) => now[key] !== then[key])
    .map((key) => `${key} was ${then[key]}, is ${now[key]}`);
}

/** Of its own for each process: two of them must not write into each other's. */
function temporaryName(directory: string): string {
  return `${directory}/.${FILE}.${Deno.pid}`;
}

function failure(path: string, what: string, error: unknown): CheckpointError {
  const reason = error instanceof Error ? error.message : String(error);
  return new CheckpointError(`${path}: ${what}: ${reason}`);
}

function notFound(error: unknown): false {
  if (error instanceof Deno.errors.NotFound) return false;
  throw error;
}
