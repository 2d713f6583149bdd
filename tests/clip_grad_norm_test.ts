import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertRejects,
  assertThrows,
} from "@std/assert";
import {
  Adam,
  ArgumentError,
  clipGradNorm,
  type Device,
  DisposedError,
  DTypeError,
  NonFiniteGradientError,
  SGD,
  ShapeError,
  type Tensor,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import { randomNumbers } from "./random.ts";

/** As many gradients as do not fit a kernel's arguments, one of many blocks. */
function manyGradients(device: Device): Tensor[] {
  return Array.from({ length: 100 }, (_, i) => {
    const numbers = randomNumbers(i === 50 ? 100_003 : i, i);
    return i % 2 === 0
      ? device.tensor(numbers)
      : device.tensor(Float32Array.from(numbers));
  });
}

testOnDevices(
  "clipGradNorm() has the norm of all gradients, the same bits every time",
  async (device) => {
    const grads = manyGradients(device);
    let squares = 0;
    for (const grad of grads) {
      for (const x of await grad.toList()) squares += x * x;
    }
    const norms: number[] = [];
    using out = device.zeros([], "float64");
    for (let i = 0; i < 5; i++) {
      assert(clipGradNorm(grads, Infinity, { out }) === out);
      norms.push(await out.item());
    }
    assertAlmostEquals(norms[0]!, Math.sqrt(squares), 1e-9);
    assertEquals(norms, Array(5).fill(norms[0]));
    using first = clipGradNorm(grads, 1);
    using second = clipGradNorm(grads, 1);
    assertEquals(await first.item(), norms[0]);
    assertAlmostEquals(await second.item(), 1, 1e-6);
    for (const grad of grads) grad.dispose();
  },
);

testOnDevices(
  "a step that clips leaves the gradients and does what one behind clipGradNorm() does",
  async (device) => {
    const grads = manyGradients(device);
    const copies = manyGradients(device);
    const params = manyGradients(device);
    const others = manyGradients(device);
    using adam = new Adam(params);
    using other = new Adam(others);
    assertEquals(adam.gradNorm, undefined);
    adam.step(grads, { maxNorm: 0.1 });
    using norm = clipGradNorm(copies, 0.1);
    other.step(copies);
    assertEquals(await adam.gradNorm!.item(), await norm.item());
    for (const i of [1, 50, 99]) {
      const expected = await others[i]!.toList();
      (await params[i]!.toList()).forEach((x, j) =>
        assertAlmostEquals(x, expected[j]!, 1e-6)
      );
    }
    // The next step writes the same norm again, and has not changed grads.
    const kept = adam.gradNorm;
    adam.step(grads, { maxNorm: 1, normType: Infinity });
    assert(adam.gradNorm === kept);
    using largest = clipGradNorm(grads, 1e9, { normType: Infinity });
    assertEquals(await kept!.item(), await largest.item());
    for (const t of [...grads, ...copies, ...params, ...others]) t.dispose();
  },
);

testOnDevices(
  "a norm that is not finite is told when it is read, if asked, and nothing is changed",
  async (device) => {
    for (const bad of [NaN, Infinity]) {
      using param = device.tensor(new Float32Array([1, 2]));
      using grad = device.tensor(new Float32Array([bad, 1]));
      using adam = new Adam([param]);
      adam.step([grad], { maxNorm: 1, errorIfNonfinite: true });
      await assertRejects(
        () => adam.gradNorm!.item(),
        NonFiniteGradientError,
        "NaN or infinite",
      );
      assertEquals(await param.toList(), [1, 2]);
      assertEquals(await adam.state[0]!.toList(), [0, 0]);
      using norm = clipGradNorm([grad], 1, { errorIfNonfinite: true });
      await assertRejects(() => norm.item(), NonFiniteGradientError);
      assertEquals(await grad.toList(), [bad, 1]);

      // Not asked: as in torch, whose factor is NaN or 0.
      using silent = clipGradNorm([grad], 1, { out: norm });
      assertEquals(await silent.item(), bad);
      assertEquals(
        await grad.toList(),
        bad === Infinity ? [NaN, 0] : [NaN, NaN],
      );
      using good = device.tensor(new Float32Array([3, 4]));
      adam.step([good], { maxNorm: 1, errorIfNonfinite: true });
      assertEquals(await adam.gradNorm!.item(), 5);
    }
  },
);

testOnDevices("clipping rejects what does not fit", (device) => {
  using a = device.zeros([2, 2]);
  using b = device.zeros([3], "float64");
  using ints = device.zeros([2], "int64");
  using whole = a.reshape([4]);
  using narrow = device.zeros([], "float32");
  assertThrows(() => clipGradNorm([], 1), ArgumentError, "no gradients");
  assertThrows(
    () => clipGradNorm([a, b, whole], 1),
    ArgumentError,
    "gradient 2 is in the memory of gradient 0",
  );
  assertThrows(() => clipGradNorm([a, ints], 1), DTypeError, "gradient 1");
  assertThrows(() => clipGradNorm([a], -1), ArgumentError, "maxNorm is -1");
  assertThrows(() => clipGradNorm([a], NaN), ArgumentError, "maxNorm is NaN");
  assertThrows(
    () => clipGradNorm([a], 1, { normType: 0 }),
    ArgumentError,
    "normType is 0",
  );
  assertThrows(() => clipGradNorm([a], 1, { out: narrow }), DTypeError, "out");
  assertThrows(() => clipGradNorm([a], 1, { out: b }), ShapeError, "out");
  using scalar = device.zeros([], "float64");
  assertThrows(
    () => clipGradNorm([scalar], 1, { out: scalar }),
    ArgumentError,
    "out must not be one of the inputs",
  );
  const { tensors } = device.memory;
  using sgd = new SGD([a]);
  assertThrows(
    () => sgd.step([a], { maxNorm: -0.5 }),
    ArgumentError,
    "maxNorm is -0.5",
  );
  assertEquals(sgd.steps, 0);
  sgd.step([a], { maxNorm: 1 });
  const norm = sgd.gradNorm!;
  sgd.dispose();
  assert(norm.disposed);
  assertEquals(device.memory.tensors, tensors);
  assertThrows(() => sgd.step([a], { maxNorm: 1 }), DisposedError);
});
