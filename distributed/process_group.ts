/** The replicas of a job and the collectives between them. */
import {
  ArgumentError,
  DeviceError,
  DisposedError,
  DTypeError,
} from "../errors.ts";
import { NativeHandle } from "../ffi/native_handle.ts";
import { capturing, otherCapture, refuseCapture } from "../tensor/capture.ts";
import { type Device, nativeOf, originsOf } from "../tensor/device.ts";
import { type DType, dtypeCode, isFloating } from "../tensor/dtype.ts";
import {
  addressOf,
  checkTensor,
  checkTraced,
  checkWritable,
  noteFlow,
  originOf,
  pointerOf,
  setOrigin,
  Tensor,
} from "../tensor/tensor.ts";
import { findPlace, type Place } from "./environment.ts";
import { Rendezvous } from "./rendezvous.ts";

/** How a collective combines the replicas' values. */
export type ReduceOp = "sum" | "avg" | "max" | "min";

/** al_reduce_op of kernels/atomloss.h. */
const REDUCE_OPS: Record<ReduceOp, number> = { sum: 0, avg: 1, max: 2, min: 3 };

/** What carries the collectives. */
export type GroupBackend = "nccl" | "gloo" | "single";

/** Options of {@linkcode ProcessGroup.init}. */
export interface ProcessGroupOptions {
  /** Where the tensors of the collectives are. */
  device: Device;
  /**
   * Time for the replicas to find each other, and for each collective once this
   * replica is ready for it, in milliseconds. Default: 300 000; more than 24 days
   * count as 24 days.
   */
  timeout?: number;
  /**
   * Whether every collective first compares the replicas' calls, so that
   * replicas that disagree (on operation, sizes, dtype or order) are told so at
   * once instead of waiting for each other; on a GPU by what reads a result, or
   * by the next collective. It costs a second collective each time. Default:
   * whether ATOMLOSS_DEBUG_COLLECTIVES is 1.
   */
  debug?: boolean;
}

const DEFAULT_TIMEOUT = 300_000;

/** More than a timer can wait for. */
const LONGEST_TIMEOUT = 2 ** 31 - 1;

/** Bytes of a blob for each replica of the job: an address, or an id. */
const BLOB_BYTES_PER_RANK = 256;
const BLOB_BYTES = 1024;

/** Runs a call of a group on another thread, whose status it gives. */
function onThread(
  group: NativeHandle,
  device: Device,
  call: () => Promise<number>,
): Promise<number> {
  // The group within its device, so that it is the first to be released.
  return nativeOf(device).onThread(() => group.onThread(call));
}

/**
 * Enqueues a collective and keeps the origin of what it writes: of a collective
 * that fails, that is of something lost.
 *
 * @param reads What it reduces or sends.
 * @param call Is given the origin of that, where the library puts the new one;
 * gives the status.
 * @returns The origin of the result.
 */
function collect(
  { library }: NativeHandle,
  device: Device,
  reads: readonly Tensor[],
  writes: readonly Tensor[],
  call: (origin: Float64Array<ArrayBuffer>) => number,
): number {
  noteFlow({ reads, writes });
  const origin = Float64Array.of(originOf(device, reads));
  const before = origin[0];
  const status = call(origin);
  // The same: it was refused before anything was touched.
  if (origin[0] !== before) {
    originsOf(device).latest = origin[0]!;
    setOrigin(writes, origin[0]!, true);
  }
  library.check(status);
  return origin[0]!;
}

/** Closes groups that were never disposed. */
const registry = new FinalizationRegistry<NativeHandle>((group) =>
  group.close()
);

/** Makes the native group: every replica publishes a blob and reads those of all. */
async function connect(
  place: Place,
  device: Device,
  rendezvous: Rendezvous,
  timeout: number,
  debug: boolean,
): Promise<NativeHandle> {
  const nativeDevice = nativeOf(device);
  const { library } = nativeDevice;
  const { symbols } = library;
  const capacity = BLOB_BYTES + BLOB_BYTES_PER_RANK * place.worldSize;
  const blob = new Uint8Array(capacity);
  const size = new BigInt64Array(1);
  const handle = new BigUint64Array(1);
  library.check(
    symbols.al_group_open(
      nativeDevice.handle,
      place.rank,
      place.worldSize,
      new TextEncoder().encode(`${rendezvous.localAddress}\0`),
      BigInt(timeout),
      blob,
      BigInt(capacity),
      size,
      Number(debug),
      handle,
    ),
  );
  const native = new NativeHandle(
    library,
    handle[0]!,
    (group) => library.check(symbols.al_group_close(group.handle)),
  );
  try {
    const blobs = await rendezvous.allGather(
      "blob",
      blob.slice(0, Number(size[0])),
    );
    const all = new Uint8Array(blobs.reduce((n, b) => n + b.length, 0));
    let at = 0;
    for (const each of blobs) {
      all.set(each, at);
      at += each.length;
    }
    const status = await onThread(
      native,
      device,
      () => symbols.al_group_connect(native.handle, all, BigInt(all.length)),
    );
    all.fill(0); // so that it lives until the other thread has read it
    library.check(status);
    return native;
  } catch (error) {
    native.close();
    throw error;
  }
}

/** Groups that this process has made with others so far. */
let groups = 0;

/** Whether one is being made. */
let isMeeting = false;

let friend: (group: ProcessGroup) => NativeHandle | undefined;

/**
 * The replicas of a data-parallel job: who this one is, and collectives over
 * all of them, by NCCL on GPUs and Gloo on CPUs.
 *
 * Every replica must make the same calls in the same order. When a replica dies
 * or does not make a call in time, the others get a {@linkcode CollectiveError},
 * and the group cannot be used any more.
 *
 * @example
 * ```ts
 * import { Device, ProcessGroup } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using group = await ProcessGroup.init({ device });
 * using ones = device.tensor(new Float32Array([1, 1]));
 * group.allReduce(ones, "sum");
 * console.log(group.rank, await ones.toList()); // 0 [ 1, 1 ] when run alone
 * ```
 */
export class ProcessGroup {
  /** Number of this replica, from 0. */
  readonly rank: number;
  /** Number of this replica among those of its host. */
  readonly localRank: number;
  /** Number of replicas. */
  readonly worldSize: number;
  /** What carries the collectives: "nccl" on GPUs, "gloo" on CPUs, "single" alone. */
  readonly backend: GroupBackend;
  /** Where the tensors of the collectives are. */
  readonly device: Device;
  /** undefined for a replica that is alone. */
  readonly #native: NativeHandle | undefined;
  #disposed = false;
  #inBarrier = false;

  static {
    friend = (group) => group.#open();
  }

  private constructor(
    place: Place,
    device: Device,
    native: NativeHandle | undefined,
  ) {
    this.rank = place.rank;
    this.localRank = place.localRank;
    this.worldSize = place.worldSize;
    this.device = device;
    this.backend = native === undefined
      ? "single"
      : device.type === "cuda"
      ? "nccl"
      : "gloo";
    this.#native = native;
    if (native !== undefined) registry.register(this, native, this);
  }

  /**
   * Finds the other replicas and connects to them. Who this one is says the
   * environment: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT as set
   * by launch.ts and torchrun, or the variables of mpirun and srun; without any
   * it is alone. Where other hosts can reach MASTER_ADDR, ATOMLOSS_SECRET must
   * be the same secret on all replicas.
   *
   * @throws {ArgumentError} if the timeout is not a number of milliseconds, or
   * another group is being made.
   * @throws {LaunchError} if the environment contradicts itself.
   * @throws {RendezvousError} if the replicas do not find each other in time;
   * says which are missing.
   * @throws {CollectiveError} if they cannot be connected.
   */
  static async init(
    {
      device,
      timeout = DEFAULT_TIMEOUT,
      debug = Deno.env.get("ATOMLOSS_DEBUG_COLLECTIVES") === "1",
    }: ProcessGroupOptions,
  ): Promise<ProcessGroup> {
    refuseCapture("ProcessGroup.init()", "make the group before");
    if (!(Number.isInteger(timeout) && timeout > 0)) {
      throw new ArgumentError(
        `timeout is ${timeout}, expected an integer number of milliseconds above 0`,
      );
    }
    const place = findPlace((name) => Deno.env.get(name));
    if (place.worldSize === 1) {
      return new ProcessGroup(place, device, undefined);
    }
    if (isMeeting) {
      throw new ArgumentError(
        "ProcessGroup.init() is under way: await it before the next",
      );
    }
    isMeeting = true;
    try {
      const time = Math.min(timeout, LONGEST_TIMEOUT);
      return await ProcessGroup.#meet(place, device, time, debug);
    } finally {
      isMeeting = false;
    }
  }

  static async #meet(
    place: Place,
    device: Device,
    timeout: number,
    debug: boolean,
  ): Promise<ProcessGroup> {
    const secret = Deno.env.get("ATOMLOSS_SECRET");
    // A replica that is ahead must not find the store of the group before.
    const job = `${place.job} ${groups}`;
    const rendezvous = await Rendezvous.join(
      { ...place, job },
      secret,
      timeout,
    );
    let native: NativeHandle;
    try {
      native = await connect(place, device, rendezvous, timeout, debug);
    } catch (error) {
      await rendezvous.close(error);
      throw error;
    }
    try {
      await rendezvous.leave();
    } catch (error) {
      native.close();
      throw error;
    }
    groups++;
    return new ProcessGroup(place, device, native);
  }

  /** The native group, if there is one. Throws if this group was disposed. */
  #open(): NativeHandle | undefined {
    if (this.#disposed || this.#native?.closed) {
      throw new DisposedError("this ProcessGroup was disposed");
    }
    nativeOf(this.device); // throws if the device was disposed
    // It waits on a thread of its own: another collective could overtake it, on
    // one replica and not on the next.
    if (this.#inBarrier) {
      throw new ArgumentError(
        "barrier() is under way: await it before the next collective",
      );
    }
    if (this.#native !== undefined) {
      capturing?.useGroup(this.#native, this.device, () => this.#open());
    }
    return this.#native;
  }

  #checkTensor(tensor: Tensor, what: string): void {
    checkTensor(tensor, what);
    if (tensor.device !== this.device) {
      throw new DeviceError(
        `${what} is on ${tensor.device.name}, expected the device of the process group, ${this.device.name}`,
      );
    }
    addressOf(tensor); // throws if it was disposed
  }

  /** One collective per dtype for any number of tensors. */
  #allReduce(tensors: readonly Tensor[], op: ReduceOp): void {
    const native = this.#open();
    if (!Object.hasOwn(REDUCE_OPS, op)) {
      throw new ArgumentError(
        `reduce operation '${op}' is unknown: expected one of ${
          Object.keys(REDUCE_OPS).join(", ")
        }`,
      );
    }
    const byDType = new Map<DType, Tensor[]>();
    tensors.forEach((tensor, i) => {
      const what = tensors.length === 1 ? "tensor" : `tensor ${i}`;
      this.#checkTensor(tensor, what);
      checkWritable(tensor, what);
      if (
        tensor.dtype === "bool" || (op === "avg" && !isFloating(tensor.dtype))
      ) {
        throw new DTypeError(
          `all-reduce "${op}" does not take dtype ${tensor.dtype}`,
        );
      }
      const same = byDType.get(tensor.dtype);
      if (same === undefined) byDType.set(tensor.dtype, [tensor]);
      else same.push(tensor);
    });
    if (native === undefined) return;
    for (const [dtype, same] of byDType) {
      collect(
        native,
        this.device,
        same,
        same,
        (origin) =>
          native.library.symbols.al_all_reduce(
            native.handle,
            dtypeCode(dtype),
            REDUCE_OPS[op],
            same.length,
            BigUint64Array.from(same, addressOf),
            BigInt64Array.from(same, (t) => BigInt(t.size)),
            origin,
          ),
      );
    }
  }

  /**
   * Replaces a tensor, on every replica, by the element-wise combination of all
   * replicas' tensors: the same bits everywhere. Enqueued on a GPU; on a CPU it
   * holds the caller.
   *
   * "max" and "min" of a NaN and a number are NaN. "avg" has a result wherever the
   * mean is a number of the dtype, also where the sum is not: on GPUs to the
   * rounding of NCCL, which divides by the number of replicas before it adds (so
   * that a mean within a rounding of the largest number may be infinite).
   *
   * @param tensor Same shape and dtype on every replica; any dtype but bool,
   * floating for "avg".
   * @param op "sum", "avg", "max" or "min".
   * @throws {DTypeError | DeviceError | DisposedError | ArgumentError} if an argument does not fit.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  allReduce(tensor: Tensor, op: ReduceOp = "sum"): void {
    this.#allReduce([tensor], op);
  }

  /**
   * Replaces gradients by their means over the replicas, in one collective per
   * dtype: what data-parallel training does between backward and the step.
   *
   * @param gradients Same shapes, dtypes and order on every replica.
   * @throws What {@linkcode ProcessGroup.allReduce} throws.
   */
  averageGradients(gradients: readonly Tensor[]): void {
    this.#allReduce(gradients, "avg");
  }

  /**
   * Replaces a tensor, on every replica, by that of one replica.
   *
   * @param tensor Same shape and dtype on every replica.
   * @param root Rank whose tensor it is. Default: 0.
   * @throws {ArgumentError} if there is no such rank, or the tensor is read-only.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   */
  broadcast(tensor: Tensor, root = 0): void {
    const native = this.#open();
    this.#checkTensor(tensor, "tensor");
    if (!(Number.isInteger(root) && root >= 0 && root < this.worldSize)) {
      throw new ArgumentError(
        `root is ${root}, expected a rank from 0 to ${this.worldSize - 1}`,
      );
    }
    // The root writes nothing; but it must not wait for others who fail here.
    checkWritable(tensor, "tensor");
    if (native === undefined) return;
    collect(
      native,
      this.device,
      root === this.rank ? [tensor] : [],
      [tensor],
      (origin) =>
        native.library.symbols.al_broadcast(
          native.handle,
          pointerOf(tensor),
          BigInt(tensor.byteLength),
          root,
          origin,
        ),
    );
  }

  /**
   * Waits until every replica has come here and this device is idle. To be
   * awaited before the next collective.
   *
   * @throws {ArgumentError} if a barrier is under way already, as every other
   * collective does then.
   * @throws {CollectiveError} if a replica died, or did not come in time.
   */
  async barrier(): Promise<void> {
    refuseCapture("barrier()", "await it between replays");
    const native = this.#open();
    if (native === undefined) return await this.device.synchronize();
    this.#inBarrier = true;
    try {
      native.library.check(
        await onThread(
          native,
          this.device,
          () => native.library.symbols.al_barrier(native.handle),
        ),
      );
    } finally {
      this.#inBarrier = false;
    }
  }

  /**
   * Ends the connections to the other replicas; what they have yet to receive of
   * this one's collectives still arrives. Safe to call again.
   */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#native === undefined) return;
    registry.unregister(this);
    this.#native.close();
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}

/** Counts that are being added up over the replicas. */
export interface PendingCounts {
  /**
   * Writes the sums, and behind them as many factors that are made of them, into
   * a float64 tensor; see al_count_totals of kernels/atomloss.h. What reads it on
   * the device comes behind the collective. To be called once.
   */
  take(
    minimum: number,
    divisors: Uint8Array<ArrayBuffer> | null,
    totals: Tensor,
  ): void;
  /** Gives the sums up, unless they were taken. */
  drop(): void;
}

/**
 * Starts to add up counts over the replicas, in one collective beside the
 * device's own work: numbers of the host at once, those of a tensor (float64)
 * behind what computes them. For the losses of this package.
 */
export function countAllReduce(
  group: ProcessGroup | undefined,
  counts: readonly number[] | Tensor,
): PendingCounts {
  const native = group === undefined ? undefined : friend(group);
  const onDevice = counts instanceof Tensor ? counts : undefined;
  const ticket = new BigInt64Array(1);
  let origin = 0;
  const capture = capturing;
  if (native !== undefined) {
    const { library, handle } = native;
    origin = collect(
      native,
      group!.device,
      onDevice ? [onDevice] : [],
      [],
      (origin) =>
        library.symbols.al_count_all_reduce(
          handle,
          onDevice ? onDevice.size : (counts as readonly number[]).length,
          onDevice ? null : Float64Array.from(counts as number[]),
          onDevice ? pointerOf(onDevice) : null,
          origin,
          ticket,
        ),
    );
  }
  let isPending = true;
  return {
    take(minimum, divisors, totals): void {
      if (capture !== capturing) throw otherCapture("these counts");
      if (native?.closed) {
        throw new DisposedError(
          "the ProcessGroup of these counts was disposed",
        );
      }
      const { device } = totals;
      const { library, handle } = nativeOf(device);
      const sums = pointerOf(totals);
      checkTraced(
        device,
        library.symbols.al_count_totals(
          handle,
          native?.handle ?? null,
          ticket[0]!,
          totals.size / 2,
          native === undefined ? pointerOf(onDevice!) : null,
          minimum,
          divisors,
          sums,
          Deno.UnsafePointer.offset(sums, totals.byteLength / 2),
        ),
        () => ({ reads: [native ? null : onDevice], writes: [totals] }),
      );
      if (native !== undefined && capture === undefined) {
        setOrigin([totals], origin, true);
      }
      isPending = false;
    },
    drop(): void {
      // With the group all that it has is gone.
      if (!isPending || native === undefined || native.closed) return;
      if (capture !== undefined) return; // a replay drops what it does not use
      isPending = false;
      const { library, handle } = native;
      library.check(library.symbols.al_count_drop(handle, ticket[0]!));
    },
  };
}
