/** Element types: their names, sizes, numbers in the C ABI, and typed arrays. */
import { DTypeError } from "../errors.ts";

/**
 * Element type of a tensor, by torch's names. bfloat16 numbers are exchanged
 * as their 16-bit patterns in a `Uint16Array`, booleans as bytes 0 and 1.
 */
export type DType =
  | "float32"
  | "float64"
  | "float16"
  | "bfloat16"
  | "int32"
  | "int64"
  | "bool";

/** The typed arrays that hold a tensor's elements on the host. */
export type TensorData =
  | Float32Array<ArrayBuffer>
  | Float64Array<ArrayBuffer>
  | Float16Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | BigInt64Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>;

type TensorDataConstructor = {
  readonly BYTES_PER_ELEMENT: number;
  readonly name: string;
  new (length: number): TensorData;
};

/** code is al_dtype of kernels/atomloss.h. */
const DTYPES: Record<DType, { code: number; array: TensorDataConstructor }> = {
  float32: { code: 0, array: Float32Array },
  float64: { code: 1, array: Float64Array },
  float16: { code: 2, array: Float16Array },
  bfloat16: { code: 3, array: Uint16Array },
  int32: { code: 4, array: Int32Array },
  int64: { code: 5, array: BigInt64Array },
  bool: { code: 6, array: Uint8Array },
};

const FLOATING: ReadonlySet<DType> = new Set<DType>([
  "float32",
  "float64",
  "float16",
  "bfloat16",
]);

/** The dtype of this name. Throws {@linkcode DTypeError} if there is none. */
export function checkDType(dtype: string): DType {
  if (!Object.hasOwn(DTYPES, dtype)) {
    throw new DTypeError(
      `dtype '${dtype}' is unknown: expected one of ${
        Object.keys(DTYPES).join(", ")
      }`,
    );
  }
  return dtype as DType;
}

/** al_dtype of the C ABI. */
export function dtypeCode(dtype: DType): number {
  return DTYPES[dtype].code;
}

/** Bytes of one element. */
export function dtypeBytes(dtype: DType): number {
  return DTYPES[dtype].array.BYTES_PER_ELEMENT;
}

/** Whether losses and their gradients can have this dtype. */
export function isFloating(dtype: DType): boolean {
  return FLOATING.has(dtype);
}

/** A host array for so many elements. */
export function emptyArray(dtype: DType, length: number): TensorData {
  return new DTYPES[dtype].array(length);
}

/** The dtype that an array stands for when none is named. */
export function dtypeOf(data: TensorData): DType {
  for (const [dtype, { array }] of Object.entries(DTYPES)) {
    // 16-bit patterns and bytes may be many things: these must be named.
    if (dtype !== "bfloat16" && dtype !== "bool" && data instanceof array) {
      return dtype as DType;
    }
  }
  throw new DTypeError(
    `the dtype of ${
      describeArray(data)
    } must be named: "bfloat16" for Uint16Array bit patterns, ` +
      `"bool" for a Uint8Array; or pass another typed array`,
  );
}

/** Throws unless data is the array that holds this dtype. */
export function checkArray(data: TensorData, dtype: DType): void {
  const { array } = DTYPES[dtype];
  if (!(data instanceof array)) {
    throw new DTypeError(
      `dtype ${dtype} takes its data in a ${array.name}, not in ${
        describeArray(data)
      }`,
    );
  }
}

function describeArray(data: unknown): string {
  return data === null || data === undefined
    ? String(data)
    : `a ${(data as object).constructor?.name ?? typeof data}`;
}
