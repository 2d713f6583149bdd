// A few steps of training like examples/train_potential.ts, once with the mean
// that DDPLoss takes over the atoms of all replicas, once with each replica's
// own mean. Rank 0 writes both sets of parameters, as JSON, to the file that
// is named. Run by tests/examples_train_test.ts.

import { DDPLoss, Device, matmul, ProcessGroup, SGD } from "../mod.ts";
import { allStatistics, Batch, deal } from "../examples/potential/batches.ts";
import { parameterCount } from "../examples/potential/descriptors.ts";
import { Random } from "../examples/potential/random.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import { whiten } from "../examples/potential/whitening.ts";

const STEPS = 6;
/** No replica of up to 3 is without atoms: an own mean would be 0/0. */
const BATCH = 7;

const [path] = Deno.args;
using device = await Device.open("cpu");
using group = await ProcessGroup.init({ device });
const structures = siliconStructures(4 * BATCH, 1);
const descriptors = { cutoff: 4, radial: 2 };
const shares = await deal(
  structures,
  BATCH,
  new Random(1),
  group,
  descriptors,
);
const whitening = whiten(
  structures,
  await allStatistics(shares, descriptors, group),
  parameterCount(descriptors),
);
const batches = shares.map((share) =>
  new Batch(device, structures, share, whitening, {
    dtype: "float64",
    energyWeight: 1,
  })
);

/** Trains on force errors, and returns the parameters. */
async function train(loss: DDPLoss): Promise<number[]> {
  const shape = [whitening.size, 1];
  using parameters = device.zeros(shape, "float64");
  using gradient = device.zeros(shape, "float64");
  using sgd = new SGD([parameters], { lr: 0.1 });
  for (let step = 0; step < STEPS; step++) {
    const batch = batches[step % batches.length]!;
    using components = matmul(batch.forceDesign, parameters);
    using forces = components.reshape(batch.forces.shape);
    using force = loss.valueAndGrad(forces, batch.forces);
    using forceGrad = force.grad.reshape(components.shape);
    matmul(batch.forceDesign, forceGrad, { transposeA: true, out: gradient });
    group.averageGradients([gradient]);
    sgd.step([gradient]);
  }
  return await parameters.toList();
}

const ofAllReplicas = await train(new DDPLoss("l2norm", "mean", { group }));
const ofEachReplica = await train(new DDPLoss("l2norm", "mean"));
if (group.rank === 0) {
  await Deno.writeTextFile(
    path!,
    JSON.stringify({ ofAllReplicas, ofEachReplica }),
  );
}
for (const batch of batches) batch[Symbol.dispose]();
