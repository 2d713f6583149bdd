// Trains an interatomic potential on energies and forces, over any number of
// replicas:
//
//   deno run -A launch.ts --nproc-per-node 2 examples/train_potential.ts
//
// (alone as well: deno run -A examples/train_potential.ts; --help lists the
// options.) The potential is linear in descriptors of the atoms' surroundings,
// so that a prediction is one matrix product, and the gradient of the loss
// another. What data-parallel training of any model looks like is in `fit`, a
// step spelled out; `main` has what is before and after it.

import {
  Adam,
  AtomlossError,
  DDPLoss,
  Device,
  InternalError,
  matmul,
  ProcessGroup,
  type Tensor,
} from "../mod.ts";
import { allStatistics, Batch, deal, type Share } from "./potential/batches.ts";
import {
  type DescriptorOptions,
  parameterCount,
} from "./potential/descriptors.ts";
import { errorsOf, predict } from "./potential/evaluate.ts";
import { readExtxyz } from "./potential/extxyz.ts";
import {
  HELP,
  OptionError,
  type Options,
  parseOptions,
} from "./potential/options.ts";
import { drawPlot, type LossPoint } from "./potential/plot.ts";
import { Progress } from "./potential/progress.ts";
import { Random } from "./potential/random.ts";
import { printErrors, writeResult } from "./potential/results.ts";
import { siliconStructures } from "./potential/silicon.ts";
import { atomCount, elementOf, type Structure } from "./potential/structure.ts";
import { whiten } from "./potential/whitening.ts";

/** Radial functions of the descriptors: 5 make 65 descriptors. */
const RADIAL_FUNCTIONS = 5;
/** Sizes of the data set that is made when no file is given. */
const SILICON_TRAIN = 80;
const SILICON_TEST = 20;
/** How often in a run the loss is read, which waits for the device. */
const LOSS_READINGS = 100;

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
  const { report, plot } = options;
  for (const path of isFirst ? [report, plot] : []) {
    if (path !== undefined) await writeResult(path, "", { append: true });
  }

  // --- Data: every replica reads all of it, and works on its share. ---------

  const { trainSet, testSet } = await loadData(options);
  const descriptors: DescriptorOptions = {
    cutoff: options.cutoff,
    radial: RADIAL_FUNCTIONS,
  };
  // The order of the structures depends on the seed, not on the replicas.
  const random = new Random(options.seed);
  const size = options.batch;
  const trainShares = await deal(trainSet, size, random, group, descriptors);
  const testShares = await deal(testSet, size, random, group, descriptors);

  // Descriptors are nearly dependent on each other; whitened ones are not.
  const whitening = whiten(
    trainSet,
    await allStatistics(trainShares, descriptors, group),
    parameterCount(descriptors),
  );
  using owned = new DisposableStack();
  const toDevice = (structures: Structure[], shares: Share[]): Batch[] =>
    shares.map((share) =>
      owned.use(new Batch(device, structures, share, whitening, options))
    );
  const trainBatches = toDevice(trainSet, trainShares);
  const testBatches = toDevice(testSet, testShares);

  if (isFirst) {
    console.log(
      `${elementOf(trainSet)}: ${trainSet.length} structures ` +
        `(${atomCount(...trainSet)} atoms) to train on, ${testSet.length} ` +
        `(${atomCount(...testSet)} atoms) to test on; ${whitening.size} ` +
        `parameters, ${options.dtype}; ${group.worldSize} × ${device.name} ` +
        `(${group.backend})`,
    );
  }

  // --- Training. ------------------------------------------------------------

  using parameters = device.zeros([whitening.size, 1], options.dtype);
  const start = performance.now();
  const losses = await fit(parameters, trainBatches, random, options, group);
  await device.synchronize();
  const seconds = (performance.now() - start) / 1000;

  // --- How good it is. ------------------------------------------------------

  const trained = await predict(
    trainSet,
    trainBatches,
    parameters,
    whitening,
    group,
  );
  const tested = await predict(
    testSet,
    testBatches,
    parameters,
    whitening,
    group,
  );
  const errors = errorsOf(testSet, tested);
  const finalParameters = await parameters.toList();
  if (!isFirst) return;

  printErrors({ train: errorsOf(trainSet, trained), test: errors });
  if (report !== undefined) {
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
      ...errors,
      finalLoss: losses.at(-1)!.loss,
      secondsPerStep: seconds / options.steps,
      parameters: finalParameters,
    };
    await writeResult(report, JSON.stringify(results, null, 2) + "\n");
  }
  if (plot !== undefined) {
    const sets = [
      { name: "train", structures: trainSet, predictions: trained },
      { name: "test", structures: testSet, predictions: tested },
    ];
    await writeResult(plot, await drawPlot(sets, losses));
  }
}

/**
 * Trains the parameters, in place.
 *
 * @param parameters `[P, 1]`, the same on all replicas.
 * @param batches This replica's share of every batch.
 * @param random Draws the order of the batches, the same on all replicas.
 * @returns The loss along the way.
 */
async function fit(
  parameters: Tensor,
  batches: readonly Batch[],
  random: Random,
  options: Options,
  group: ProcessGroup,
): Promise<LossPoint[]> {
  const { device, shape, dtype } = parameters;
  using gradient = device.zeros(shape, dtype);
  using adam = new Adam([parameters], { lr: options.lr });
  const energyLoss = new DDPLoss(options.energyLoss, "mean", { group });
  const forceLoss = new DDPLoss(options.forceLoss, "mean", { group });

  using progress = new Progress("training", options.steps, group.rank === 0);
  const losses: LossPoint[] = [];
  const readEvery = Math.max(1, Math.floor(options.steps / LOSS_READINGS));
  let order: number[] = [];

  for (let step = 1; step <= options.steps; step++) {
    // Every epoch meets the batches in a new order: the same everywhere.
    if (order.length === 0) order = random.permutation(batches.length);
    const batch = batches[order.pop()!]!;

    // Forward: predictions are linear in the parameters. A replica without
    // atoms in this batch has empty tensors, and makes the same calls.
    using energies = matmul(batch.energyDesign, parameters);
    using components = matmul(batch.forceDesign, parameters);
    using forces = components.reshape([batch.atoms, 3]);

    // The losses and their gradients. The mean is over the atoms of all
    // replicas, and not over the means of the replicas.
    using energy = energyLoss.valueAndGrad(
      energies,
      batch.energies,
      batch.natoms,
    );
    using force = forceLoss.valueAndGrad(forces, batch.forces);

    // Backward: the same matrices, transposed. That of the energies carries
    // the weight of their loss.
    using forceGrad = force.grad.reshape([3 * batch.atoms, 1]);
    matmul(batch.weightedEnergyDesign, energy.grad, {
      transposeA: true,
      out: gradient,
    });
    matmul(batch.forceDesign, forceGrad, {
      transposeA: true,
      out: gradient,
      accumulate: true,
    });

    // Replicas average their gradients, and so all take the same step.
    group.averageGradients([gradient]);
    adam.lr = options.lr * cosineDecay((step - 1) / options.steps);
    adam.step([gradient]);

    // Only reading the loss waits for the device, so it is not read in every
    // step. Its average over the replicas is the one true mean.
    if (step % readEvery === 0 || step === options.steps) {
      group.allReduce(energy.value, "avg");
      group.allReduce(force.value, "avg");
      const loss = options.energyWeight * await energy.value.item() +
        await force.value.item();
      losses.push({ step, loss });
      await progress.update(step, `loss ${loss.toFixed(4)}`);
    }
  }
  return losses;
}

/** From 1 at the start of training smoothly to 0 at its end. */
function cosineDecay(progress: number): number {
  return 0.5 * (1 + Math.cos(Math.PI * progress));
}

/** The structures of the files that are named, or silicon made here. */
async function loadData(
  { train, test, seed }: Options,
): Promise<{ trainSet: Structure[]; testSet: Structure[] }> {
  const trainSet = train === undefined
    ? siliconStructures(SILICON_TRAIN, seed)
    : await readExtxyz(train);
  const testSet = test === undefined
    ? siliconStructures(SILICON_TEST, seed + 1)
    : await readExtxyz(test);
  elementOf([...trainSet, ...testSet]);
  return { trainSet, testSet };
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
    console.error(`${speaker}: ${error.name}: ${error.message}`);
    Deno.exit(error instanceof OptionError ? 2 : 1);
  }
}
