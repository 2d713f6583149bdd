/** Recorded steps: what they compute, what they refuse, and what becomes of their memory. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  Adam,
  ArgumentError,
  type CapturedStep,
  CaptureError,
  DDPLoss,
  defineLoss,
  Device,
  DisposedError,
  ExponentialMovingAverage,
  Metrics,
  MultiTaskLoss,
  ProcessGroup,
  SGD,
} from "../mod.ts";
import { collectGarbage } from "./garbage.ts";
import { hasCuda, standIn, testOnDevices } from "./devices.ts";
import { leaked } from "./held.ts";
import { launchReplicas } from "./launch_replicas.ts";
import { DEFINITIONS } from "./plain_losses.ts";
import { assertReplays, randomProgram } from "./random_programs.ts";

for (const [name, definition] of Object.entries(DEFINITIONS)) {
  await defineLoss(name, definition);
}

testOnDevices(
  "a random step that is recorded and replayed equals its calls to the bit",
  async (device) => {
    await fc.assert(
      fc.asyncProperty(
        randomProgram,
        fc.integer({ min: 1, max: 5 }),
        (program, replays) => assertReplays(device, program, replays),
      ),
      { numRuns: 100, seed: 16 },
    );
  },
);

for (const device of ["cpu", "cuda"]) {
  for (const worldSize of [2, 3]) {
    Deno.test({
      name:
        `random steps over ${worldSize} replicas, recorded and replayed, equal their calls to the bit [${device}]`,
      ignore: device === "cuda" && !hasCuda,
      async fn(): Promise<void> {
        const { code, stdout, stderr } = await launchReplicas(
          worldSize,
          "tests/fixtures/capture_replica.ts",
          [device],
        );
        assertEquals(code, 0, stderr);
        assertEquals(stdout.match(/steps hold/g)?.length, worldSize, stdout);
      },
    });
  }
}

for (const device of ["cpu", "cuda"]) {
  Deno.test({
    name:
      `ragged batches over 3 replicas, padded to four sizes and recorded, train as they do without [${device}]`,
    ignore: device === "cuda" && !hasCuda,
    async fn(): Promise<void> {
      const { code, stdout, stderr } = await launchReplicas(
        3,
        "tests/fixtures/capture_buckets_replica.ts",
        [device],
      );
      assertEquals(code, 0, stderr);
      const ended = stdout.match(/200 steps hold, 4 recordings/g);
      assertEquals(ended?.length, 3, stdout);
    },
  });
}

testOnDevices(
  "Device.capture() makes no call, and leaves what a step would change",
  async (device) => {
    using weight = device.tensor(new Float32Array([1]));
    using grad = device.tensor(new Float32Array([1]));
    using adam = new Adam([weight]);
    using step = device.capture(() => {
      adam.step([grad]);
      grad.copy_(weight);
    });
    assertEquals(await weight.toList(), [1]);
    assertEquals(adam.steps, 0);
    step.replay();
    assertEquals(adam.steps, 1);
    assertEquals(await grad.toList(), await weight.toList());
  },
);

testOnDevices(
  "Device.capture() throws where a call cannot be recorded, and says which",
  async (device) => {
    using x = device.tensor(new Float32Array([1, 2]));
    using other = await Device.open(device.type);
    using elsewhere = other.zeros([2]);
    using group = await ProcessGroup.init({ device });
    using ema = new ExponentialMovingAverage([x]);
    using metrics = new Metrics(device);
    const loss = new MultiTaskLoss({
      a: { loss: "mae", reduction: "per_group", groupWeights: [1] },
    });
    using groups = device.tensor(new Int32Array(2));
    using written = loss.valueAndGrad({ a: { input: x, target: x, groups } });
    using outside = loss.normalizer({ a: [2] });
    const calls: Record<string, () => unknown> = {
      "reading a tensor": () => x.data(),
      "reading a tensor ": () => written.total.item(),
      "reading a tensor  ": () => written.read(),
      "reading a tensor   ": () => metrics.result(),
      "device.tensor(array)": () => device.tensor(new Float32Array(2)),
      "copy_(array)": () => x.copy_(new Float32Array(2)),
      "device.synchronize()": () => device.synchronize(),
      "device.releaseMemory()": () => device.releaseMemory(),
      "device.stream": () => device.stream,
      "barrier()": () => group.barrier(),
      "ProcessGroup.init()": () => ProcessGroup.init({ device }),
      "toDLPack()": () => x.toDLPack(),
      "capture()": () => device.capture(() => {}),
      "new Adam() or SGD()": () => new Adam([x]),
      "new ExponentialMovingAverage()": () => new ExponentialMovingAverage([x]),
      "averageParameters()": () => ema.averageParameters(),
      "another Device object": () => elsewhere.copy_(elsewhere),
      "is async": async () => {},
      "out was made outside": () =>
        loss.valueAndGrad({ a: { input: x, target: x, groups } }, {
          out: written,
        }),
      "the normalizer was made outside": () =>
        loss.valueAndGrad({ a: { input: x, target: x, groups } }, {
          normalizer: outside,
        }),
      // Also where the step goes on.
      "copy_(array) ": () => {
        try {
          x.copy_(new Float32Array(2));
        } catch {
          // As if nothing had been.
        }
      },
    };
    const { tensors } = device.memory;
    for (const [text, call] of Object.entries(calls)) {
      assertThrows(
        () =>
          device.capture(() => {
            const result = call();
            if (result instanceof Promise) result.catch(() => {});
            return result;
          }),
        CaptureError,
        text.trim(),
        text,
      );
      // Calls are made again.
      x.copy_(new Float32Array([3, 4]));
      assertEquals(await x.toList(), [3, 4], text);
    }
    assertEquals(device.memory.tensors, tensors);
    const failure = new Error("of the step itself");
    assertThrows(
      () =>
        device.capture(() => {
          throw failure;
        }),
      Error,
      failure.message,
    );
  },
);

testOnDevices(
  "what a step has made cannot be used before its first replay, nor once it is disposed",
  async (device) => {
    const loss = new DDPLoss("mae");
    using x = device.tensor(new Float32Array([1, 2]));
    using y = device.zeros([2]);
    const step = device.capture(() => loss.valueAndGrad(x, y));
    const { value, grad } = step.result;
    await assertRejects(() => value.item(), CaptureError, "not been replayed");
    assertThrows(() => y.copy_(grad), CaptureError, "not been replayed");
    step.replay();
    assertEquals(await value.item(), 1.5);
    using result = loss.valueAndGrad(x, grad);
    assertEquals(await result.value.item(), 1);
    step.dispose();
    step.dispose();
    await assertRejects(() => value.item(), DisposedError);
    assertThrows(() => step.replay(), DisposedError, "CapturedStep");
    await assertRejects(() => step.replayAsync(), DisposedError);
  },
);

testOnDevices(
  "a recording keeps the memory of tensors that are disposed",
  async (device) => {
    const { tensors } = device.memory;
    {
      using out = device.zeros([100]);
      const x = device.tensor(new Float32Array(100).fill(7));
      using step = device.capture(() => {
        using between = device.empty([100]);
        out.copy_(between.copy_(x));
      });
      x.dispose();
      // Of the same sizes: would be given their memory.
      using _others = device.tensor(new Float32Array(100).fill(1));
      using _more = device.tensor(new Float32Array(100).fill(1));
      step.replay();
      assertEquals(await out.toList(), Array(100).fill(7));
    }
    assertEquals(device.memory.tensors, tensors);
  },
);

Deno.test("a recording may be disposed behind its device", async () => {
  const device = await Device.open("cpu");
  const x = device.zeros([2]);
  const step = device.capture(() => x.copy_(x));
  device.dispose();
  assertThrows(() => step.replay(), DisposedError, "device cpu was disposed");
  step.dispose();
  const other = await Device.open("cpu");
  assertThrows(
    () => other.capture(() => other.dispose()),
    DisposedError,
  );
});

testOnDevices(
  "replays count the steps that were made, and read the learning rate each time",
  async (device) => {
    using weight = device.tensor(new Float64Array([0]));
    using grad = device.tensor(new Float64Array([1]));
    using sgd = new SGD([weight], { lr: 1 });
    using step = device.capture(() => {
      sgd.step([grad]);
      sgd.step([grad]);
    });
    step.replay(2);
    sgd.lr = 0.5;
    step.replay();
    assertEquals(await weight.toList(), [-5]);
    assertEquals(sgd.steps, 6);
    sgd.lr = -1;
    assertThrows(() => step.replay(3), ArgumentError, "lr is -1");
    assertEquals(sgd.steps, 6);
    for (const times of [0, 1.5, NaN]) {
      assertThrows(() => step.replay(times), ArgumentError, "times is");
    }
    assertEquals(await weight.toList(), [-5]);
  },
);

testOnDevices(
  "replayAsync() has its device alone until it has ended",
  async (device) => {
    using x = device.tensor(new Float32Array(1000).fill(1));
    using y = device.zeros([1000]);
    using step = device.capture(() => y.copy_(x));
    const replay = step.replayAsync(100);
    for (
      const call of [
        () => x.copy_(y),
        () => step.replay(),
        () => device.zeros([1]),
      ]
    ) assertThrows(call, CaptureError, "await it before");
    await replay;
    device.zeros([1]).dispose();
    assertEquals(new Set(await y.toList()), new Set([1]));
  },
);

testOnDevices(
  "a replay tells of numbers that are not finite, whoever wrote to its value meanwhile",
  async (device) => {
    let told = 0;
    const loss = new DDPLoss("mae", "mean", { onNonFinite: (n) => told += n });
    using x = device.tensor(new Float32Array([NaN, 2]));
    using y = device.zeros([2]);
    using out = device.zeros([]);
    using step = device.capture(() => loss.forward(x, y, null, { out }));
    out.copy_(new Float32Array([5]));
    assertEquals(await out.item(), 5);
    assertEquals(told, 0);
    step.replay();
    assertEquals(await out.item(), 1);
    assertEquals(told, 1);
  },
);

testOnDevices("100 000 replays leave memory where it was", async (device) => {
  const loss = new DDPLoss("l2norm");
  using pred = device.tensor(new Float32Array(390).fill(1), [130, 3]);
  using target = device.zeros([130, 3]);
  using adam = new Adam([pred]);
  using step = device.capture(() => {
    using result = loss.valueAndGrad(pred, target);
    adam.step([result.grad], { maxNorm: 1 });
  });
  const run = async (replays: number): Promise<void> => {
    for (let i = 0; i < replays; i++) step.replay();
    await step.replayAsync();
    await device.synchronize();
  };
  await run(1000);
  const { tensors, used, cached } = device.memory;
  const megabytes = await leaked(run, standIn ? 3000 : 100_000);
  assert(megabytes < 5, `${megabytes.toFixed(1)} MB leaked`);
  assertEquals(device.memory.tensors, tensors);
  assertEquals(device.memory.used, used);
  assertEquals(device.memory.cached, cached);
});

testOnDevices(
  "recordings give their memory back, replayed or not, disposed or garbage",
  async (device) => {
    using x = device.tensor(new Float32Array(300).fill(1));
    const loss = new DDPLoss("mse");
    const before = device.memory;
    const record = (): CapturedStep<unknown> =>
      device.capture(() => loss.valueAndGrad(x, x));
    for (let i = 0; i < 100; i++) {
      using step = record();
      if (i % 2 === 0) step.replay();
    }
    assertEquals(device.memory.tensors, before.tensors);
    assertEquals(device.memory.used, before.used);
    for (let i = 0; i < 100; i++) record();
    await collectGarbage();
    assert(device.memory.tensors < before.tensors + 10);
  },
);
