/** Timing of calls that a device may only have enqueued. */
import type { Device } from "../mod.ts";

/** Rounds of a comparison. */
export const ROUNDS = 9;

/** Seconds that one measurement in a round takes. */
const SLICE = 0.05;

/** Seconds that PyTorch gets for one measurement. */
export const TORCH_SECONDS = 0.5;

/** The middle one. */
export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

/** Microseconds of one call, of as many calls back to back as fill a slice. */
export async function time(device: Device, call: () => void): Promise<number> {
  for (let calls = 1;; calls *= 2) {
    const start = performance.now();
    for (let i = 0; i < calls; i++) call();
    await device.synchronize();
    const elapsed = performance.now() - start;
    if (elapsed >= SLICE * 1e3) return elapsed / calls * 1e3;
  }
}

/** A number for a table; nothing for what was not measured. */
export function cell(x: number | undefined, digits = 1): string {
  return x === undefined ? "" : x.toFixed(digits);
}
