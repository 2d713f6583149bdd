/**
 * Two devices used in turn, call by call: a call that takes the GPU which is
 * the thread's current one for its own fails, or computes on the wrong one.
 */
import { assertEquals } from "@std/assert";
import {
  Adam,
  DDPLoss,
  Device,
  L2NormLoss,
  type Loss,
  matmul,
  Metrics,
  MSELoss,
  MultiTaskLoss,
  SGD,
  type Tensor,
} from "../mod.ts";
import { hasCuda } from "./devices.ts";
import { addBatch, randomStructures } from "./evaluate.ts";
import { randomNumbers } from "./random.ts";

const mse = new MSELoss();

/** Not known to the library: reduced by calls of their own. */
const written: Loss = {
  name: "mse written in TypeScript",
  outputShape: (shape) => shape,
  forward: (pred, target) => mse.forward(pred, target),
  backward: (pred, target, _natoms, gradOutput) =>
    mse.backward(pred, target, null, gradOutput),
};

/** Atoms: so many that a reduction has several blocks. */
const ATOMS = 3000;

/** What a device has computed, by name. */
type Results = [name: string, value: Promise<unknown>][];

/**
 * Makes every kind of call, and stops after each. Pinned blocks, events and
 * pooled memory of the device are used again on the way.
 */
function* work(device: Device, results: Results): Generator<void> {
  using stack = new DisposableStack();
  const read = (name: string, tensor: Tensor): void => {
    results.push([name, tensor.toList()]);
  };
  const tensor = (
    data: Float32Array<ArrayBuffer>,
    shape: number[],
  ): Tensor => stack.use(device.tensor(data, shape));
  const random = (seed: number, shape: number[]): Tensor =>
    tensor(
      Float32Array.from(
        randomNumbers(shape.reduce((a, b) => a * b), seed),
      ),
      shape,
    );

  const pred = random(1, [ATOMS, 3]);
  yield;
  const target = random(2, [ATOMS, 3]);
  yield;
  const natoms = stack.use(
    device.tensor(new Int32Array(ATOMS / 10).fill(10)),
  );
  yield;
  const mask = stack.use(
    device.tensor(Uint8Array.from({ length: ATOMS }, (_, i) => i % 3), [
      ATOMS,
    ], "bool"),
  );
  yield;
  read("a download", pred);
  yield;
  const zeros = stack.use(device.zeros([ATOMS, 3]));
  yield;
  zeros.copy_(target);
  yield;
  read("a copy", zeros);
  yield;
  const out = device.empty([ATOMS]);
  yield;
  const loss = new L2NormLoss();
  loss.forward(pred, target, null, { out });
  yield;
  read("an unreduced loss", out);
  yield;
  read("its gradient", stack.use(loss.backward(pred, target, null, out)));
  yield;
  out.dispose();
  yield;
  const ddp = stack.use(
    new DDPLoss("l2norm").valueAndGrad(pred, target),
  );
  yield;
  read("a reduced loss", ddp.value);
  yield;
  read("its gradient", ddp.grad);
  yield;
  const slow = stack.use(new DDPLoss(written).valueAndGrad(pred, target));
  yield;
  read("a loss written in TypeScript", slow.value);
  yield;
  read("its gradient", slow.grad);
  yield;
  const tasks = new MultiTaskLoss({
    mean: { loss: "mae" },
    structures: { loss: "l2norm", reduction: "per_structure" },
  });
  const input = { input: pred, target };
  const both = stack.use(tasks.valueAndGrad({
    mean: input,
    structures: { ...input, natoms, mask },
  }));
  yield;
  read("several tasks", both.total);
  yield;
  read("the gradient of one", both.grads.structures!);
  yield;
  const metrics = stack.use(new Metrics(device));
  yield;
  addBatch(metrics, randomStructures(50, 20, 3));
  yield;
  results.push(["metrics", metrics.result()]);
  yield;
  const a = random(4, [20, 30]);
  const b = random(5, [30, 20]);
  yield;
  read("a product", stack.use(matmul(a, b)));
  yield;
  read("another product", stack.use(matmul(b, a)));
  yield;
  const optimizers = [
    stack.use(new Adam([pred])),
    stack.use(new SGD([target], { lr: 0.1, momentum: 0.9 })),
  ];
  for (let step = 0; step < 2; step++) {
    for (const optimizer of optimizers) {
      yield;
      optimizer.step([ddp.grad]);
    }
  }
  yield;
  read("Adam's parameters", pred);
  yield;
  read("SGD's parameters", target);
  yield;
}

/** Runs the work on all devices, one call of each in turn. */
async function inTurn(
  devices: readonly Device[],
): Promise<[name: string, value: unknown][][]> {
  const results = devices.map((): Results => []);
  const works = devices.map((device, i) => work(device, results[i]!));
  while (works.map((one) => one.next().done).includes(false));
  for (const device of devices) await device.synchronize();
  return await Promise.all(
    results.map((of) =>
      Promise.all(
        of.map(async ([name, value]): Promise<[string, unknown]> => [
          name,
          await value,
        ]),
      )
    ),
  );
}

for (const specs of [["cpu", "cpu"], ["cuda:0", "cuda:1"]]) {
  Deno.test({
    name: `two devices used call by call compute what each computes alone [${
      specs[0]!.slice(0, 4).replace(":", "")
    }]`,
    ignore: specs[0] !== "cpu" &&
      !(hasCuda && await Device.count("cuda") > 1),
    async fn(): Promise<void> {
      using first = await Device.open(specs[0]!);
      using second = await Device.open(specs[1]!);
      const [alone] = await inTurn([second]);
      const [one, two] = await inTurn([first, second]);
      assertEquals(one, alone);
      assertEquals(two, alone);
    },
  });
}
