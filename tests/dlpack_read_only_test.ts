/** Memory that another library lends by DLPack for reading only. */
import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  Adam,
  ArgumentError,
  clipGradNorm,
  DDPLoss,
  ExponentialMovingAverage,
  L2NormLoss,
  matmul,
  Metrics,
  MSELoss,
  MultiTaskLoss,
  ProcessGroup,
  SGD,
  Tensor,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";

/** Where DLManagedTensorVersioned has its flags, and the bit that forbids writing. */
const FLAGS = 24;
const READ_ONLY = 1n;

/** The same memory, as another library lends it that forbids writing. */
function readOnly(owner: Tensor): Tensor {
  const managed = owner.toDLPack();
  const head = Deno.UnsafePointerView.getArrayBuffer(managed, 32);
  new DataView(head).setBigUint64(FLAGS, READ_ONLY, true);
  return Tensor.fromDLPack(owner.device, managed);
}

const numbers = fc.float({ noNaN: true, min: -100, max: 100 });
const rows = fc.array(fc.tuple(numbers, numbers, numbers), {
  minLength: 1,
  maxLength: 40,
});

testOnDevices(
  "read-only memory is read as any other: losses, metrics, products and copies have the same bits",
  async (device) => {
    const loss = new MultiTaskLoss({
      energy: { loss: "per_atom_mae" },
      forces: { loss: "l2norm", coefficient: 10 },
    });
    await fc.assert(
      fc.asyncProperty(rows, numbers, async (rows, energy) => {
        using forces = device.tensor(
          Float32Array.from(rows.flat()),
          [rows.length, 3],
        );
        using e = device.tensor(Float32Array.of(energy));
        using natoms = device.tensor(Int32Array.of(rows.length));
        using lentForces = readOnly(forces);
        using lentE = readOnly(e);
        using lentNatoms = readOnly(natoms);
        using zeros = device.zeros(forces.shape);
        using zero = device.zeros([1]);
        const resultsOf = async (
          f: Tensor,
          e: Tensor,
          natoms: Tensor,
        ): Promise<unknown> => {
          using reduced = loss.valueAndGrad({
            energy: { input: e, target: zero, natoms },
            forces: { input: zeros, target: f },
          });
          using norms = new L2NormLoss().forward(f, zeros);
          using product = matmul(f, f, { transposeA: true });
          using copy = device.empty(f.shape);
          using metrics = new Metrics(device);
          metrics.add({ natoms, forces: { input: f, target: zeros } });
          return [
            await reduced.read(),
            await reduced.grads.forces!.data(),
            await norms.data(),
            await product.data(),
            await copy.copy_(f).data(),
            await metrics.result(),
          ];
        };
        assertEquals(
          await resultsOf(lentForces, lentE, lentNatoms),
          await resultsOf(forces, e, natoms),
        );
      }),
      { numRuns: 50 },
    );
  },
);

testOnDevices(
  "read-only memory is written to by nothing, and what would says so",
  async (device) => {
    using group = await ProcessGroup.init({ device });
    const owned = new Float32Array([1, -2, 3, 4, 5, -6, 7, 8, 9]);
    using owner = device.tensor(owned, [3, 3]);
    using lent = readOnly(owner);
    using view = lent.reshape([9]);
    using mine = device.zeros([3, 3]);
    using value = device.zeros([]);
    const writers: Record<string, () => unknown> = {
      "copy_ of a tensor": () => lent.copy_(mine),
      "copy_ of an array": () => lent.copy_(owned),
      "copy_ to a view": () => view.copy_(owned),
      "matmul": () => matmul(mine, mine, { out: lent }),
      "a loss": () => new MSELoss().forward(mine, mine, null, { out: lent }),
      "a gradient": () =>
        new MSELoss().backward(mine, mine, null, null, { out: lent }),
      "a reduced loss": () =>
        new DDPLoss("mse").valueAndGrad(mine, mine, null, {
          out: { value, grad: lent },
        }),
      "Adam": () => new Adam([mine, lent]),
      "SGD": () => new SGD([view]),
      "averages": () => new ExponentialMovingAverage([lent]),
      "clipping": () => clipGradNorm([lent], 1),
      "an all-reduce": () => group.allReduce(view),
      "averaged gradients": () => group.averageGradients([mine, lent]),
      "a broadcast": () => group.broadcast(lent),
    };
    for (const [name, write] of Object.entries(writers)) {
      assertThrows(write, ArgumentError, "read-only memory", name);
    }
    assertEquals(await owner.data(), owned);
  },
);

testOnDevices(
  "gradients in read-only memory step parameters, clipped or not",
  async (device) => {
    using owner = device.tensor(new Float32Array([3, 4]));
    using gradient = readOnly(owner);
    using weight = device.zeros([2]);
    using sgd = new SGD([weight], { lr: 1 });
    sgd.step([gradient], { maxNorm: 1 });
    assertEquals(
      (await weight.toList()).map((x) => Math.round(1e5 * x) / 1e5),
      [-0.6, -0.8],
    );
    assertEquals(await owner.toList(), [3, 4]);
  },
);
