/** Tensors in safetensors files: what is written, read, refused. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Device, DisposedError, DTypeError, type Tensor } from "../mod.ts";
import {
  decodeSafetensors,
  encodeSafetensors,
  loadTensors,
  type Safetensors,
  SafetensorsError,
  saveTensors,
} from "../tensor/safetensors.ts";
import { testOnDevices } from "./devices.ts";
import { seeded } from "./random.ts";

/** An array of each dtype, with the format's name of it. */
const ALL: [string, Safetensors["arrays"][string]][] = [
  ["F32", {
    dtype: "float32",
    shape: [2, 2],
    data: new Float32Array([1.5, -2, NaN, -0]),
  }],
  ["F64", {
    dtype: "float64",
    shape: [],
    data: new Float64Array([Math.PI]),
  }],
  ["F16", {
    dtype: "float16",
    shape: [3],
    data: new Float16Array([0.5, 65504, -1]),
  }],
  ["BF16", {
    dtype: "bfloat16",
    shape: [3, 1],
    data: new Uint16Array([0x3f80, 0xff80, 1]),
  }],
  ["I32", {
    dtype: "int32",
    shape: [2],
    data: new Int32Array([2147483647, -1]),
  }],
  ["I64", {
    dtype: "int64",
    shape: [1, 2],
    data: new BigInt64Array([-(2n ** 62n), 5n]),
  }],
  ["BOOL", {
    dtype: "bool",
    shape: [5],
    data: new Uint8Array([0, 1, 1, 0, 1]),
  }],
];

const SAMPLE: Safetensors = {
  arrays: {
    ...Object.fromEntries(ALL),
    none: { dtype: "float64", shape: [0, 3], data: new Float64Array(0) },
  },
  metadata: { step: "7" },
};

/** A file with this header and so many bytes of arrays. */
function file(
  header: unknown,
  bytes = 8,
  byte = 0,
): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(
    typeof header === "string" ? header : JSON.stringify(header),
  );
  const all = new Uint8Array(8 + json.length + bytes).fill(byte);
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
    [file({ a: { ...array, dtype: "constructor" } }), 'dtype "constructor"'],
    [
      file({ a: { dtype: "BOOL", shape: [1], data_offsets: [0, 1] } }, 1, 2),
      "other than 0 and 1",
    ],
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
          arrays: { [name]: { dtype: "float64", shape, data } },
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

Deno.test("encodeSafetensors() throws for another array than the dtype's", () => {
  const array = { dtype: "bfloat16", shape: [1], data: new Float32Array(1) };
  assertThrows(
    () =>
      encodeSafetensors({ arrays: { a: array }, metadata: {} } as Safetensors),
    DTypeError,
    "Uint16Array",
  );
});

/** A folder that is gone afterwards. */
async function inFolder(
  test: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** The sample on a device. */
function sampleOn(device: Device): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(SAMPLE.arrays).map((
      [name, { data, shape, dtype }],
    ) => [name, device.tensor(data, shape, dtype)]),
  );
}

testOnDevices(
  "loadTensors() gives back what saveTensors() was given, of every dtype",
  (device) =>
    inFolder(async (folder) => {
      const path = `${folder}/a.safetensors`;
      await Deno.writeTextFile(path, "what was there");
      const saved = sampleOn(device);
      await saveTensors(path, saved, SAMPLE.metadata);
      const { tensors, metadata } = await loadTensors(path, device);
      assertEquals(metadata, SAMPLE.metadata);
      assertEquals(
        Object.keys(tensors).toSorted(),
        Object.keys(saved).toSorted(),
      );
      for (const [name, tensor] of Object.entries(tensors)) {
        const { dtype, shape, data } = SAMPLE.arrays[name]!;
        assertEquals([tensor.dtype, tensor.shape], [dtype, shape]);
        assertEquals(await tensor.data(), data);
        tensor.dispose();
        saved[name]!.dispose();
      }
      const left = await Array.fromAsync(Deno.readDir(folder));
      assertEquals(left.map(({ name }) => name), ["a.safetensors"]);
    }),
);

Deno.test("saveTensors() that fails leaves the file as it was, and nothing beside it", () =>
  inFolder(async (folder) => {
    using device = await Device.open("cpu");
    const path = `${folder}/a.safetensors`;
    const tensor = device.zeros([2]);
    await saveTensors(path, { tensor });
    const before = await Deno.readFile(path);
    await assertRejects(
      () => saveTensors(path, { __metadata__: tensor }),
      SafetensorsError,
    );
    await Deno.mkdir(`${folder}/taken`);
    await assertRejects(() => saveTensors(`${folder}/taken`, { tensor }));
    await assertRejects(
      () => saveTensors(`${folder}/none/a`, { tensor }),
      Deno.errors.NotFound,
    );
    tensor.dispose();
    await assertRejects(() => saveTensors(path, { tensor }), DisposedError);
    assertEquals(await Deno.readFile(path), before);
    const left = await Array.fromAsync(Deno.readDir(folder));
    assertEquals(left.length, 2);
  }));

Deno.test("saveTensors() twice at once to one file leaves one of the two", () =>
  inFolder(async (folder) => {
    using device = await Device.open("cpu");
    const path = `${folder}/a.safetensors`;
    using ones = device.tensor(new Float32Array(100_000).fill(1));
    using twos = device.tensor(new Float32Array(50_000).fill(2));
    await Promise.all([
      saveTensors(path, { ones }),
      saveTensors(path, { twos }),
    ]);
    const { tensors } = await loadTensors(path, device);
    const [[name, tensor]] = Object.entries(tensors) as [[string, Tensor]];
    const expected = name === "ones" ? ones : twos;
    assertEquals(await tensor.data(), await expected.data());
    tensor.dispose();
  }));

Deno.test("loadTensors() names the file that it cannot read", () =>
  inFolder(async (folder) => {
    using device = await Device.open("cpu");
    const path = `${folder}/a.safetensors`;
    await Deno.writeFile(path, new Uint8Array(3));
    await assertRejects(
      () => loadTensors(path, device),
      SafetensorsError,
      `${path}: too short`,
    );
    assertEquals(device.memory.tensors, 0);
  }));

/** Says of a file what the format's own reader finds in it. */
const READ_BY_PYTHON = `
import sys, json, safetensors
with open(sys.argv[1], "rb") as file: found = safetensors.deserialize(file.read())
print(json.dumps({name: [a["dtype"], a["shape"], bytes(a["data"]).hex()] for name, a in found}))
`;

const hasPython = await new Deno.Command("python3", {
  args: ["-c", "import safetensors"],
  stderr: "null",
}).output().then(({ success }) => success, () => false);

Deno.test({
  name: "Python's safetensors reads what encodeSafetensors() writes",
  ignore: !hasPython,
  fn: () =>
    inFolder(async (folder) => {
      const path = `${folder}/a.safetensors`;
      await Deno.writeFile(path, encodeSafetensors(SAMPLE));
      const { stdout, success } = await new Deno.Command("python3", {
        args: ["-c", READ_BY_PYTHON, path],
        stderr: "inherit",
      }).output();
      assert(success);
      const found = JSON.parse(new TextDecoder().decode(stdout));
      for (const [name, { shape, data }] of ALL) {
        const bytes = new Uint8Array(data.buffer).toHex();
        assertEquals(found[name], [name, shape, bytes]);
      }
    }),
});
