import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import {
  ArgumentError,
  DisposedError,
  type DType,
  DTypeError,
  ExponentialMovingAverage,
  SGD,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import { randomNumbers } from "./random.ts";

testOnDevices(
  "averages take the parameters' place and leave it again, to the bit",
  async (device) => {
    const params = [
      device.tensor(new Float32Array(randomNumbers(70_001, 1))),
      device.tensor(randomNumbers(3, 2), [3, 1]),
      device.tensor(new Float16Array(randomNumbers(5, 3))),
      device.tensor(
        Uint16Array.from([0x3f81, 0xbf82, 0x4001]),
        [3],
        "bfloat16",
      ),
      device.zeros([0]),
    ];
    const grads = params.map((param) => {
      const grad = device.zeros(param.shape, param.dtype);
      return grad.copy_(param);
    });
    using ema = new ExponentialMovingAverage(params, { decay: 0.5 });
    using sgd = new SGD(params, { lr: 0.25 });
    assertEquals(ema.state.map(({ dtype }) => dtype), [
      "float32",
      "float64",
      "float32",
      "float32",
      "float32",
    ]);
    for (const [i, average] of ema.state.entries()) {
      assertEquals(await average.toList(), await params[i]!.toList());
    }
    const steps: number[][][] = [];
    for (let step = 0; step < 3; step++) {
      sgd.step(grads);
      ema.update();
      steps.push(await Promise.all(params.map((param) => param.toList())));
    }
    const before = await Promise.all(params.map((param) => param.data()));
    const { tensors } = device.memory;
    {
      using _averages = ema.averageParameters();
      for (const [i, param] of params.entries()) {
        const [one, two, three] = steps.map((values) => values[i]!);
        // The first update takes the parameters as they are.
        const expected = three!.map((x, j) =>
          0.25 * one![j]! + 0.25 * two![j]! + 0.5 * x
        );
        const tolerance: Partial<Record<DType, number>> = {
          float16: 1e-3,
          bfloat16: 8e-3,
        };
        (await param.toList()).forEach((x, j) =>
          assertAlmostEquals(
            x,
            expected[j]!,
            (tolerance[param.dtype] ?? 1e-6) *
              Math.max(1, Math.abs(expected[j]!)),
          )
        );
      }
      params[0]!.copy_(new Float32Array(70_001)); // is lost
      assertThrows(() => ema.update(), ArgumentError, "in the place");
      assertThrows(
        () => ema.averageParameters(),
        ArgumentError,
        "in the place",
      );
    }
    assertEquals(
      await Promise.all(params.map((param) => param.data())),
      before,
    );
    assertEquals(device.memory.tensors, tensors);
    ema.update();
    assertEquals(ema.numUpdates, 4);

    // Also when the averages are disposed first; the second time nothing happens.
    const shown = await params[1]!.toList();
    const swapped = ema.averageParameters();
    ema.dispose();
    assertEquals(await params[1]!.toList(), shown);
    swapped[Symbol.dispose]();
    assertEquals(await params[1]!.toList(), shown);
    assertEquals(device.memory.tensors, tensors - params.length);
    assertThrows(() => ema.update(), DisposedError);
    for (const t of [...params, ...grads]) t.dispose();
  },
);

testOnDevices(
  "averages go on from copied state to the same bits",
  async (device) => {
    for (const useNumUpdates of [false, true]) {
      using param = device.tensor(new Float32Array([1, 2]));
      const options = { decay: 0.9, useNumUpdates };
      using whole = new ExponentialMovingAverage([param], options);
      const move = (i: number): void => {
        param.copy_(new Float32Array(randomNumbers(2, i)));
      };
      for (let i = 0; i < 3; i++) {
        move(i);
        whole.update();
      }
      using onward = new ExponentialMovingAverage([param], options);
      onward.state[0]!.copy_(whole.state[0]!);
      onward.numUpdates = whole.numUpdates;
      for (let i = 3; i < 6; i++) {
        move(i);
        whole.update();
        onward.update();
      }
      assertEquals(
        await onward.state[0]!.toList(),
        await whole.state[0]!.toList(),
      );
    }
  },
);

testOnDevices("averages reject what does not fit", (device) => {
  using param = device.zeros([2]);
  using ints = device.zeros([2], "int32");
  using again = param.reshape([2, 1]);
  assertThrows(
    () => new ExponentialMovingAverage([param], { decay: 1 }),
    ArgumentError,
    "decay is 1",
  );
  assertThrows(
    () => new ExponentialMovingAverage([param, again]),
    ArgumentError,
    "parameter 1 is in the memory of parameter 0",
  );
  assertThrows(() => new ExponentialMovingAverage([ints]), DTypeError, "int32");
  using ema = new ExponentialMovingAverage([param]);
  ema.numUpdates = -1;
  assertThrows(() => ema.update(), ArgumentError, "numUpdates is -1");
  using gone = device.zeros([2]);
  using other = new ExponentialMovingAverage([gone]);
  gone.dispose();
  assertThrows(() => other.update(), DisposedError);
  assertThrows(() => other.averageParameters(), DisposedError);
  assertEquals(other.numUpdates, 0);
});
