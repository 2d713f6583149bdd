// Trains a neural potential on energies and forces, over any number of replicas:
//
//   deno run -A launch.ts --nproc-per-node 2 examples/neural_potential.ts \
//     --train train.xyz --test test.xyz --checkpoint potential.safetensors
//
// (--help lists the options.) The model, neural/model.ts, is written in jax-js
// (https://jax-js.com), which has autograd; what is here gives it the losses of
// the field, exact over the replicas, and takes the steps. How the two meet is in
// `fit`: the losses read what jax-js predicts where it is, and their gradients
// are what it pulls back to the parameters.
//
// Measured on mlearn's silicon (214 structures to train on, 25 to test on), mean
// absolute errors of the test set after these 8000 steps of two replicas, 8 minutes
// on two processors: 3.1 meV/atom and 0.078 eV/Å; the linear potential of
// train_potential.ts: 6.0 and 0.107. On germanium after 1500 steps: 5.9 and 0.075.

import {
  Adam,
  Device,
  ExponentialMovingAverage,
  MultiTaskLoss,
  ProcessGroup,
} from "../mod.ts";
import { runCommand } from "./command/run.ts";
import { Batch, deal, shared, sizesOf } from "./neural/batch.ts";
import { resume, save, type Training } from "./neural/checkpoint.ts";
import { startOf } from "./neural/least_squares.ts";
import { HELP, type Options, readOptions } from "./neural/options.ts";
import { NeuralPotential } from "./neural/potential.ts";
import { loadDataSets } from "./potential/data_sets.ts";
import {
  type ErrorReport,
  ErrorSums,
  type Predicted,
} from "./potential/errors.ts";
import {
  energyOfAtoms,
  findFreeAtoms,
  isFreeAtom,
} from "./potential/free_atoms.ts";
import { Progress } from "./potential/progress.ts";
import { Random } from "./potential/random.ts";
import { printErrors, writeResult } from "./potential/results.ts";
import {
  atomCount,
  elementsOf,
  type Structure,
} from "./potential/structure.ts";

/** Steps in which the learning rate rises; then it falls, to 0 at the last. */
const WARM_UP = 100;
/** The gradients' norm is cut to this. */
const MAX_NORM = 10;
/** How often in a run the loss is told. */
const READINGS = 20;

async function main(): Promise<void> {
  const options = readOptions(Deno.args);
  if (options === undefined) return console.log(HELP);
  // jax-js computes on the CPU, and a tensor there can share its results.
  using device = await Device.open("cpu");
  using group = await ProcessGroup.init({ device });
  using owned = new DisposableStack();
  const isFirst = group.rank === 0;

  // --- Data: a batch is dealt to the replicas structure by structure. ---------

  const { trainSet, testSet } = await loadDataSets(options);
  const { energies: freeAtoms } = findFreeAtoms(trainSet);
  // A free atom sees nothing: it only says where energies are counted from.
  const isBound = (structure: Structure): boolean => !isFreeAtom(structure);
  const elements = elementsOf(trainSet.filter(isBound));
  const random = new Random(options.seed);
  const shares = [trainSet, testSet].map((set) =>
    deal(set.filter(isBound), options.batch, random, group)
  );
  const sizes = sizesOf(shares.flat(), elements);
  const [train, test] = shares.map((set) =>
    set.map((share) => owned.use(new Batch(device, share, sizes, freeAtoms)))
  ) as [Batch[], Batch[]];

  // --- The model, from the least squares on, and what its steps need. ---------

  const z = elements.length;
  const sum = (numbers: Float64Array<ArrayBuffer>): void => {
    using tensor = shared(device, numbers);
    group.allReduce(tensor);
  };
  const start = startOf(train, z, random, options.energyWeight, sum);
  using potential = new NeuralPotential(device, z, start);
  const { parameters } = potential;
  using adam = new Adam(parameters);
  const ema = new ExponentialMovingAverage(parameters, { useNumUpdates: true });
  owned.defer(() => ema.dispose());
  const { checkpoint, checkpointEvery: _, report, ...decisive } = options;
  const training = { potential, adam, ema, settings: JSON.stringify(decisive) };
  if (checkpoint !== undefined) await resume(checkpoint, training, group);
  if (isFirst) {
    const [on, of] = [trainSet, testSet].map((set) =>
      `${set.length} structures (${atomCount(...set)} atoms)`
    );
    console.log(
      `${on} to train on, ${of} to test on; ${group.worldSize} × ` +
        `${device.name}; after step ${adam.steps}`,
    );
  }

  const began = performance.now();
  const done = adam.steps;
  const losses = await fit(training, train, random, options, group);
  const seconds = (performance.now() - began) / 1000;

  // --- How good the averages of the parameters are. ---------------------------

  using _averages = ema.averageParameters();
  const errorsOf = async (
    batches: readonly Batch[],
    structures: readonly Structure[],
  ): Promise<ErrorReport> => {
    using sums = new ErrorSums(device, group, structures.filter(isBound));
    for (const batch of batches) {
      sums.add(predicted(potential, batch, freeAtoms));
    }
    return await sums.result();
  };
  const errors = {
    train: await errorsOf(train, trainSet),
    test: await errorsOf(test, testSet),
  };
  if (!isFirst) return;
  printErrors(Object.entries(errors));
  if (report === undefined) return;
  await writeResult(
    report,
    JSON.stringify(
      {
        worldSize: group.worldSize,
        losses,
        secondsPerStep: seconds / (options.steps - done),
        errors: [
          errors.test.energyMAE,
          errors.test.forceMAE,
          errors.test.baselineForceMAE,
        ],
        parameters: (await Promise.all(parameters.map((x) => x.toList())))
          .flat(),
      },
      null,
      2,
    ) + "\n",
  );
}

/** Trains the parameters, in place, from the step that was reached to the last. */
async function fit(
  training: Training,
  batches: readonly Batch[],
  random: Random,
  options: Options,
  group: ProcessGroup,
): Promise<number[]> {
  const { potential, adam, ema } = training;
  const { device } = group;
  const { steps, lr, energyWeight, checkpoint, checkpointEvery } = options;
  const loss = new MultiTaskLoss({
    energy: {
      loss: "per_atom_mae",
      coefficient: energyWeight,
      ignoreNaN: true,
    },
    forces: { loss: "l2norm", ignoreNaN: true },
  }, { group });
  using progress = new Progress("training", steps, group.rank === 0);
  const losses: number[] = [];
  let order: number[] = [];
  const done = adam.steps;
  for (let step = 1; step <= steps; step++) {
    // Every epoch meets the batches in a new order: the same everywhere.
    if (order.length === 0) order = random.permutation(batches.length);
    const batch = batches[order.pop()!]!;
    if (step <= done) continue;

    // A replica without structures in this batch makes the same calls.
    const { energies, forces } = potential.predict(batch);
    using energy = shared(device, energies, [energies.length, 1]);
    using force = shared(device, forces, [batch.atoms, 3]);
    using result = loss.valueAndGrad({
      energy: { input: energy, target: batch.energies, natoms: batch.natoms },
      forces: { input: force, target: batch.forces },
    });
    const gradients = potential.gradients(
      batch,
      await result.grads.energy!.data() as Float32Array<ArrayBuffer>,
      await result.grads.forces!.data() as Float32Array<ArrayBuffer>,
    ).map((x, i) => shared(device, x, potential.parameters[i]!.shape));

    // Replicas average their gradients, and so all take the same step.
    group.averageGradients(gradients);
    adam.lr = lr * Math.min(step / WARM_UP, 1) *
      cosineDecay((step - 1) / steps);
    adam.step(gradients, { maxNorm: MAX_NORM });
    ema.update();
    for (const gradient of gradients) gradient.dispose();

    if (step % Math.ceil(steps / READINGS) === 0 || step === steps) {
      // Its average over the replicas is the one true mean.
      group.allReduce(result.total, "avg");
      losses.push(await result.total.item());
      await progress.update(step, `loss ${losses.at(-1)!.toFixed(4)}`);
    }
    const isDue = step % checkpointEvery === 0 || step === steps;
    if (group.rank === 0 && checkpoint !== undefined && isDue) {
      await save(checkpoint, training);
    }
  }
  return losses;
}

/** What the potential says of each structure of a batch. */
function predicted(
  potential: NeuralPotential,
  batch: Batch,
  freeAtoms: Float64Array,
): Predicted[] {
  const { energies, forces } = potential.predict(batch);
  let at = 0;
  return batch.structures.map((structure, s) => {
    const { numbers } = structure;
    const own = forces.subarray(at, at += 3 * numbers.length);
    return [structure, {
      energy: energies[s]! + energyOfAtoms(numbers, freeAtoms),
      forces: Float64Array.from(own),
    }];
  });
}

/** From 1 smoothly to 0. */
function cosineDecay(progress: number): number {
  return 0.5 * (1 + Math.cos(Math.PI * progress));
}

if (import.meta.main) await runCommand(main);
