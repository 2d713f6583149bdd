/** A DLPack struct in JavaScript's memory, as another library would hand it over. */
import type { Shape, TensorData } from "../mod.ts";

/** What to write into the struct; the defaults are a good float32 tensor. */
export interface CapsuleOptions {
  versioned?: boolean;
  version?: readonly [major: number, minor: number];
  flags?: bigint;
  data?: TensorData | null;
  deviceType?: number;
  deviceId?: number;
  /** Default: as many as shape has. */
  ndim?: number;
  dtype?: readonly [code: number, bits: number, lanes: number];
  shape?: Shape | null;
  strides?: readonly number[] | null;
  byteOffset?: number;
  deleter?: null;
}

const deleterType = { parameters: ["pointer"], result: "void" } as const;

/** Counts the calls of its deleter. */
export class Capsule implements Disposable {
  readonly pointer: NonNullable<Deno.PointerValue>;
  /** How often the deleter was called, with this capsule's address. */
  deletions = 0;
  readonly #callback: Deno.UnsafeCallback<typeof deleterType>;
  /** All that the struct points at: the collector must not take it. */
  readonly #memory: unknown[];

  constructor({
    versioned = true,
    version = [1, 0],
    flags = 0n,
    data = new Float32Array([1, 2, 3, 4, 5, 6]),
    deviceType = 1,
    deviceId = 0,
    shape = data === null ? [0] : [data.length],
    ndim = shape?.length ?? 0,
    dtype = [2, 32, 1],
    strides = null,
    byteOffset = 0,
    deleter,
  }: CapsuleOptions = {}) {
    const bytes = new Uint8Array(versioned ? 80 : 64);
    this.pointer = Deno.UnsafePointer.of(bytes)!;
    const self = Deno.UnsafePointer.value(this.pointer);
    this.#callback = new Deno.UnsafeCallback(deleterType, (managed) => {
      if (Deno.UnsafePointer.value(managed) === self) this.deletions++;
    });
    const lengths = shape && BigInt64Array.from(shape, BigInt);
    const steps = strides && BigInt64Array.from(strides, BigInt);
    this.#memory = [bytes, data, lengths, steps];

    const view = new DataView(bytes.buffer);
    const address = (at: number, pointer: Deno.PointerValue): void =>
      view.setBigUint64(at, Deno.UnsafePointer.value(pointer), true);
    const tensor = versioned ? 32 : 0;
    if (versioned) {
      view.setUint32(0, version[0], true);
      view.setUint32(4, version[1], true);
      view.setBigUint64(24, flags, true);
    }
    address(
      versioned ? 16 : 56,
      deleter === null ? null : this.#callback.pointer,
    );
    address(tensor, data && Deno.UnsafePointer.of(data));
    view.setInt32(tensor + 8, deviceType, true);
    view.setInt32(tensor + 12, deviceId, true);
    view.setInt32(tensor + 16, ndim, true);
    view.setUint8(tensor + 20, dtype[0]);
    view.setUint8(tensor + 21, dtype[1]);
    view.setUint16(tensor + 22, dtype[2], true);
    address(tensor + 24, lengths && Deno.UnsafePointer.of(lengths));
    address(tensor + 32, steps && Deno.UnsafePointer.of(steps));
    view.setBigUint64(tensor + 40, BigInt(byteOffset), true);
  }

  [Symbol.dispose](): void {
    this.#callback.close();
  }
}
