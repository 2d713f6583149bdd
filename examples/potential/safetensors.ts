/**
 * Arrays in a file, in the safetensors format: 8 bytes with the length of a
 * JSON header, the header (dtype, shape and place of every array by its name,
 * and texts under `__metadata__`), the arrays' bytes.
 *
 * Specification: https://github.com/huggingface/safetensors#format
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";

/** A file that is not safetensors, or not whole. */
export class SafetensorsError extends AtomlossError {}

/** An array of a file. */
export interface SafetensorsArray {
  readonly shape: readonly number[];
  readonly data: Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;
}

/** What is in a file. */
export interface Safetensors {
  readonly arrays: Readonly<Record<string, SafetensorsArray>>;
  readonly metadata: Readonly<Record<string, string>>;
}

const METADATA = "__metadata__";
const LENGTH_BYTES = 8;
/** As the reference implementation: a longer header is not read. */
const MAX_HEADER = 100_000_000;
/** Arrays begin at multiples of this. */
const ALIGNMENT = 8;

const DTYPES = { F32: Float32Array, F64: Float64Array } as const;

/**
 * The bytes of a file.
 *
 * @throws {SafetensorsError} if an array cannot be read again: its shape has
 * another number of elements, or it has the name of the metadata.
 */
export function encodeSafetensors(
  { arrays, metadata }: Safetensors,
): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = { [METADATA]: metadata };
  let end = 0;
  for (const [name, { shape, data }] of Object.entries(arrays)) {
    if (name === METADATA || count(shape) !== data.length) {
      throw new SafetensorsError(
        `an array ${name} of shape [${shape}] and ${data.length} elements cannot be written`,
      );
    }
    const begin = end;
    end += data.byteLength;
    header[name] = {
      dtype: data instanceof Float32Array ? "F32" : "F64",
      shape,
      data_offsets: [begin, end],
    };
  }
  let json = new TextEncoder().encode(JSON.stringify(header));
  // Spaces until the arrays are aligned, as the format allows.
  const padding = -json.length % ALIGNMENT + ALIGNMENT;
  json = Uint8Array.from([...json, ...Array(padding % ALIGNMENT).fill(32)]);
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
 * @throws {SafetensorsError} if it is not safetensors of float32 and float64:
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
    const { dtype, shape, data_offsets: place } = entry;
    if (dtype !== "F32" && dtype !== "F64") {
      return fail(
        `${name} has dtype ${JSON.stringify(dtype)}, expected F32 or F64`,
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
    const TypedArray = DTYPES[dtype];
    if (count(shape) * TypedArray.BYTES_PER_ELEMENT !== end - begin) {
      return fail(
        `${name} has ${end - begin} bytes, its shape and dtype another number`,
      );
    }
    places.push([begin, end]);
    // A copy: in the file it may lie at any address.
    arrays.set(name, {
      shape,
      data: new TypedArray(bytes.slice(begin, end).buffer),
    });
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
