/**
 * The state of a training in one file of safetensors: all that changes with the
 * steps, and what the model was scaled with at their start.
 *
 * @module
 */

import {
  type Adam,
  AtomlossError,
  type ExponentialMovingAverage,
  type ProcessGroup,
  type Tensor,
} from "../../mod.ts";
import { loadTensors, saveTensors } from "../../tensor/safetensors.ts";
import type { NeuralPotential } from "./potential.ts";

/** A checkpoint is of another training. */
export class CheckpointError extends AtomlossError {}

/** A training as its checkpoint has it. */
export interface Training {
  readonly potential: NeuralPotential;
  /** Of its parameters, as the averages. */
  readonly adam: Adam;
  readonly ema: ExponentialMovingAverage;
  /** A text of all that the steps depend on. */
  readonly settings: string;
}

/** All that changes with the steps, and what the inputs are scaled with. */
function tensorsOf(
  { potential, adam, ema }: Training,
): Record<string, Tensor> {
  return Object.fromEntries([
    ...Object.entries(potential.tensors),
    ...adam.state.map((tensor, i) => [`adam.${i}`, tensor] as const),
    ...ema.state.map((tensor, i) => [`average.${i}`, tensor] as const),
  ]);
}

/** Writes the state of a training. What was there stays until all is written. */
export async function save(path: string, training: Training): Promise<void> {
  const { adam, settings } = training;
  await saveTensors(path, tensorsOf(training), {
    steps: String(adam.steps),
    settings,
  });
}

/**
 * Puts what is in the file into a training, on all replicas, if there is one.
 *
 * @throws {CheckpointError} on the first replica, if it is of another training.
 */
export async function resume(
  path: string,
  training: Training,
  group: ProcessGroup,
): Promise<void> {
  const { adam, ema, settings } = training;
  const tensors = tensorsOf(training);
  using steps = group.device.zeros([1], "float64");
  // One replica reads, so that all go on from the same.
  if (group.rank === 0 && await exists(path)) {
    const { tensors: saved, metadata } = await loadTensors(path, group.device);
    if (metadata.settings !== settings) {
      throw new CheckpointError(
        `${path}: is of a training with ${metadata.settings}, not with ${settings}`,
      );
    }
    for (const [name, tensor] of Object.entries(tensors)) {
      using read = saved[name];
      if (read === undefined) {
        throw new CheckpointError(`${path}: has no ${name}`);
      }
      tensor.copy_(read);
    }
    steps.copy_(Float64Array.of(Number(metadata.steps)));
  }
  for (const tensor of [steps, ...Object.values(tensors)]) {
    group.broadcast(tensor);
  }
  adam.steps = ema.numUpdates = await steps.item();
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
