/** The reference's results: tests/golden.json, read and compared. */
import type {
  Device,
  DType,
  MaskedReduction,
  Tensor,
  TensorData,
} from "../mod.ts";
import { emptyArray } from "../tensor/dtype.ts";

/** An array of golden.json. */
export interface GoldenArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: string;
}

/** What one replica had and got. */
export interface GoldenRank {
  readonly pred: GoldenArray;
  readonly target: GoldenArray;
  readonly natoms: GoldenArray;
  readonly unreduced: GoldenArray;
  readonly loss: GoldenArray;
  readonly grad: GoldenArray;
}

/** One case of `ddp_loss`. */
export interface GoldenCase {
  readonly name: string;
  readonly loss: string;
  readonly reduction: "mean" | "sum";
  readonly world_size: number;
  readonly ranks: readonly GoldenRank[];
}

/** One case of `masked_ddp_loss`. */
export interface MaskedGoldenCase
  extends Omit<GoldenCase, "reduction" | "ranks"> {
  readonly reduction: MaskedReduction;
  readonly coefficient: number;
  readonly ranks: readonly (Omit<GoldenRank, "unreduced"> & {
    readonly mask: GoldenArray;
  })[];
}

/** golden.json. */
export interface Golden {
  /** Every case of fairchem's DDPLoss. */
  readonly ddp_loss: readonly GoldenCase[];
  /** Every case of fairchem's DDPMTLoss. */
  readonly masked_ddp_loss: readonly MaskedGoldenCase[];
}

/** Reads golden.json. */
export async function readGolden(): Promise<Golden> {
  const url = new URL("./golden.json", import.meta.url);
  return JSON.parse(await Deno.readTextFile(url));
}

/** The elements of a golden array. */
export function decode(array: GoldenArray): TensorData {
  const bytes = Uint8Array.fromBase64(array.data);
  const size = array.shape.reduce((a, b) => a * b, 1);
  const data = emptyArray(array.dtype, size);
  new Uint8Array(data.buffer).set(bytes);
  return data;
}

/** The elements as numbers. */
export function numbers(array: GoldenArray): number[] {
  const data = decode(array);
  if (array.dtype !== "bfloat16") return Array.from(data, Number);
  const wide = Uint32Array.from(data as Uint16Array, (bits) => bits << 16);
  return Array.from(new Float32Array(wide.buffer));
}

/** A golden array as a tensor. */
export function toTensor(device: Device, array: GoldenArray): Tensor {
  return device.tensor(decode(array), array.shape, array.dtype);
}

/** Relative tolerances of golden/README.md by dtype of the predictions. */
const TOLERANCE: Partial<Record<DType, number>> = {
  float64: 1e-12,
  float32: 2e-6,
  float16: 5e-3,
  bfloat16: 2e-2,
};

/**
 * Says how two lists differ, or nothing if they agree within the dtype's
 * tolerance, relative to each element and to the largest of all.
 */
export function difference(
  actual: readonly number[],
  expected: readonly number[],
  dtype: DType,
): string | undefined {
  if (actual.length !== expected.length) {
    return `${actual.length} elements, expected ${expected.length}`;
  }
  const tolerance = TOLERANCE[dtype]!;
  const largest = expected.reduce(
    (most, x) => Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most,
    0,
  );
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i]!, expected[i]!];
    if (Object.is(a, e) || a === e) continue;
    // Written so that a NaN on either side is a difference.
    if (!(Math.abs(a - e) <= tolerance * (Math.abs(e) + largest))) {
      return `element ${i} is ${a}, expected ${e} (largest ${largest})`;
    }
  }
  return undefined;
}
