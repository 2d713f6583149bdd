import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertThrows,
} from "@std/assert";
import {
  ArgumentError,
  DTypeError,
  matmul,
  ShapeError,
  type Tensor,
} from "../mod.ts";
import { testOnDevices } from "./devices.ts";
import { randomNumbers } from "./random.ts";

function product(
  a: Float64Array,
  b: Float64Array,
  [m, n, k]: readonly [number, number, number],
  transposeA: boolean,
  transposeB: boolean,
): number[] {
  const c: number[] = [];
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) {
        sum += (transposeA ? a[l * m + i]! : a[i * k + l]!) *
          (transposeB ? b[j * k + l]! : b[l * n + j]!);
      }
      c.push(sum);
    }
  }
  return c;
}

testOnDevices(
  "matmul() multiplies, transposed or not, also vectors and empty matrices",
  async (device) => {
    const sizes = [
      [3, 4, 5],
      [1, 4, 5],
      [3, 1, 5],
      [1, 1, 7],
      [3, 4, 1],
      [0, 4, 5],
      [3, 0, 5],
      [3, 4, 0],
    ] as const;
    for (const size of sizes) {
      const [m, n, k] = size;
      const a = randomNumbers(m * k, 1), b = randomNumbers(k * n, 2);
      for (const transposeA of [false, true]) {
        for (const transposeB of [false, true]) {
          const expected = product(a, b, size, transposeA, transposeB);
          const shapeA = transposeA ? [k, m] : [m, k];
          const shapeB = transposeB ? [n, k] : [k, n];
          const what = JSON.stringify([size, transposeA, transposeB]);
          const tolerances = { float64: 1e-13, float32: 1e-5, float16: 1e-2 };
          for (const [dtype, tolerance] of Object.entries(tolerances)) {
            const make = (
              x: Float64Array<ArrayBuffer>,
              shape: readonly number[],
            ): Tensor =>
              device.tensor(
                dtype === "float64"
                  ? x
                  : dtype === "float32"
                  ? Float32Array.from(x)
                  : Float16Array.from(x),
                shape,
              );
            using ta = make(a, shapeA);
            using tb = make(b, shapeB);
            using c = matmul(ta, tb, { transposeA, transposeB });
            assertEquals(c.shape, [m, n]);
            const once = await c.toList();
            once.forEach((x, i) =>
              assertAlmostEquals(x, expected[i]!, tolerance, `${dtype} ${what}`)
            );
            assert(
              matmul(ta, tb, {
                transposeA,
                transposeB,
                out: c,
                accumulate: true,
              }) === c,
            );
            (await c.toList()).forEach((x, i) =>
              assertAlmostEquals(
                x,
                2 * expected[i]!,
                2 * tolerance,
                `twice ${dtype} ${what}`,
              )
            );
          }
        }
      }
    }
  },
);

testOnDevices(
  "matmul() multiplies bfloat16 with float32 sums",
  async (device) => {
    // 1 + 2^-8 is not a bfloat16: sums in bfloat16 would stop at 256.
    const n = 1000;
    using ones = device.tensor(
      new Uint16Array(n).fill(0x3f80),
      [1, n],
      "bfloat16",
    );
    using sum = matmul(ones, ones, { transposeB: true });
    assertEquals(await sum.toList(), [1000]);
    // Nor may the sums of parts be rounded: that of the first half is 257.
    const signs = Uint16Array.from(
      { length: n },
      (_, i) => i % 500 < 257 ? (i < 500 ? 0x3f80 : 0xbf80) : 0,
    );
    using halves = device.tensor(signs, [1, n], "bfloat16");
    using none = matmul(ones, halves, { transposeB: true });
    assertEquals(await none.toList(), [0]);
  },
);

testOnDevices("matmul() rejects what it cannot multiply", (device) => {
  using a = device.zeros([3, 4]);
  using b = device.zeros([3, 4]);
  using v = device.zeros([4]);
  using d = device.zeros([4, 3], "float64");
  using i = device.zeros([4, 3], "int32");
  assertThrows(() => matmul(a, b), ShapeError, "4 is not 3");
  assertThrows(() => matmul(a, v), ShapeError, "[4]");
  assertThrows(() => matmul(a, d), DTypeError, "float32 and float64");
  assertThrows(() => matmul(i, i), DTypeError);
  assertThrows(
    () => matmul(a, b, { transposeB: true, accumulate: true }),
    ArgumentError,
    "out",
  );
  assertThrows(() => matmul(a, b, { transposeB: true, out: a }), ArgumentError);
  assertThrows(() => matmul(a, b, { transposeB: true, out: v }), ShapeError);
});
