// Trains an interatomic potential on energies and forces, over any number of
// replicas:
//
//   deno run -A launch.ts --nproc-per-node 2 examples/train_potential.ts
//
// (alone as well: deno run -A examples/train_potential.ts; --help lists the
// options.) The potential is linear in functions of the atoms' surroundings,
// so that a prediction is one matrix product, and the gradient of the loss
// another. What data-parallel training of any model looks like is in `fit`, a
// step spelled out; `main` has what is before and after it.

import {
  Adam,
  AtomlossError,
  CollectiveError,
  Device,
  InternalError,
  matmul,
  MultiTaskLoss,
  ProcessGroup,
} from "../mod.ts";
import { OptionError } from "./command/arguments.ts";
import { ExtxyzError } from "./extxyz/error.ts";
import { Batch, deal, type Share } from "./potential/batches.ts";
import {
  CheckpointError,
  prepareCheckpoints,
  readCheckpoint,
  type Training,
  writeCheckpoint,
} from "./potential/checkpoint.ts";
import { SYMBOLS } from "./extxyz/elements.ts";
import { loadDataSets } from "./potential/data_sets.ts";
import { makeBasis } from "./potential/basis.ts";
import type { ErrorReport } from "./potential/errors.ts";
import { evaluate, predict } from "./potential/evaluate.ts";
import { findFreeAtoms, type FreeAtoms } from "./potential/free_atoms.ts";
import { HELP, type Options, parseOptions } from "./potential/options.ts";
import { GeometryError } from "./potential/neighbors.ts";
import { countLabels } from "./potential/labels.ts";
import { GoodState } from "./potential/good_state.ts";
import { Interrupted, Interruption } from "./potential/interruption.ts";
import { drawPlot, type LossPoint } from "./potential/plot.ts";
import { ParityPoints } from "./potential/parity.ts";
import { Potential } from "./potential/potential.ts";
import { Progress } from "./potential/progress.ts";
import { Random } from "./potential/random.ts";
import { printErrors, writeResult } from "./potential/results.ts";
import { decisiveSettings, divisionSettings } from "./potential/settings.ts";
import {
  atomCount,
  DataSetError,
  elementsOf,
  type Structure,
} from "./potential/structure.ts";
import { Shelf } from "./potential/shelf.ts";
import { laneCount, Statistics } from "./potential/statistics.ts";
import { weighted } from "./potential/weights.ts";
import { whiten } from "./potential/whitening.ts";

/** How often in a run the loss is read, which waits for the device. */
const LOSS_READINGS = 100;

/** What is wrong with what all replicas are told and read. */
const INPUT_ERRORS = [OptionError, ExtxyzError, DataSetError, GeometryError];
/** How long the others wait for the first to say it, in ms: a launcher then ends them. */
const SAYING = 2_000;

/** Who an error message is from; more is known once the replicas met. */
let speaker = "train_potential.ts";

/** Reads the data, trains, and says how good the potential is. */
async function main(options: Options): Promise<void> {
  // --- This replica: one of several, each with a device of its own. ---------

  using device = await Device.open(options.device);
  using group = await ProcessGroup.init({ device });
  speaker = `replica ${group.rank} of ${group.worldSize}`;
  const isFirst = group.rank === 0;

  // Whether results can be written is better known before than after.
  const { report, plot, save } = options;
  for (const path of isFirst ? [report, plot, save] : []) {
    if (path !== undefined) await writeResult(path, "", { append: true });
  }
  if (isFirst && options.checkpoint !== undefined) {
    await prepareCheckpoints(options.checkpoint, options.resume);
  }

  // --- Data: every replica reads all of it, and works on its share. ---------

  const data = await loadDataSets(options);
  const { testSet, notes, warnings } = data;
  const trainSet = weighted(data.trainSet, options);
  if (isFirst) {
    for (const note of notes) console.log(note);
    for (const warning of warnings) console.error(`warning: ${warning}`);
  }
  const elements = elementsOf(trainSet);
  const basis = makeBasis(elements, options.cutoff);
  // The order of the structures depends on the seed, not on the replicas.
  const random = new Random(options.seed);
  const size = options.batch;
  // What memory has no room for waits in a file.
  using shelf = new Shelf(options.memory * 2 ** 30);
  const freeAtoms = findFreeAtoms(trainSet, options.e0s);
  const lanes = laneCount(size, group.worldSize);
  const statistics = new Statistics(basis, freeAtoms, lanes);
  const dealOut = (set: Structure[], sums?: Statistics): Promise<Share[]> =>
    deal(set, size, random, group, basis, shelf, sums);
  const trainShares = await dealOut(trainSet, statistics);
  const testShares = await dealOut(testSet);

  // The functions are nearly dependent on each other; whitened ones are not.
  const moments = await statistics.result(group);
  const whitening = whiten(trainSet, moments, freeAtoms, basis);
  using owned = new DisposableStack();
  const toDevice = (structures: Structure[], shares: Share[]): Batch[] =>
    shares.map((share) =>
      owned.use(
        new Batch(device, structures, share, whitening, basis, shelf, options),
      )
    );
  const trainBatches = toDevice(trainSet, trainShares);
  const testBatches = toDevice(testSet, testShares);

  if (isFirst) {
    console.log(
      `${
        elements.map((z) => SYMBOLS[z]).join(", ")
      }: ${trainSet.length} structures ` +
        `(${atomCount(...trainSet)} atoms) to train on, ${testSet.length} ` +
        `(${atomCount(...testSet)} atoms) to test on; ${whitening.size} ` +
        `parameters, ${options.dtype}; ${group.worldSize} × ${device.name} ` +
        `(${group.backend})`,
    );
    printLabels("train", trainSet);
    printLabels("test", testSet);
    printFreeAtoms(freeAtoms);
    const free = basis.size - elements.filter(freeAtoms.isKnown).length;
    if (whitening.size < free) {
      console.log(
        `${free - whitening.size} of ${free} functions are not determined by ` +
          `these structures, and left out`,
      );
    }
  }

  // --- Training. ------------------------------------------------------------

  // From the least squares on, to the minimum of the loss that is asked for.
  using parameters = device.tensor(
    options.dtype === "float32"
      ? Float32Array.from(whitening.start)
      : whitening.start,
    [whitening.size, 1],
  );
  using adam = new Adam([parameters], { lr: options.lr });
  const losses: LossPoint[] = [];
  const training: Training = {
    parameters,
    adam,
    losses,
    whitening,
    settings: await decisiveSettings(options, { trainSet, testSet }),
    division: divisionSettings(options, group),
  };
  if (options.resume) await resume(training, options.checkpoint!, group);
  const began = performance.now();
  const steps = options.steps - adam.steps;
  await fit(training, adam, trainBatches, random, options, group);
  await device.synchronize();
  const seconds = (performance.now() - began) / 1000;

  // --- How good it is. ------------------------------------------------------

  const errorsOn = (
    structures: Structure[],
    batches: readonly Batch[],
  ): Promise<ErrorReport> =>
    evaluate(structures, batches, parameters, whitening, group);
  const train = await errorsOn(trainSet, trainBatches);
  const test = await errorsOn(testSet, testBatches);
  if (isFirst) printErrors([["train", train], ["test", test]]);
  if (isFirst && save !== undefined) {
    const trained = await parameters.toList();
    await Potential.of(basis, whitening, trained).save(save);
  }
  if (isFirst && report !== undefined) {
    const results = {
      worldSize: group.worldSize,
      device: device.name,
      backend: group.backend,
      dtype: options.dtype,
      steps: options.steps,
      trainStructures: trainSet.length,
      trainAtoms: atomCount(...trainSet),
      testStructures: testSet.length,
      testAtoms: atomCount(...testSet),
      ...test,
      finalLoss: losses.at(-1)!.loss,
      secondsPerStep: steps > 0 ? seconds / steps : null,
      parameters: await parameters.toList(),
    };
    await writeResult(report, JSON.stringify(results, null, 2) + "\n");
  }
  if (plot === undefined) return;
  const pointsOf = async (
    structures: Structure[],
    batches: readonly Batch[],
  ): Promise<ParityPoints> => {
    const points = new ParityPoints();
    for (
      const predicted of await predict(
        structures,
        batches,
        parameters,
        whitening,
        group,
      )
    ) points.add(predicted);
    return points;
  };
  const sets = {
    train: await pointsOf(trainSet, trainBatches),
    test: await pointsOf(testSet, testBatches),
  };
  if (isFirst) await writeResult(plot, await drawPlot(sets, losses));
}

/**
 * Trains the parameters, in place, from the step that was reached to the last.
 *
 * @param training Parameters `[P, 1]` and what belongs to them, the same on all
 * replicas. The loss is recorded along the way.
 * @param adam Of these parameters.
 * @param batches This replica's share of every batch.
 * @param random Draws the order of the batches, the same on all replicas.
 */
async function fit(
  training: Training,
  adam: Adam,
  batches: readonly Batch[],
  random: Random,
  options: Options,
  group: ProcessGroup,
): Promise<void> {
  const { parameters, losses } = training;
  const { device, shape, dtype } = parameters;
  using gradient = device.zeros(shape, dtype);
  // All losses in one launch, their sample counts in one collective. What has
  // no label is NaN, and does not count.
  const loss = new MultiTaskLoss({
    energy: {
      loss: options.energyLoss,
      coefficient: options.energyWeight,
      ignoreNaN: true,
    },
    forces: { loss: options.forceLoss, ignoreNaN: true },
    stress: { loss: "mae", coefficient: options.stressWeight },
  }, { group });
  // Of the l2norm every atom is a sample, of the others every component.
  const forceSamples = options.forceLoss === "l2norm" ? 1 : 3;

  const isFirst = group.rank === 0;
  const directory = options.checkpoint;
  using interruption = new Interruption(directory !== undefined, isFirst);
  const readEvery = Math.max(1, Math.floor(options.steps / LOSS_READINGS));
  let order: number[] = [];
  const done = adam.steps;
  using progress = new Progress("training", options.steps, isFirst);
  await progress.update(done);
  let taken = done; // steps that are whole
  let saved = done; // steps of the last checkpoint
  using good = new GoodState(training);

  try {
    for (let step = 1; step <= options.steps; step++) {
      // Every epoch meets the batches in a new order: the same everywhere.
      if (order.length === 0) order = random.permutation(batches.length);
      const batch = batches[order.pop()!]!;
      if (step <= done) continue;

      // The means are over the labels of all replicas and micro-batches, and
      // not over their means. How many these are is known now: while the model
      // runs, the replicas add up their counts.
      using normalizer = loss.normalizer({
        energy: batch.labels.energies,
        forces: forceSamples * batch.labels.forces,
        stress: 6 * batch.labels.stresses,
      });
      const isRead = step % readEvery === 0 || step === options.steps;
      let total = 0;
      for (const [i, micro] of batch.micro.entries()) {
        // Forward: predictions are linear in the parameters. A replica without
        // atoms in this batch has empty tensors, and makes the same calls.
        using design = micro.design();
        using energies = matmul(design.energy, parameters);
        using components = matmul(design.forces, parameters);
        using forces = components.reshape([micro.atoms, 3]);
        using strained = matmul(design.stress, parameters);
        using stresses = strained.reshape(micro.stresses.shape);

        // The losses and their gradients.
        const { natoms, weights } = micro;
        using result = loss.valueAndGrad({
          energy: {
            input: energies,
            target: micro.energies,
            natoms,
            weights: weights.energy,
          },
          forces: {
            input: forces,
            target: micro.forces,
            natoms, // which tell the atoms that a structure's weight is of
            weights: weights.forces,
          },
          stress: {
            input: stresses,
            target: micro.stresses,
            weights: weights.stress,
          },
        }, { normalizer });

        // Backward: the same matrices, transposed.
        const { energy, forces: force, stress } = result.grads;
        using forceGrad = force!.reshape(components.shape);
        using stressGrad = stress!.reshape(strained.shape);
        matmul(design.energy, energy!, {
          transposeA: true,
          out: gradient,
          accumulate: i > 0,
        });
        matmul(design.forces, forceGrad, {
          transposeA: true,
          out: gradient,
          accumulate: true,
        });
        matmul(design.stress, stressGrad, {
          transposeA: true,
          out: gradient,
          accumulate: true,
        });
        if (isRead) total += await result.total.item();
      }

      // Only reading the loss waits for the device, so it is not read in every
      // step. Its average over the replicas is the one true mean.
      const point = isRead
        ? { step, loss: await average(total, group) }
        : undefined;
      if (isRead && isFirst && directory !== undefined) good.keep();

      // Replicas average their gradients, and so all take the same step.
      group.averageGradients([gradient]);
      adam.lr = options.lr * cosineDecay((step - 1) / options.steps);
      adam.step([gradient]);
      taken = step;
      if (point !== undefined) {
        losses.push(point);
        await progress.update(step, `loss ${point.loss.toFixed(4)}`);
      }
      const isDue = step % options.checkpointEvery === 0 ||
        step === options.steps;
      if (isFirst && directory !== undefined && isDue) {
        await writeCheckpoint(directory, training);
        saved = step;
      }
      await interruption.check();
    }
  } catch (error) {
    const reason = await interruption.reason(error);
    // What a step has half changed is no state to go on from; and where a
    // checkpoint could not be written, the next one could not.
    const isWhole = adam.steps === taken && !(error instanceof CheckpointError);
    if (isFirst && directory !== undefined && isWhole) {
      const before = good.kept ? [good.kept] : [];
      await rescue([training, ...before], saved, directory);
    }
    throw reason;
  }
}

/**
 * Writes the state that a training has when it ends early: the first of several
 * that can be read. On a GPU a collective that has failed may have gone into the
 * last, not into one that was kept before; on a CPU a step ends where a
 * collective fails.
 *
 * @param saved Steps of the last checkpoint, which stays if it is the newest.
 */
async function rescue(
  states: readonly Training[],
  saved: number,
  directory: string,
): Promise<void> {
  let reason: unknown;
  for (const state of states) {
    try {
      if (saved > 0 && state.adam.steps <= saved) {
        console.error(`${speaker}: the checkpoint after step ${saved} stays`);
        return;
      }
      await writeCheckpoint(directory, state);
      console.error(`${speaker}: checkpoint after step ${state.adam.steps}`);
      return;
    } catch (error) {
      reason = error;
      if (!(error instanceof CollectiveError)) break;
    }
  }
  // It must not hide what has ended the training.
  console.error(`${speaker}: no checkpoint: ${reason}`);
}

/** Puts the state of the checkpoint into a training, if there is one. */
async function resume(
  training: Training,
  directory: string,
  group: ProcessGroup,
): Promise<void> {
  const { parameters, adam } = training;
  // One replica reads, so that all go on from the same.
  const divided = group.rank === 0
    ? await readCheckpoint(directory, training)
    : [];
  using steps = group.device.tensor(new Float64Array([adam.steps]));
  for (const tensor of [steps, parameters, ...adam.state]) {
    group.broadcast(tensor);
  }
  adam.steps = await steps.item();
  if (group.rank > 0) return;
  console.log(`going on after step ${adam.steps}`);
  for (const difference of divided) {
    console.log(`${difference}: the steps are the same to rounding`);
  }
}

/** The mean over the replicas of a number that each has. */
async function average(own: number, group: ProcessGroup): Promise<number> {
  using value = group.device.tensor(new Float64Array([own]));
  group.allReduce(value, "avg");
  return await value.item();
}

/** From 1 at the start of training smoothly to 0 at its end. */
function cosineDecay(progress: number): number {
  return 0.5 * (1 + Math.cos(Math.PI * progress));
}

/** Prints how many labels a data set has. */
function printLabels(name: string, structures: readonly Structure[]): void {
  const { energies, forces, stresses } = countLabels(structures);
  console.log(
    `${name}: ${energies} energies, forces on ${forces} atoms, ` +
      `${stresses} stresses`,
  );
}

/** Prints the energies of free atoms, and where they are from. */
function printFreeAtoms({ energies, origins }: FreeAtoms): void {
  const texts = [...origins].map(([z, origin]) =>
    `${SYMBOLS[z]} ${energies[z]!.toFixed(4)} eV (${origin})`
  );
  console.log(`free atoms: ${texts.join(", ")}`);
}

if (import.meta.main) {
  try {
    const options = parseOptions(Deno.args);
    if (options === undefined) console.log(HELP);
    else await main(options);
  } catch (error) {
    // What can go wrong has a class and says what it is; the rest is a bug.
    if (!(error instanceof AtomlossError) || error instanceof InternalError) {
      throw error;
    }
    if (
      Number(Deno.env.get("RANK") ?? 0) > 0 &&
      INPUT_ERRORS.some((type) => error instanceof type)
    ) await new Promise((resolve) => setTimeout(resolve, SAYING));
    console.error(`${speaker}: ${error.name}: ${error.message}`);
    Deno.exit(
      error instanceof OptionError
        ? 2
        : error instanceof Interrupted
        ? error.exitCode
        : 1,
    );
  }
}
