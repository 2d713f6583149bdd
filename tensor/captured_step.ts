/** Recorded steps: what `device.capture` makes. */
import { ArgumentError, CaptureError, DisposedError } from "../errors.ts";
import { NativeHandle } from "../ffi/native_handle.ts";
import { Capture, refuseCapture } from "./capture.ts";
import { type Device, nativeOf, originsOf } from "./device.ts";
import type { Origins } from "./origins.ts";
import { onResult } from "./tensor.ts";

/** Closes recordings that were never disposed. */
const registry = new FinalizationRegistry<NativeHandle>((recording) =>
  recording.close()
);

let create: <T>(
  recording: NativeHandle,
  capture: Capture,
  result: T,
) => CapturedStep<T>;

/**
 * A step whose calls were recorded by `device.capture`, to be made again
 * as often as is wanted, each time in one call of the native library: for small
 * models, where the calls cost more than what they compute.
 *
 * A replay gives what the same calls would, to the bit: of the same losses,
 * collectives and optimisers, with the numbers that tensors hold by then. Each
 * replica records and replays for itself; what must agree, as without recording,
 * are the collectives, in their order. Errors are the same too: a collective that
 * fails throws a {@linkcode CollectiveError} out of `replay` (on a GPU where a
 * result is read), and warnings of numbers that are not finite come when a value is
 * read.
 *
 * The memory that the calls use stays as long as the recording, also of tensors
 * that are disposed meanwhile.
 *
 * @example
 * ```ts
 * import { DDPLoss, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using pred = device.zeros([2]);
 * using target = device.zeros([2]);
 * const loss = new DDPLoss("mae");
 * using step = device.capture(() => loss.forward(pred, target));
 * for (const error of [1, 2]) {
 *   pred.copy_(new Float32Array([error, -error]));
 *   step.replay();
 *   console.log(await step.result.item()); // 1, then 2
 * }
 * ```
 */
export class CapturedStep<T> implements Disposable {
  /** What the recorded function returned. Its tensors are written by each replay. */
  readonly result: T;
  readonly #device: Device;
  readonly #recording: NativeHandle;
  readonly #capture: Capture;
  /** Numbers of one replay. */
  readonly #numbers: Float64Array<ArrayBuffer>;
  /** How many of them were used. */
  readonly #done = new BigInt64Array(1);
  /** Of what a replay reads, and then of what it writes: see origins.ts. */
  readonly #origin = new Float64Array(1);
  #disposed = false;

  static {
    create = (recording, capture, result) =>
      new CapturedStep(recording, capture, result);
  }

  private constructor(recording: NativeHandle, capture: Capture, result: T) {
    this.result = result;
    this.#device = capture.device;
    this.#recording = recording;
    this.#capture = capture;
    const width = capture.varying.reduce((sum, { width }) => sum + width, 0);
    this.#numbers = new Float64Array(width);
    registry.register(this, recording, this);
  }

  /**
   * Makes the recorded calls. Enqueues them on a GPU and does not wait; on a CPU
   * they are done when it returns, and a collective holds the caller.
   *
   * @param times How often, one after the other.
   * @throws {ArgumentError} if times is not an integer above 0, or a learning rate
   * is out of range.
   * @throws {CollectiveError} if a replica died, or did not make a call in time.
   * @throws {CaptureError} in a capture, or while `replayAsync` is under way.
   * @throws {DisposedError} if this, the device or a process group was disposed.
   */
  replay(times = 1): void {
    const native = this.#open(times);
    const numbers = this.#next(times);
    const status = native.library.symbols.al_replay(
      this.#recording.handle,
      times === 1 ? 1n : BigInt(times),
      numbers,
      this.#origin,
      this.#done,
    );
    this.#end(native, status, times);
  }

  /**
   * The same as `replay` on another thread: the event loop goes on while a CPU
   * computes and its collectives wait for other replicas. Until it has ended
   * nothing else can be called on the device.
   *
   * @param times How often, one after the other.
   * @throws What `replay` throws.
   */
  async replayAsync(times = 1): Promise<void> {
    const native = this.#open(times);
    const recording = this.#recording;
    const numbers = this.#next(times);
    let call = (): Promise<number> =>
      native.library.symbols.al_replay_on_thread(
        recording.handle,
        BigInt(times),
        numbers,
        this.#origin,
        this.#done,
      );
    // What it uses is not released while it runs.
    for (const handle of [recording, ...this.#capture.groups.keys()]) {
      const inner = call;
      call = () => handle.onThread(inner);
    }
    this.#end(native, await native.aloneOnThread(call), times);
  }

  /** The native device. Throws if a replay is not possible now. */
  #open(times: number): NativeHandle {
    if (this.#disposed) {
      throw new DisposedError("this CapturedStep was disposed");
    }
    refuseCapture("replay()", "call it outside");
    if (!(Number.isSafeInteger(times) && times > 0)) {
      throw new ArgumentError(`times is ${times}, expected an integer above 0`);
    }
    const native = nativeOf(this.#device);
    const capture = this.#capture;
    if (capture.groups.size > 0) {
      for (const check of capture.groups.values()) check();
    }
    for (const [tensor, listener] of capture.listeners) {
      onResult(tensor, listener);
    }
    const origins = originsOf(this.#device);
    if (this.#isTraced(origins)) {
      this.#origin[0] = capture.originOfReads(origins);
    }
    return native;
  }

  /** Whether a collective may be behind what a replay reads and writes. */
  #isTraced(origins: Origins): boolean {
    return origins.latest > 0 || this.#capture.groups.size > 0;
  }

  /** Notes what a replay has left; throws the error of its status. */
  #end(native: NativeHandle, status: number, times: number): void {
    const origins = originsOf(this.#device);
    if (this.#isTraced(origins)) {
      const origin = this.#origin[0]!;
      if (this.#capture.groups.size > 0 && origin > origins.latest) {
        origins.latest = origin;
      }
      this.#capture.setOrigin(origins, origin, status === 0);
    }
    if (status !== 0) this.#takeBack(times);
    native.library.check(status);
    this.#capture.arrived();
  }

  /** What the replays to come are given; counts them. */
  #next(times: number): Float64Array<ArrayBuffer> {
    const { varying } = this.#capture;
    const numbers = times === 1
      ? this.#numbers
      : new Float64Array(times * this.#numbers.length);
    let begun = 0;
    try {
      for (let at = 0; at < numbers.length; begun++) {
        const call = varying[begun % varying.length]!;
        call.next(numbers, at);
        at += call.width;
      }
    } catch (error) {
      this.#undo(0, begun);
      throw error;
    }
    return numbers;
  }

  /** Takes back what the calls from one on were given. */
  #undo(from: number, begun: number): void {
    const { varying } = this.#capture;
    for (let i = begun - 1; i >= from; i--) varying[i % varying.length]!.undo();
  }

  /** Takes back what calls were given that a failed replay has not made. */
  #takeBack(times: number): void {
    const { varying } = this.#capture;
    let made = 0;
    for (let left = Number(this.#done[0]); left > 0; made++) {
      left -= varying[made % varying.length]!.width;
    }
    this.#undo(made, times * varying.length);
  }

  /**
   * Gives the memory back that it kept, and disposes the tensors that the step
   * made. Safe to call again.
   */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    registry.unregister(this);
    this.#recording.close();
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}

/** Records the calls of a step. See `device.capture`. */
export function record<T>(device: Device, step: () => T): CapturedStep<T> {
  const nativeDevice = nativeOf(device);
  const { library } = nativeDevice;
  const { symbols } = library;
  const capture = new Capture(device);
  let recording: NativeHandle | undefined;
  try {
    const address = new BigUint64Array(1);
    library.check(symbols.al_record_begin(nativeDevice.handle, address));
    recording = new NativeHandle(library, address[0]!, ({ handle }) => {
      library.check(symbols.al_recording_close(handle));
      capture.release();
    });
    const result = step();
    if (result instanceof Promise) {
      result.catch(() => {}); // this error says what it is about
      throw new CaptureError(
        "the function given to device.capture() is async, expected one that makes its calls and returns",
      );
    }
    if (capture.refused !== undefined) throw capture.refused;
    nativeOf(device); // throws if the step has disposed it
    capture.end();
    library.check(symbols.al_record_end(recording.handle));
    return create(recording, capture, result);
  } catch (error) {
    capture.end();
    if (recording === undefined) capture.release();
    // A device that the step has disposed records no more.
    else if (!nativeDevice.released) symbols.al_record_end(recording.handle);
    recording?.close();
    throw capture.refused ?? error;
  }
}
