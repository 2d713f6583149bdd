/**
 * Tensors in a file, in the safetensors format, which PyTorch, JAX and others
 * read: 8 bytes with the length of a JSON header, the header (dtype, shape and
 * place of every array by its name, and texts under `__metadata__`), the arrays'
 * bytes.
 *
 * Specification: https://github.com/huggingface/safetensors#format
 *
 * @example
 * ```ts
 * import { Device } from "@atomloss/atomloss";
 * import { loadTensors, saveTensors } from "@atomloss/atomloss/safetensors";
 *
 * using device = await Device.open("cpu");
 * using weight = device.tensor(new Float32Array([1, 2]), [2, 1]);
 * const path = `${await Deno.makeTempDir()}/model.safetensors`;
 * await saveTensors(path, { weight }, { step: "7" });
 *
 * const { tensors, metadata } = await loadTensors(path, device);
 * using same = tensors.weight!;
 * console.log(same.shape, await same.toList(), metadata.step); // [ 2, 1 ] [ 1, 2 ] 7
 * ```
 *
 * @module
 */
import { SafetensorsError } from "../errors.ts";
import type { Device } from "./device.ts";
import {
  checkArray,
  checkDType,
  type DType,
  dtypeBytes,
  emptyArray,
  type TensorData,
} from "./dtype.ts";
import { replaceFile } from "./replace_file.ts";
import type { Shape } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

export { type Device, type DType, SafetensorsError, type Shape };
export type { Tensor, TensorData };

/** An array of a file. */
export interface SafetensorsArray {
  /** Type of the elements. */
  readonly dtype: DType;
  /** Lengths of the dimensions; `[]` is a scalar. */
  readonly shape: Shape;
  /** The elements in row-major order, in the typed array of the dtype. */
  readonly data: TensorData;
}

/** What is in a file. */
export interface Safetensors {
  /** The arrays by their names. */
  readonly arrays: Readonly<Record<string, SafetensorsArray>>;
  /** Texts by their names. */
  readonly metadata: Readonly<Record<string, string>>;
}

/** What {@linkcode loadTensors} gives. */
export interface LoadedTensors {
  /** The tensors by their names, each to be disposed. */
  readonly tensors: Readonly<Record<string, Tensor>>;
  /** Texts by their names. */
  readonly metadata: Readonly<Record<string, string>>;
}

const METADATA = "__metadata__";
const LENGTH_BYTES = 8;
/** As the reference implementation: a longer header is not read. */
const MAX_HEADER = 100_000_000;
/** Arrays begin at multiples of this. */
const ALIGNMENT = 8;

/** The format's names of the dtypes. */
const NAMES: Readonly<Record<DType, string>> = {
  float32: "F32",
  float64: "F64",
  float16: "F16",
  bfloat16: "BF16",
  int32: "I32",
  int64: "I64",
  bool: "BOOL",
};
const DTYPES: ReadonlyMap<unknown, DType> = new Map(
  Object.entries(NAMES).map(([dtype, name]) => [name, dtype as DType]),
);

/**
 * Writes tensors to a file. It is there whole or not at all, also if the power
 * fails: what was there stays until all is written. Waits for the device as
 * {@linkcode Tensor.data} does.
 *
 * @param path The file. Needs the permission to write in its folder.
 * @param tensors By the names that they get.
 * @param metadata Texts that go with them.
 * @throws {SafetensorsError} if a name is that of the metadata.
 * @throws {DisposedError} if a tensor was disposed.
 * @throws {Deno.errors.NotFound} if there is no such folder, and Deno's other
 * errors of files; then the file is as it was.
 */
export async function saveTensors(
  path: string,
  tensors: Readonly<Record<string, Tensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const arrays = await Promise.all(
    Object.entries(tensors).map(async ([name, tensor]) => {
      const { dtype, shape } = tensor;
      return [name, { dtype, shape, data: await tensor.data() }] as const;
    }),
  );
  await replaceFile(
    path,
    encodeSafetensors({ arrays: Object.fromEntries(arrays), metadata }),
  );
}

/**
 * Reads a file into new tensors on a device. Nothing in the file is trusted.
 *
 * @throws {SafetensorsError} if it is not safetensors, is not whole, or has a
 * dtype that {@linkcode DType} has not: says what is wrong.
 * @throws {OutOfMemoryError} if the device has too little memory.
 * @throws {Deno.errors.NotFound} if there is no such file, and Deno's other
 * errors of files.
 */
export async function loadTensors(
  path: string,
  device: Device,
): Promise<LoadedTensors> {
  const { arrays, metadata } = decodeSafetensors(
    await Deno.readFile(path),
    path,
  );
  const tensors: [string, Tensor][] = [];
  try {
    for (const [name, { data, shape, dtype }] of Object.entries(arrays)) {
      tensors.push([name, device.tensor(data, shape, dtype)]);
    }
  } catch (error) {
    for (const [, tensor] of tensors) tensor.dispose();
    throw error;
  }
  return { tensors: Object.fromEntries(tensors), metadata };
}

/**
 * The bytes of a file.
 *
 * @throws {SafetensorsError} if an array cannot be read again: its shape has
 * another number of elements, or it has the name of the metadata.
 * @throws {DTypeError} if the data is in another typed array than the dtype's.
 */
export function encodeSafetensors(
  { arrays, metadata }: Safetensors,
): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = { [METADATA]: metadata };
  let end = 0;
  for (const [name, { dtype, shape, data }] of Object.entries(arrays)) {
    checkArray(data, checkDType(dtype));
    if (name === METADATA || count(shape) !== data.length) {
      throw new SafetensorsError(
        `an array ${name} of shape [${shape}] and ${data.length} elements cannot be written`,
      );
    }
    const begin = end;
    end += data.byteLength;
    header[name] = {
      dtype: NAMES[dtype],
      shape,
      data_offsets: [begin, end],
    };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  // Spaces until the arrays are aligned, as the format allows.
  const aligned = Math.ceil(text.length / ALIGNMENT) * ALIGNMENT;
  const json = new Uint8Array(aligned).fill(32);
  json.set(text);
  const file = new Uint8Array(LENGTH_BYTES + json.length + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(json, LENGTH_BYTES);
  let at = LENGTH_BYTES + json.length;
  for (const { data } of Object.values(arrays)) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return file;
}

/**
 * Reads the bytes of a file.
 *
 * @param source What to call the file in messages.
 * @throws {SafetensorsError} if it is not safetensors, or of another dtype:
 * says what is wrong. Nothing in the file is trusted.
 */
export function decodeSafetensors(
  file: Uint8Array<ArrayBuffer>,
  source: string,
): Safetensors {
  const fail = (problem: string): never => {
    throw new SafetensorsError(`${source}: ${problem}`);
  };
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < LENGTH_BYTES) return fail("too short for a header");
  const length = Number(view.getBigUint64(0, true));
  if (length > MAX_HEADER || length > file.length - LENGTH_BYTES) {
    return fail(`a header of ${length} bytes does not fit the file`);
  }
  const bytes = file.subarray(LENGTH_BYTES + length);
  let header: unknown;
  try {
    header = JSON.parse(
      // A byte order mark is not JSON, and so is not to be overlooked.
      new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
        .decode(file.subarray(LENGTH_BYTES, LENGTH_BYTES + length)),
    );
  } catch {
    return fail("the header is not JSON");
  }
  if (!isRecord(header)) return fail("the header is not an object");

  // Any name may be in the file, also "__proto__".
  const arrays = new Map<string, SafetensorsArray>();
  const metadata = new Map<string, string>();
  const places: [number, number][] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === METADATA) {
      if (!isRecord(entry)) return fail("the metadata are not an object");
      for (const [key, text] of Object.entries(entry)) {
        if (typeof text !== "string") return fail(`${key} is not a text`);
        metadata.set(key, text);
      }
      continue;
    }
    if (!isRecord(entry)) return fail(`${name} is not described`);
    const { shape, data_offsets: place } = entry;
    const dtype = DTYPES.get(entry.dtype);
    if (dtype === undefined) {
      return fail(
        `${name} has dtype ${JSON.stringify(entry.dtype)}, expected one of ${
          [...DTYPES.keys()].join(", ")
        }`,
      );
    }
    if (!isCounts(shape)) return fail(`${name} has no shape`);
    if (!isCounts(place) || place.length !== 2) {
      return fail(`${name} has no place`);
    }
    const [begin, end] = place as [number, number];
    if (begin > end || end > bytes.length) {
      return fail(`${name} is not within the file`);
    }
    const size = count(shape);
    if (size * dtypeBytes(dtype) !== end - begin) {
      return fail(
        `${name} has ${end - begin} bytes, its shape and dtype another number`,
      );
    }
    places.push([begin, end]);
    // A copy: in the file it may lie at any address.
    const data = emptyArray(dtype, size);
    new Uint8Array(data.buffer).set(bytes.subarray(begin, end));
    if (
      dtype === "bool" && bytes.subarray(begin, end).some((byte) => byte > 1)
    ) {
      return fail(`${name} of dtype BOOL has bytes other than 0 and 1`);
    }
    arrays.set(name, { dtype, shape, data });
  }
  places.sort(([a], [b]) => a - b);
  let next = 0;
  for (const [begin, end] of places) {
    if (begin !== next) return fail("arrays overlap, or leave a gap");
    next = end;
  }
  if (next !== bytes.length) return fail("there are bytes behind the arrays");
  return {
    arrays: Object.fromEntries(arrays),
    metadata: Object.fromEntries(metadata),
  };
}

/** The number of elements of a shape. */
function count(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether a value is a list of integers >= 0. */
function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) &&
    value.every((n) => Number.isSafeInteger(n) && n >= 0);
}
