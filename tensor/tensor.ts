/** Dense, row-major arrays in a device's memory. */
import {
  ArgumentError,
  DeviceError,
  DisposedError,
  DTypeError,
  OutOfMemoryError,
  ShapeError,
} from "../errors.ts";
import type { NativeHandle } from "../ffi/native_handle.ts";
import { addressFrom } from "../ffi/pointer.ts";
import {
  type Capture,
  capturing,
  noteUse,
  refuseCapture,
  watched,
} from "./capture.ts";
import {
  type Device,
  heldOf,
  nativeOf,
  originsOf,
  streamOf,
} from "./device.ts";
import {
  checkArray,
  checkDType,
  type DType,
  dtypeBytes,
  dtypeOf,
  emptyArray,
  type TensorData,
} from "./dtype.ts";
import { type DLPackOptions, lendDLPack, readDLPack } from "./dlpack.ts";
import type { HeldMemory } from "./held_memory.ts";
import {
  equalShapes,
  formatShape,
  frozen,
  type Shape,
  shapeSize,
} from "./shape.ts";

/** What is freed, by the last tensor that shares it or by the finalizer. */
interface Block {
  readonly native: NativeHandle;
  readonly address: bigint;
  /** Of memory that another library owns; undefined: a block of ours. */
  readonly loan: Loan | undefined;
  /** Of a block of ours: its bytes, and the account that they are in. */
  readonly bytes: number;
  readonly held: HeldMemory | undefined;
}

/** A block as its tensors hold it: garbage when none of them is left. */
interface Memory {
  readonly block: Block;
  /** Tensors that share it and are not disposed. */
  owners: number;
  /** Of what is in it: see origins.ts. */
  origin: number;
  /** Whether others may write to it, in the order of the device's stream. */
  shared: boolean;
  /**
   * Kept alive as long. Not of the block, which is held until this is garbage:
   * it may refer to the tensor itself.
   */
  readonly keep: object | undefined;
  /** Recordings that use it. */
  recordings: number;
  /** In which it was made. */
  readonly capture: Capture | undefined;
}

/** What memory of another library is held by. */
interface Loan {
  /** Whether its owner forbids writing. */
  readonly readOnly: boolean;
  /** Says to its owner that it is not used any more. */
  readonly giveBack?: (native: NativeHandle) => void;
}

/** Options of `device.wrap`. */
export interface WrapOptions {
  /**
   * Kept from being garbage-collected until the tensor is disposed: what the
   * memory lives as long as, for example its typed array.
   */
  keep?: object;
}

function free({ native, address, loan, bytes, held }: Block): void {
  if (loan !== undefined) {
    loan.giveBack?.(native);
    return;
  }
  held?.remove(bytes);
  // A device that is gone has freed its memory already.
  if (native.released) return;
  native.library.check(native.library.symbols.al_free(native.handle, address));
}

/** Frees blocks whose tensors were never disposed. */
const registry = new FinalizationRegistry<Block>(free);

/** Memory that a first tensor owns. */
function own(block: Block, keep?: object): Memory {
  const memory = {
    block,
    owners: 1,
    recordings: 0,
    origin: 0,
    shared: false,
    keep,
    capture: capturing,
  };
  registry.register(memory, block, memory);
  return memory;
}

/** Frees memory that nobody owns any more. */
function freeUnowned(memory: Memory): void {
  if (memory.owners > 0 || memory.recordings > 0) return;
  registry.unregister(memory);
  free(memory.block);
}

/** Whether there is a stream on which others can enqueue what writes to memory. */
function hasStream({ native }: Block): boolean {
  return streamOf(native) !== null;
}

/** Receives the address of a new block; calls are synchronous, one is enough. */
const newAddress = new BigUint64Array(1);

/** Bytes of al_loss_result of kernels/atomloss.h. */
export const RESULT_BYTES = 48;
/** Where it says how many numbers of the input were not finite, and behind it of the target. */
export const INPUTS_OFFSET = 8;

/** What al_loss_result says besides the value: how many numbers of each were not as they should be. */
export interface Remarks {
  readonly inputs: number;
  readonly targets: number;
  readonly factors: number;
  readonly natoms: number;
  readonly groups: number;
}

/** Told of it when the value is read. */
export type ResultListener = (remarks: Remarks) => void;

/** What the bytes of an al_loss_result say. */
export function remarksOf(result: DataView): Remarks {
  const at = (i: number): number => Number(result.getBigInt64(8 * i, true));
  return {
    inputs: at(1),
    targets: at(2),
    factors: at(3),
    natoms: at(4),
    groups: at(5),
  };
}

let friend: {
  listen: (tensor: Tensor, listener: ResultListener) => void;
  loan: (tensor: Tensor) => Loan | undefined;
  address: (tensor: Tensor) => bigint;
  isApart: (a: Tensor, b: Tensor) => boolean;
  part: (tensor: Tensor, shape: Shape, offset: number) => Tensor;
  pointer: (tensor: Tensor) => NonNullable<Deno.PointerValue>;
  origin: (tensor: Tensor) => number;
  setOrigin: (tensor: Tensor, origin: number, isWritten: boolean) => void;
  note: (capture: Capture, flow: Flow) => void;
  upload: (tensor: Tensor, data: TensorData) => void;
};

/**
 * A dense, row-major array in the memory of a {@linkcode Device}.
 *
 * Made by `device.tensor`, `device.zeros` or an operation. Dispose it when it
 * is no longer needed (`using`); a garbage-collected tensor is freed as well,
 * but later. Work already enqueued on the device may still use the memory of a
 * disposed tensor.
 *
 * @example
 * ```ts
 * import { Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using energy = device.tensor(new Float64Array([-4.3, -8.7]), [2, 1]);
 * console.log(energy.dtype, energy.size); // float64 2
 * console.log(await energy.data()); // Float64Array(2) [ -4.3, -8.7 ]
 * ```
 */
export class Tensor {
  /** Where the elements are. */
  readonly device: Device;
  /** Type of the elements. */
  readonly dtype: DType;
  /** Lengths of the dimensions; `[]` is a scalar. */
  readonly shape: Shape;
  /** Number of elements. */
  readonly size: number;
  #memory: Memory | undefined;
  /** Of the first element. */
  readonly #address: bigint;
  /** The same as an object, once somebody asks for it. */
  #pointer: NonNullable<Deno.PointerValue> | undefined;
  #listener: ResultListener | undefined;

  static {
    friend = {
      listen: (tensor, listener) => {
        tensor.#listener = listener;
        if (capturing !== undefined) {
          capturing.listeners.push([tensor, listener]);
        }
      },
      loan: (tensor) => tensor.#open().block.loan,
      address: (tensor) => {
        tensor.#open();
        return tensor.#address;
      },
      // Two blocks of ours never overlap; memory of others may be one of ours.
      isApart: (a, b) => {
        const first = a.#open(), second = b.#open();
        return first !== second && first.block.loan === undefined &&
          second.block.loan === undefined;
      },
      part: (tensor, shape, offset) => tensor.#part(shape, offset),
      pointer: (tensor) => {
        tensor.#open();
        return tensor.#pointer ??= Deno.UnsafePointer.create(tensor.#address)!;
      },
      origin: (tensor) => tensor.#origin,
      setOrigin: (tensor, origin, isWritten) => {
        const memory = tensor.#memory;
        if (memory === undefined) return;
        memory.origin = isWritten && tensor.#isAll(memory)
          ? origin
          : originsOf(tensor.device).join(memory.origin, origin);
      },
      note: (capture, { reads, writes }) => {
        for (const tensor of reads) if (tensor) capture.reads(tensor.#open());
        for (const tensor of writes) {
          if (!tensor) continue;
          const memory = tensor.#open();
          capture.writes(memory, tensor.#isAll(memory));
        }
      },
      upload: (tensor, data) => tensor.#upload(data),
    };
  }

  private constructor(
    device: Device,
    dtype: DType,
    shape: Shape,
    size: number,
    memory: Memory,
    address = memory.block.address,
  ) {
    this.device = device;
    this.dtype = dtype;
    this.shape = shape;
    this.size = size;
    this.#memory = memory;
    this.#address = address;
    capturing?.made.push(this);
  }

  /**
   * A tensor whose elements are not set. See `device.empty`.
   *
   * @throws {ShapeError} if a length is not an integer >= 0.
   * @throws {OutOfMemoryError} if the device has too little memory.
   */
  static empty(device: Device, shape: Shape, dtype: DType): Tensor {
    const size = shapeSize(shape);
    const bytes = size * dtypeBytes(checkDType(dtype));
    const native = nativeOf(device);
    const { library, handle } = native;
    const held = heldOf(device);
    const status = library.symbols.al_alloc(handle, BigInt(bytes), newAddress);
    if (status !== 0) {
      try {
        library.check(status);
      } catch (error) {
        if (!(error instanceof OutOfMemoryError)) throw error;
        throw new OutOfMemoryError(`${error.message}; ${held.advice}`);
      }
    }
    const address = newAddress[0]!;
    held.add(bytes, () => device.memory.free);
    const memory = own({ native, address, loan: undefined, bytes, held });
    return new Tensor(device, dtype, frozen(shape), size, memory);
  }

  /** A tensor over memory that another library owns. See `device.wrap`. */
  static wrap(
    device: Device,
    pointer: Deno.PointerValue,
    shape: Shape,
    dtype: DType,
    { keep }: WrapOptions = {},
  ): Tensor {
    const loan = { readOnly: false };
    return Tensor.#borrow(device, pointer, shape, dtype, loan, keep);
  }

  /**
   * A tensor over memory that another library lends by DLPack. From then on the
   * struct is the tensor's, which calls its deleter once: when the tensor is
   * disposed or garbage-collected, on a GPU as soon as the work enqueued until
   * then is done. If this throws, the struct is untouched and still the caller's.
   *
   * On a GPU the owner's work on the memory must be ordered before
   * {@linkcode Device.stream}.
   *
   * @param device Device of the memory: the CPU takes kDLCPU and kDLCUDAHost, a
   * GPU kDLCUDA of its ordinal and kDLCUDAManaged.
   * @param managed Address of a `DLManagedTensorVersioned` of major version 1,
   * or of a `DLManagedTensor`: dense and row-major, of a dtype that
   * {@linkcode DType} has, with one lane. If its flags say read-only, the tensor
   * is an input: what would write to it throws an {@linkcode ArgumentError}.
   * @param options `versioned`: which of the two structs it is.
   * @throws {ArgumentError} if the address is null or not that of such a struct,
   * its version is another, its strides are not row-major, or its memory is null
   * or not aligned to its elements.
   * @throws {ShapeError} if a length is negative.
   * @throws {DTypeError} if there is no such dtype here.
   * @throws {DeviceError} if the memory is not the device's.
   * @throws {DisposedError} if the device was disposed.
   *
   * Source: https://dmlc.github.io/dlpack/latest/c_api.html
   *
   * @example
   * ```ts
   * import { Device, Tensor } from "@atomloss/atomloss";
   *
   * using device = await Device.open("cpu");
   * using forces = device.tensor(new Float32Array([1, 2, 3]), [1, 3]);
   * const managed = forces.toDLPack(); // any library's export will do
   * using same = Tensor.fromDLPack(device, managed);
   * console.log(same.shape, await same.toList()); // [ 1, 3 ] [ 1, 2, 3 ]
   * ```
   */
  static fromDLPack(
    device: Device,
    managed: Deno.PointerValue,
    options: DLPackOptions = {},
  ): Tensor {
    const { pointer, shape, dtype, ...loan } = readDLPack(
      device,
      managed,
      options,
    );
    return Tensor.#borrow(device, pointer, shape, dtype, loan);
  }

  static #borrow(
    device: Device,
    pointer: Deno.PointerValue,
    shape: Shape,
    dtype: DType,
    loan: Loan,
    keep?: object,
  ): Tensor {
    const native = nativeOf(device);
    const size = shapeSize(shape);
    const width = dtypeBytes(checkDType(dtype));
    const what = `${dtype}${formatShape(shape)}`;
    const given = addressFrom(pointer, `the memory of ${what}`);
    if (given === 0n && size > 0) {
      throw new ArgumentError(
        `the memory of ${what} is null, expected the address of ${
          size * width
        } bytes`,
      );
    }
    // Without elements any address will do, and null is not one.
    const address = given || BigInt(width);
    if (address % BigInt(width) !== 0n) {
      throw new ArgumentError(
        `the memory of ${what} is at 0x${
          address.toString(16)
        }, expected an address that is a multiple of ${width}`,
      );
    }
    const block = { native, address, loan, bytes: 0, held: undefined };
    const memory = own(block, keep);
    memory.shared = hasStream(block);
    return new Tensor(device, dtype, frozen(shape), size, memory);
  }

  /** A tensor of zeros. See `device.zeros`. */
  static zeros(device: Device, shape: Shape, dtype: DType): Tensor {
    const tensor = Tensor.empty(device, shape, dtype);
    const { library, handle } = nativeOf(device);
    library.check(
      library.symbols.al_zero(
        handle,
        pointerOf(tensor),
        BigInt(tensor.byteLength),
      ),
    );
    return tensor;
  }

  /** A tensor with a copy of data. See `device.tensor`. */
  static from(
    device: Device,
    data: TensorData,
    shape: Shape,
    dtype: DType = dtypeOf(data),
  ): Tensor {
    refuseCapture(
      "device.tensor(array)",
      "make the tensor before, and write to it with copy_ before each replay",
    );
    checkArray(data, checkDType(dtype));
    if (shapeSize(shape) !== data.length) {
      throw new ShapeError(
        `shape ${formatShape(shape)} has ${
          shapeSize(shape)
        } elements, the data has ${data.length}`,
      );
    }
    const tensor = Tensor.empty(device, shape, dtype);
    tensor.#upload(data);
    return tensor;
  }

  #upload(data: TensorData): void {
    const { library, handle } = nativeOf(this.device);
    checkTraced(
      this.device,
      library.symbols.al_upload(
        handle,
        pointerOf(this),
        data,
        BigInt(this.byteLength),
      ),
      () => ({ reads: [], writes: [this] }),
    );
  }

  /**
   * The same elements, in the same memory, as a tensor of another shape. The
   * memory is freed when both are disposed.
   *
   * @param shape Lengths of the dimensions, with as many elements.
   * @returns A tensor to be disposed like any other.
   * @throws {ShapeError} if the shape does not have as many elements.
   * @throws {DisposedError} if the tensor was disposed.
   */
  reshape(shape: Shape): Tensor {
    if (shapeSize(shape) !== this.size) {
      throw new ShapeError(
        `cannot reshape ${formatShape(this.shape)}, ${this.size} elements, to ${
          formatShape(shape)
        }`,
      );
    }
    return this.#part(shape, 0);
  }

  /** A tensor on a part of this one's memory, from so many bytes on. */
  #part(shape: Shape, offset: number): Tensor {
    const memory = this.#open();
    memory.owners++;
    return new Tensor(
      this.device,
      this.dtype,
      frozen(shape),
      shapeSize(shape),
      memory,
      this.#address + BigInt(offset),
    );
  }

  /** Bytes of the elements. */
  get byteLength(): number {
    return this.size * dtypeBytes(this.dtype);
  }

  /**
   * Address of the first element, for other FFI libraries: memory of the
   * device, valid until the tensor is disposed. On a GPU order your work with
   * {@linkcode Device.stream}. From then on it is not known here what the tensor
   * is computed from: after a failed collective of a GPU it cannot be read.
   *
   * @throws {DisposedError} if the tensor or its device was disposed.
   */
  get pointer(): NonNullable<Deno.PointerValue> {
    const memory = this.#open();
    memory.shared ||= hasStream(memory.block);
    return friend.pointer(this);
  }

  /** Whether nothing shares the memory that lies beside this. */
  #isAll(memory: Memory): boolean {
    return memory.owners === 1 || this.byteLength === memory.block.bytes;
  }

  get #origin(): number {
    const memory = this.#open();
    return memory.shared ? originsOf(this.device).unknown : memory.origin;
  }

  #open(): Memory {
    const memory = this.#memory;
    return memory === undefined || memory.block.native.closed || watched > 0
      ? this.#lookAt(memory)
      : memory;
  }

  /** What is seldom: throws if it cannot be used, and tells a capture that it is. */
  #lookAt(memory: Memory | undefined): Memory {
    if (memory === undefined || memory.block.native.closed) {
      throw new DisposedError(
        `tensor ${this.dtype}${formatShape(this.shape)} was disposed${
          memory === undefined ? "" : " with its device"
        }`,
      );
    }
    noteUse(this, memory, freeUnowned);
    return memory;
  }

  /** Whether {@linkcode Tensor.dispose} was called, or the device is gone. */
  get disposed(): boolean {
    return this.#memory === undefined || this.#memory.block.native.closed;
  }

  /**
   * The elements as they are after everything enqueued so far, in the typed
   * array of the dtype (bfloat16: bit patterns in a `Uint16Array`). Waits for
   * the device without blocking the event loop.
   *
   * @throws {DisposedError} if the tensor was disposed.
   * @throws {CollectiveError} if a collective it depends on failed.
   * @throws {ArgumentError} if it is the value of a loss per structure whose natoms was wrong.
   */
  async data(): Promise<TensorData> {
    const out = emptyArray(this.dtype, this.size);
    const listener = this.#listener;
    if (listener === undefined) {
      await this.#download(out);
      return out;
    }
    const result = new Uint8Array(RESULT_BYTES);
    await this.#download(result);
    new Uint8Array(out.buffer).set(result.subarray(0, out.byteLength));
    listener(remarksOf(new DataView(result.buffer)));
    return out;
  }

  async #download(out: TensorData): Promise<void> {
    refuseCapture("reading a tensor", "return it, and read step.result");
    const native = nativeOf(this.device);
    const { library, handle } = native;
    const bytes = BigInt(out.byteLength);
    const ticket = new BigInt64Array(1);
    const origin = this.#origin;
    library.check(
      library.symbols.al_download(
        handle,
        pointerOf(this),
        out,
        bytes,
        origin,
        ticket,
      ),
    );
    // Ticket 0: the bytes are here.
    if (ticket[0] === 0n) return;
    library.check(
      await native.onThread(() =>
        library.symbols.al_download_wait(
          handle,
          ticket[0]!,
          out,
          bytes,
          origin,
        )
      ),
    );
  }

  /**
   * The only element, as a number.
   *
   * @throws {ShapeError} if the tensor does not have exactly one element.
   * @throws {DisposedError} if the tensor was disposed.
   */
  async item(): Promise<number> {
    if (this.size !== 1) {
      throw new ShapeError(
        `item() needs a tensor of one element, not of shape ${
          formatShape(this.shape)
        }`,
      );
    }
    return (await this.toList())[0]!;
  }

  /** The elements in order as numbers, whatever the dtype. Waits like {@linkcode Tensor.data}. */
  async toList(): Promise<number[]> {
    const data = await this.data();
    if (this.dtype !== "bfloat16") return Array.from(data, Number);
    // A bfloat16 is the upper half of a float32.
    const wide = Uint32Array.from(data as Uint16Array, (bits) => bits << 16);
    return Array.from(new Float32Array(wide.buffer));
  }

  /**
   * Copies the elements of another tensor, or of a typed array, into this one.
   *
   * @param source As many elements of the same dtype; a tensor must have the
   * same shape and device.
   * @returns This tensor.
   * @throws {ShapeError | DTypeError | DeviceError} if it does not fit.
   * @throws {ArgumentError} if the two tensors share a part of their memory, or
   * this one is read-only.
   */
  copy_(source: Tensor | TensorData): this {
    checkWritable(this, "the destination of copy_");
    if (source instanceof Tensor) {
      checkLike(this, source, "the source of copy_");
      if (
        addressOf(this) !== addressOf(source) && overlap(this, source)
      ) {
        throw new ArgumentError("the source of copy_ overlaps the destination");
      }
      const { library, handle } = nativeOf(this.device);
      checkTraced(
        this.device,
        library.symbols.al_copy(
          handle,
          pointerOf(this),
          pointerOf(source),
          BigInt(this.byteLength),
        ),
        () => ({ reads: [source], writes: [this] }),
      );
    } else {
      refuseCapture("copy_(array)", "call it before each replay");
      checkArray(source, this.dtype);
      if (source.length !== this.size) {
        throw new ShapeError(
          `copy_ into shape ${
            formatShape(this.shape)
          } needs ${this.size} elements, the data has ${source.length}`,
        );
      }
      this.#upload(source);
    }
    this.#listener = undefined;
    return this;
  }

  /**
   * Lends the tensor to another library by DLPack, without a copy. The memory is
   * in use until the struct's deleter is called, also when the tensor or the
   * device is disposed before. Whoever gets the struct must call its deleter
   * once, from any thread; `Tensor.fromDLPack` does so as well.
   *
   * On a GPU the borrower orders its reads behind {@linkcode Device.stream} (or
   * you await `device.synchronize()` first). Before it calls the deleter, its
   * own work on the memory must be done, or the stream made to wait for it: the
   * block may be handed out again at once.
   *
   * @param options `versioned`: whether to make a `DLManagedTensorVersioned` (of
   * version 1.0), or a `DLManagedTensor`.
   * @returns Address of the struct: data, device, shape, row-major strides in
   * elements, and dtype of this tensor.
   * @throws {ArgumentError} if the memory is another library's, by `device.wrap`
   * or `Tensor.fromDLPack`: how long it lives is not ours to promise.
   * @throws {CollectiveError} if a collective it depends on is known to have failed.
   * @throws {DisposedError} if the tensor was disposed.
   *
   * Source: https://dmlc.github.io/dlpack/latest/c_api.html
   *
   * @example
   * ```ts
   * import { Device, Tensor } from "@atomloss/atomloss";
   *
   * using device = await Device.open("cpu");
   * const forces = device.tensor(new Float32Array([1, 2, 3]), [1, 3]);
   * const managed = forces.toDLPack();
   * forces.dispose();
   * console.log(device.memory.tensors); // 1: the memory is lent
   * Tensor.fromDLPack(device, managed).dispose(); // calls the deleter
   * console.log(device.memory.tensors); // 0
   * ```
   */
  toDLPack(options: DLPackOptions = {}): NonNullable<Deno.PointerValue> {
    refuseCapture("toDLPack()", "call it outside");
    const { native, address, loan } = this.#open().block;
    if (loan !== undefined) {
      throw new ArgumentError(
        `${this} is memory of another library, expected a tensor of this ` +
          "package to export: copy it with copy_ first",
      );
    }
    if (this.#address !== address) {
      throw new ArgumentError(
        `${this} is a part of a larger block, expected a tensor with one of its ` +
          "own to export: copy it with copy_ first",
      );
    }
    const { library, handle } = native;
    library.check(library.symbols.al_origin_check(handle, this.#origin));
    return lendDLPack(native, this.pointer, this.shape, this.dtype, options);
  }

  /**
   * Gives the memory back for reuse, or to the library that owns it. Safe to
   * call again.
   */
  [Symbol.dispose](): void {
    const memory = this.#memory;
    if (memory === undefined) return;
    this.#memory = undefined;
    memory.owners--;
    freeUnowned(memory);
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }

  /** `Tensor(float32[4, 3], cpu)`. */
  toString(): string {
    return `Tensor(${this.dtype}${
      formatShape(this.shape)
    }, ${this.device.name})`;
  }
}

/** Throws unless value is a tensor. For callers without types. */
export function checkTensor(
  value: unknown,
  what: string,
): asserts value is Tensor {
  if (!(value instanceof Tensor)) {
    throw new ArgumentError(
      `${what} must be a Tensor, not ${value === null ? "null" : typeof value}`,
    );
  }
}

/** Throws unless other has the device of tensor. */
export function checkDevice(tensor: Tensor, other: Tensor, what: string): void {
  if (other.device !== tensor.device) {
    throw new DeviceError(
      `${what} is on ${other.device.name}, expected the ${
        other.device.name === tensor.device.name
          ? "same Device object"
          : tensor.device.name
      } that the other arguments are on`,
    );
  }
}

/** Throws if the tensor's memory is another library's, which forbids writing. */
export function checkWritable(tensor: Tensor, what: string): void {
  if (!friend.loan(tensor)?.readOnly) return;
  throw new ArgumentError(
    `${what} is ${tensor} over read-only memory of another library, expected ` +
      "a tensor that may be written to: copy it with copy_ first",
  );
}

/** Throws unless other has device, dtype and shape of tensor. */
export function checkLike(tensor: Tensor, other: Tensor, what: string): void {
  checkTensor(other, what);
  checkDevice(tensor, other, what);
  if (other.dtype !== tensor.dtype) {
    throw new DTypeError(
      `${what} has dtype ${other.dtype}, expected ${tensor.dtype}`,
    );
  }
  if (!equalShapes(other.shape, tensor.shape)) {
    throw new ShapeError(
      `${what} has shape ${formatShape(other.shape)}, expected ${
        formatShape(tensor.shape)
      }`,
    );
  }
}

/**
 * Whether two tensors share memory. Addresses, since a reshaped or wrapped
 * tensor is another object on the same memory.
 */
function overlap(a: Tensor, b: Tensor): boolean {
  if (friend.isApart(a, b)) return false;
  const first = friend.address(a);
  const second = friend.address(b);
  return first < second + BigInt(b.byteLength) &&
    second < first + BigInt(a.byteLength);
}

/**
 * The tensor to write to: `out` if it fits and shares no memory with the
 * inputs, or a new one.
 */
export function outputTensor(
  device: Device,
  shape: Shape,
  dtype: DType,
  out: Tensor | undefined,
  inputs: readonly Tensor[],
): Tensor {
  if (out === undefined) return Tensor.empty(device, shape, dtype);
  checkTensor(out, "out");
  checkWritable(out, "out");
  if (inputs.some((input) => overlap(input, out))) {
    throw new ArgumentError(
      "out must not be one of the inputs, nor share memory with one",
    );
  }
  if (
    out.device !== device || out.dtype !== dtype ||
    !equalShapes(out.shape, shape)
  ) {
    const message = `out is ${out}, expected ${dtype}${
      formatShape(shape)
    } on ${device.name}`;
    if (out.device !== device) throw new DeviceError(message);
    throw out.dtype === dtype
      ? new ShapeError(message)
      : new DTypeError(message);
  }
  return out;
}

/**
 * The scalar to write a reduced loss to: `out` if it fits and shares no memory
 * with the others, which are read or written by the same call, or a new one. The
 * native library writes a whole al_loss_result there, which every block of ours
 * has room for and memory of another library may not.
 */
export function resultTensor(
  device: Device,
  dtype: DType,
  out: Tensor | undefined,
  others: readonly Tensor[],
): Tensor {
  // A scalar's memory can be a tensor's of one element, not a larger one's.
  const small = others.filter(({ size }) => size === 1);
  const result = outputTensor(device, [], dtype, out, small);
  if (friend.loan(result) !== undefined) {
    throw new ArgumentError(
      `out for the value of a loss is ${result} over memory of another ` +
        "library, expected a tensor of this package: the count of non-finite " +
        "entries is written behind the value",
    );
  }
  return result;
}

/** Says who is told what a reduced loss has to say when its value is read. */
export function onResult(result: Tensor, listener: ResultListener): void {
  friend.listen(result, listener);
}

/**
 * Address of the first element, for a call of the native library that says by
 * checkTraced() what it reads and writes. Throws if the tensor was disposed.
 */
export function pointerOf(tensor: Tensor): NonNullable<Deno.PointerValue> {
  return friend.pointer(tensor);
}

/** What a call of the native library reads and writes. */
export interface Flow {
  readonly reads: readonly (Tensor | null | undefined)[];
  readonly writes: readonly (Tensor | null | undefined)[];
}

/** The origin of what is computed from all of these. */
export function originOf(
  device: Device,
  reads: readonly (Tensor | null | undefined)[],
): number {
  const origins = originsOf(device);
  let origin = 0;
  for (const tensor of reads) {
    if (tensor) origin = origins.join(origin, friend.origin(tensor));
  }
  return origin;
}

/** Says what is in tensors now; if they were not all written, also what was. */
export function setOrigin(
  tensors: readonly (Tensor | null | undefined)[],
  origin: number,
  areWritten: boolean,
): void {
  for (const tensor of tensors) {
    if (tensor) friend.setOrigin(tensor, origin, areWritten);
  }
}

/** Notes what a call of a capture that is no call of checkTraced() reads and writes. */
export function noteFlow(flow: Flow): void {
  if (capturing !== undefined) friend.note(capturing, flow);
}

/**
 * Throws the error of a call's status, and keeps the origin of what it has
 * written: that of all it has read. (`flow` is asked once there are collectives.)
 */
export function checkTraced(
  device: Device,
  status: number,
  flow: () => Flow,
): void {
  if (capturing !== undefined) {
    friend.note(capturing, flow());
  } else if (originsOf(device).latest > 0) {
    const { reads, writes } = flow();
    setOrigin(writes, originOf(device, reads), status === 0);
  }
  if (status !== 0) nativeOf(device).library.check(status);
}

/** Address of the first element, as for pointerOf(). Throws if the tensor was disposed. */
export function addressOf(tensor: Tensor): bigint {
  return friend.address(tensor);
}

/** A tensor on a part of another's memory: its elements from so many bytes on. */
export function partOf(tensor: Tensor, shape: Shape, offset: number): Tensor {
  return friend.part(tensor, shape, offset);
}

/** A tensor of numbers that are the same each time that a step is made. */
export function constant(
  device: Device,
  data: Float64Array<ArrayBuffer>,
): Tensor {
  const tensor = Tensor.empty(device, [data.length], "float64");
  friend.upload(tensor, data);
  return tensor;
}
