import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  decodeSafetensors,
  encodeSafetensors,
  SafetensorsError,
} from "../examples/potential/safetensors.ts";
import { seeded } from "./random.ts";

const SAMPLE = {
  arrays: {
    weight: { shape: [2, 1], data: new Float32Array([1.5, -2]) },
    mean: { shape: [], data: new Float64Array([Math.PI]) },
    none: { shape: [0, 3], data: new Float64Array(0) },
  },
  metadata: { step: "7" },
};

/** A file with this header and so many bytes of arrays. */
function file(header: unknown, bytes = 8): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(
    typeof header === "string" ? header : JSON.stringify(header),
  );
  const all = new Uint8Array(8 + json.length + bytes);
  new DataView(all.buffer).setBigUint64(0, BigInt(json.length), true);
  all.set(json, 8);
  return all;
}

Deno.test("decodeSafetensors() reads what encodeSafetensors() writes", () => {
  const bytes = encodeSafetensors(SAMPLE);
  assertEquals(decodeSafetensors(bytes, "x"), SAMPLE);
  // The arrays are aligned, as the format wants.
  assertEquals(Number(new DataView(bytes.buffer).getBigUint64(0, true)) % 8, 0);
});

Deno.test("decodeSafetensors() says what is wrong with a file", () => {
  const array = { dtype: "F64", shape: [1], data_offsets: [0, 8] };
  const bad: [Uint8Array<ArrayBuffer>, string][] = [
    [new Uint8Array(3), "x: too short"],
    [new Uint8Array(20).fill(255), "does not fit the file"],
    [file("{", 0), "not JSON"],
    [file("[1]", 0), "not an object"],
    [file("\ufeff{}", 0), "not JSON"],
    [file({ __metadata__: [] }, 0), "metadata are not an object"],
    [file({ a: 1 }), "a is not described"],
    [file({ a: { ...array, dtype: "F8" } }), 'dtype "F8"'],
    [file({ a: { ...array, shape: [-1] } }), "a has no shape"],
    [file({ a: { ...array, shape: [2] } }), "another number"],
    [file({ a: { ...array, shape: [2 ** 40, 2 ** 40] } }), "another number"],
    [file({ a: { ...array, data_offsets: [0] } }), "a has no place"],
    [file({ a: { ...array, data_offsets: [8, 16] } }), "not within"],
    [file({ a: { ...array, data_offsets: [8, 0] } }), "not within"],
    [file({ a: { ...array, dtype: "F32" } }), "another number"],
    [file({ a: { ...array, shape: [0.5] } }), "a has no shape"],
    [file({ a: { ...array, data_offsets: [0, "8"] } }), "a has no place"],
    [file({ a: array, b: array }), "overlap"],
    [file({ a: array, b: { ...array, data_offsets: [16, 24] } }, 24), "gap"],
    [file({ a: array }, 16), "bytes behind"],
    [file({ __metadata__: { step: 3 } }, 0), "step is not a text"],
  ];
  for (const [bytes, problem] of bad) {
    assertThrows(
      () => decodeSafetensors(bytes, "x"),
      SafetensorsError,
      problem,
    );
  }
});

Deno.test("decodeSafetensors() takes any name", () => {
  const array = '{"dtype":"F64","shape":[1],"data_offsets":[0,8]}';
  const { arrays } = decodeSafetensors(file(`{"__proto__":${array}}`), "x");
  assertEquals(Object.keys(arrays), ["__proto__"]);
});

Deno.test("encodeSafetensors() throws when what it writes could not be read", () => {
  const data = new Float64Array(2);
  for (const [name, shape] of [["a", [3]], ["__metadata__", [2]]] as const) {
    assertThrows(
      () =>
        encodeSafetensors({
          arrays: { [name]: { shape, data } },
          metadata: {},
        }),
      SafetensorsError,
      "cannot be written",
    );
  }
});

Deno.test("decodeSafetensors() ends every damaged file with its own error, or reads it", () => {
  const whole = encodeSafetensors(SAMPLE);
  const next = seeded(3);
  let refused = 0;
  for (let i = 0; i < 20_000; i++) {
    const bytes = next() < 0.2
      ? whole.slice(0, Math.floor(next() * whole.length))
      : whole.slice();
    for (let k = 0; k < 1 + 3 * next() && bytes.length > 0; k++) {
      bytes[Math.floor(next() * bytes.length)] = Math.floor(next() * 256);
    }
    try {
      decodeSafetensors(bytes, "x");
    } catch (error) {
      if (!(error instanceof SafetensorsError)) throw error;
      refused++;
    }
  }
  assert(refused > 10_000, `${refused} refused`);
});
