/** Devices: where tensors live and losses are computed. */
import {
  ArgumentError,
  AtomlossError,
  BuildError,
  CaptureError,
  DeviceError,
  DisposedError,
} from "../errors.ts";
import { type Backend, Library } from "../ffi/library.ts";
import { NativeHandle } from "../ffi/native_handle.ts";
import { whyNoGpu } from "../ffi/nvidia_driver.ts";
import type { DType, TensorData } from "./dtype.ts";
import { refuseCapture } from "./capture.ts";
import { type CapturedStep, record } from "./captured_step.ts";
import { HeldMemory } from "./held_memory.ts";
import { Origins } from "./origins.ts";
import { Tensor, type WrapOptions } from "./tensor.ts";
import type { Shape } from "./shape.ts";

/** What memory a device holds for this process, in bytes. */
export interface MemoryState {
  /** Tensors alive or lent by DLPack; not those over memory of other libraries. */
  readonly tensors: number;
  /** Their bytes. */
  readonly used: number;
  /**
   * Bytes of freed memory kept for reuse, on a GPU also what the devices of this
   * process have of it together; see {@linkcode Device.releaseMemory}.
   */
  readonly cached: number;
  /** Bytes that the device has free. */
  readonly free: number;
}

/** What launchers call the number of a replica among those of its host. */
export const LOCAL_RANKS: readonly string[] = [
  "LOCAL_RANK",
  "OMPI_COMM_WORLD_LOCAL_RANK",
  "JSM_NAMESPACE_LOCAL_RANK",
  "MV2_COMM_WORLD_LOCAL_RANK",
  "FLUX_TASK_LOCAL_ID",
  "PALS_LOCAL_RANKID",
  "MPI_LOCALRANKID",
  "PMI_LOCAL_RANK",
  "SLURM_LOCALID",
];

/**
 * The GPU of this replica where none is named: each replica of a host has its
 * own. A replica that is shown fewer, as by `srun --gpus-per-task=1`, counts
 * around those. (Where two so get the same one by mistake, NCCL refuses it.)
 */
async function ownGpu(): Promise<number> {
  for (const name of LOCAL_RANKS) {
    const text = Deno.env.get(name);
    if (text === undefined || !/^\d+$/.test(text)) continue;
    return Number(text) % Math.max(1, await Device.count("cuda"));
  }
  return 0;
}

/** "cpu", "cuda", "cuda:1" or "auto", taken apart. */
function parseDevice(
  spec: string,
): { backend: Backend | "auto"; ordinal: number | undefined } {
  const match = /^(?:(cpu|auto)|(cuda)(?::(\d+))?)$/.exec(spec);
  if (match === null) {
    throw new ArgumentError(
      `device '${spec}' is unknown: expected "cpu", "cuda", "cuda:1" (any ordinal) or "auto"`,
    );
  }
  return {
    backend: (match[1] ?? match[2]) as Backend | "auto",
    ordinal: match[3] === undefined ? undefined : Number(match[3]),
  };
}

/** Closes devices that were never disposed. */
const registry = new FinalizationRegistry<NativeHandle>((native) =>
  native.close()
);

let friend: (device: Device) => NativeHandle;
let heldBy: (device: Device) => HeldMemory;
let originsBy: (device: Device) => Origins;

/**
 * A place for tensors and computation: the CPU or one NVIDIA GPU.
 *
 * Calls on a device are enqueued in order; only `data()`, `item()`,
 * {@linkcode Device.synchronize} and `ProcessGroup.barrier` wait for it.
 *
 * @example
 * ```ts
 * import { Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using forces = device.zeros([4, 3], "float32");
 * console.log(device.name, forces.shape); // cpu [ 4, 3 ]
 * ```
 */
export class Device {
  /** "cpu", or "cuda:" and the ordinal. */
  readonly name: string;
  /** "cpu" or "cuda". */
  readonly type: "cpu" | "cuda";
  readonly #native: NativeHandle;
  readonly #held: HeldMemory;
  readonly #origins: Origins;

  static {
    heldBy = (device) => device.#held;
    originsBy = (device) => device.#origins;
    friend = (device) => {
      if (!device.#native.usable) {
        throw device.#native.closed
          ? new DisposedError(`device ${device.name} was disposed`)
          : new CaptureError(
            `replayAsync() is under way on ${device.name}: await it before the next call`,
          );
      }
      return device.#native;
    };
  }

  private constructor(type: Backend, ordinal: number, native: NativeHandle) {
    this.type = type;
    this.name = type === "cpu" ? "cpu" : `${type}:${ordinal}`;
    this.#native = native;
    this.#held = new HeldMemory(this.name);
    this.#origins = new Origins(native);
    registry.register(this, native, this);
  }

  /**
   * Opens a device and, the first time on a machine, compiles the native
   * library for it.
   *
   * @param spec `"cpu"`; `"cuda:1"` (any ordinal); `"cuda"`: the GPU of this
   * replica, whose ordinal is its rank on this host, counted around the GPUs that
   * it sees; or `"auto"`: that GPU if it works, otherwise the CPU, with one line
   * that says why.
   * @throws {ArgumentError} if spec is none of these.
   * @throws {BuildError} if the library cannot be built; names what to install.
   * @throws {DeviceError} if there is no such device, or its driver is too old, or
   * the library has no code for a GPU so old.
   */
  static async open(spec = "auto"): Promise<Device> {
    const { backend, ordinal } = parseDevice(spec);
    if (backend === "cpu") return await Device.#open("cpu", 0);
    if (backend === "cuda") {
      return await Device.#open("cuda", ordinal ?? await ownGpu());
    }
    // Without a driver it is no use to compile for minutes first.
    let reason = await whyNoGpu();
    if (reason === undefined) {
      try {
        return await Device.#open("cuda", await ownGpu());
      } catch (error) {
        if (!(error instanceof BuildError || error instanceof DeviceError)) {
          throw error;
        }
        reason = error.message.split("\n")[0]!;
      }
    }
    console.error(`atomloss: using the CPU: ${reason}`);
    return await Device.#open("cpu", 0);
  }

  static async #open(backend: Backend, ordinal: number): Promise<Device> {
    const library = await Library.get(backend);
    const handle = new BigUint64Array(1);
    library.check(library.symbols.al_device_open(ordinal, handle));
    const native = new NativeHandle(
      library,
      handle[0]!,
      ({ handle }) => Device.#close(library, handle),
    );
    return new Device(backend, ordinal, native);
  }

  /**
   * Frees the native side. An error here would hide the one that a `using`
   * block ends with, and be uncaught in a finalizer.
   */
  static #close(
    library: Library,
    handle: NonNullable<Deno.PointerValue>,
  ): void {
    try {
      library.check(library.symbols.al_device_close(handle));
    } catch (error) {
      if (!(error instanceof AtomlossError)) throw error;
      console.error(
        `atomloss: a device failed before it was disposed: ${error.message}`,
      );
    }
  }

  /**
   * How many devices of a type there are; 0 GPUs on a machine without a driver.
   *
   * @throws {ArgumentError} if there is no such type.
   * @throws {BuildError} if the library of the type cannot be built or loaded,
   * the one of "cuda" without the CUDA toolkit and NCCL. The first time it is
   * compiled, as by `Device.open`.
   * @throws {DeviceError} if there is a driver that is too old for the library.
   */
  static async count(type: "cpu" | "cuda"): Promise<number> {
    if (type !== "cpu" && type !== "cuda") {
      throw new ArgumentError(`type is ${type}, expected cpu or cuda`);
    }
    const library = await Library.get(type);
    const count = new Int32Array(1);
    library.check(library.symbols.al_device_count(count));
    return count[0]!;
  }

  /** Whether {@linkcode Device.dispose} was called. */
  get disposed(): boolean {
    return this.#native.closed;
  }

  /** Versions of the libraries that compute on this device (OpenBLAS; cuBLAS, NCCL, …). */
  get versions(): Record<string, string> {
    return friend(this).library.versions();
  }

  /**
   * A tensor with a copy of data, row by row.
   *
   * @param data The elements. Their dtype follows from the array; `Uint16Array`
   * bit patterns need `"bfloat16"`, and a `Uint8Array` needs `"bool"`.
   * @param shape Lengths of the dimensions; default: one dimension.
   * @throws {ShapeError} if the shape does not have as many elements as data.
   * @throws {DTypeError} if dtype and array do not belong together.
   * @throws {OutOfMemoryError} if the device has too little memory.
   */
  tensor(
    data: TensorData,
    shape: Shape = [data.length],
    dtype?: DType,
  ): Tensor {
    return Tensor.from(this, data, shape, dtype);
  }

  /** A tensor of zeros. */
  zeros(shape: Shape, dtype: DType = "float32"): Tensor {
    return Tensor.zeros(this, shape, dtype);
  }

  /** A tensor whose elements are not set: to be passed as `out`. */
  empty(shape: Shape, dtype: DType = "float32"): Tensor {
    return Tensor.empty(this, shape, dtype);
  }

  /**
   * A tensor over memory that another library owns, without a copy: ordinary
   * memory on the CPU, on a GPU memory of that GPU. Disposing it does not free
   * the memory, which must stay valid until the tensor is disposed and what was
   * enqueued with it is done (on a GPU; await {@linkcode Device.synchronize}, or
   * free it in the order of {@linkcode Device.stream}).
   *
   * The value of a reduced loss cannot be written to such memory, and it cannot
   * be exported by `toDLPack`; all else is as for any tensor.
   *
   * @param pointer Address of the first element, a multiple of the size of an
   * element; `Deno.UnsafePointer.of(array)` for a typed array. May be null if
   * there are no elements.
   * @param shape Lengths of the dimensions; the elements are dense and row-major.
   * @param dtype Type of the elements.
   * @param options `keep`: an object kept alive as long as the tensor.
   * @throws {ArgumentError} if the pointer is null, none, or not aligned.
   * @throws {ShapeError} if a length is not an integer >= 0.
   * @throws {DTypeError} if there is no such dtype.
   * @throws {DisposedError} if the device was disposed.
   *
   * @example
   * ```ts
   * import { Device } from "@atomloss/atomloss";
   *
   * using device = await Device.open("cpu");
   * const array = new Float32Array([1, 2, 3, 4]);
   * const pointer = Deno.UnsafePointer.of(array);
   * using tensor = device.wrap(pointer, [2, 2], "float32", { keep: array });
   * array[3] = 5;
   * console.log(await tensor.toList()); // [ 1, 2, 3, 5 ]
   * ```
   */
  wrap(
    pointer: Deno.PointerValue,
    shape: Shape,
    dtype: DType,
    options: WrapOptions = {},
  ): Tensor {
    return Tensor.wrap(this, pointer, shape, dtype, options);
  }

  /**
   * The `cudaStream_t` on which all work of this device is enqueued, in the
   * order of the calls, for kernels of other libraries to be launched on, or
   * ordered with by events; null on the CPU, where work is done when its call
   * returns. It does not synchronise with CUDA's default stream, and is valid
   * until the device is disposed.
   *
   * @throws {DisposedError} if the device was disposed.
   */
  get stream(): Deno.PointerValue {
    refuseCapture(
      "device.stream",
      "work of other libraries has no place in a step: replay, then launch it",
    );
    return streamOf(friend(this));
  }

  /**
   * Waits until all that was enqueued is done. Does not block the event loop.
   *
   * @throws {CollectiveError} on a GPU, if a collective failed that was enqueued
   * since the last call.
   * @throws {DisposedError} if the device was disposed.
   */
  async synchronize(): Promise<void> {
    refuseCapture("device.synchronize()", "await it behind replay()");
    const native = friend(this);
    const { library, handle } = native;
    const since = this.#origins.takeUntold();
    library.check(
      await native.onThread(() =>
        library.symbols.al_synchronize(handle, since)
      ),
    );
  }

  /**
   * Records a step: the calls of this package that `step` makes on this device,
   * with whatever options, are put on a list instead of being made, and
   * `replay()` of what is returned makes them all in one call of the native
   * library. See {@linkcode CapturedStep}.
   *
   * Shapes and options are those of the recording. What the step reads is what
   * its tensors hold at each replay: write the next batch to them with `copy_`.
   * The learning rate, the number of the step and an average's decay are each
   * optimiser's own at each replay.
   *
   * @param step Makes the calls; not async. The tensors that it makes belong to
   * the recording: each replay writes them anew, and they are disposed with it.
   * @returns The recording, with what `step` returned as its `result`.
   * @throws {CaptureError} if `step` is async, or makes a call that cannot be
   * recorded: one that waits for the device or gives something to the host
   * (`data()`, `item()`, `read()`, `synchronize()`, `barrier()`), one that takes
   * from it (`device.tensor(array)`, `copy_(array)`), or makes what outlives the
   * step (an optimiser, a process group).
   * @throws {DisposedError} if the device was disposed.
   *
   * @example
   * ```ts
   * import { DDPLoss, Device, matmul, SGD } from "@atomloss/atomloss";
   *
   * using device = await Device.open("cpu");
   * using x = device.tensor(new Float32Array([1, 2, 3, 4]), [2, 2]);
   * using y = device.tensor(new Float32Array([5, 11]), [2, 1]);
   * using weight = device.zeros([2, 1]);
   * using sgd = new SGD([weight], { lr: 0.05 });
   * const loss = new DDPLoss("mse");
   *
   * using step = device.capture(() => {
   *   using pred = matmul(x, weight);
   *   const { value, grad: gradOfPred } = loss.valueAndGrad(pred, y);
   *   using grad = matmul(x, gradOfPred, { transposeA: true });
   *   sgd.step([grad]);
   *   return value;
   * });
   * step.replay(5000);
   * console.log(await weight.toList()); // [ 1, 2 ] to 1e-3
   * x.copy_(new Float32Array([1, 0, 0, 1])); // another batch
   * y.copy_(new Float32Array([1, 2]));
   * step.replay();
   * console.log(await step.result.item() < 1e-3); // true
   * ```
   */
  capture<T>(step: () => T): CapturedStep<T> {
    return record(this, step);
  }

  /** What memory this process uses on the device. */
  get memory(): MemoryState {
    const { library, handle } = friend(this);
    const state = new BigInt64Array(4);
    library.check(library.symbols.al_memory_state(handle, state));
    const [tensors, used, cached, free] = [...state].map(Number);
    return { tensors: tensors!, used: used!, cached: cached!, free: free! };
  }

  /**
   * Gives memory that was freed and is kept for reuse back to the system, on a
   * GPU also that of other devices of this process on it: for other processes,
   * or before something that is larger than all before. The device keeps no
   * more than was in use at once. Waits for what was enqueued; does not block
   * the event loop.
   *
   * @throws {DeviceError} if the device fails.
   * @throws {DisposedError} if the device was disposed.
   *
   * @example
   * ```ts
   * import { Device } from "@atomloss/atomloss";
   *
   * using device = await Device.open("cpu");
   * device.zeros([1000, 3]).dispose();
   * await device.releaseMemory();
   * console.log(device.memory.cached); // 0
   * ```
   */
  async releaseMemory(): Promise<void> {
    refuseCapture("device.releaseMemory()", "call it outside");
    const native = friend(this);
    const { library, handle } = native;
    library.check(
      await native.onThread(() => library.symbols.al_release_memory(handle)),
    );
  }

  /**
   * Frees the device and every tensor on it. Safe to call again. Does not
   * throw: of a GPU that has failed it frees what it can, and says so in one
   * line on the standard error.
   */
  [Symbol.dispose](): void {
    registry.unregister(this);
    this.#native.close();
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }

  /** `Device(cpu)`. */
  toString(): string {
    return `Device(${this.name})`;
  }
}

/** The stream of a device that is not released; null if it has none. */
export function streamOf({ library, handle }: NativeHandle): Deno.PointerValue {
  const stream = new BigUint64Array(1);
  library.check(library.symbols.al_device_stream(handle, stream));
  return Deno.UnsafePointer.create(stream[0]!);
}

/** The native side of a device. Throws if it was disposed. */
export function nativeOf(device: Device): NativeHandle {
  return friend(device);
}

/** The account of what the tensors of a device hold. */
export function heldOf(device: Device): HeldMemory {
  return heldBy(device);
}

/** The collectives of a device. */
export function originsOf(device: Device): Origins {
  return originsBy(device);
}
