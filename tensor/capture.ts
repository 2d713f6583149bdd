/** The recording of calls that is under way, and what it needs of whatever the calls use. */
import { CaptureError } from "../errors.ts";
import type { NativeHandle } from "../ffi/native_handle.ts";
import type { Device } from "./device.ts";
import type { Origins } from "./origins.ts";
import type { ResultListener, Tensor } from "./tensor.ts";

/** A recorded call's numbers that each replay is given anew. */
export interface Varying {
  /** How many they are. */
  readonly width: number;
  /** Writes those of the next replay, and counts it. */
  next(numbers: Float64Array, at: number): void;
  /** Takes the last `next` back: the call was not made. */
  undo(): void;
}

/** Memory as its tensors share it: see tensor.ts. */
interface Shared {
  recordings: number;
  origin: number;
  readonly shared: boolean;
  readonly capture: Capture | undefined;
}

/** The capture under way. */
export let capturing: Capture | undefined;

/**
 * Captures that have not been replayed yet: only while there are any is the use
 * of a tensor looked at.
 */
export let watched = 0;

/** What one capture has come across. */
export class Capture {
  readonly device: Device;
  /** In the order of the calls. */
  readonly varying: Varying[] = [];
  /** Whom each replay has told: others may write to a value between two. */
  readonly listeners: (readonly [Tensor, ResultListener])[] = [];
  /** Tensors that were made by it. */
  readonly made: Tensor[] = [];
  /** Groups whose collectives it has, each with what throws if it cannot be used. */
  readonly groups = new Map<NativeHandle, () => void>();
  /** The first call that could not be recorded. */
  refused: CaptureError | undefined;
  /** Memory that its calls use, each with what frees it if nobody else does. */
  readonly #memory = new Map<Shared, (memory: Shared) => void>();
  /** What its calls read that they have not written before. */
  readonly #reads = new Set<Shared>();
  /** What they write, and whether all of it. */
  readonly #writes = new Map<Shared, boolean>();
  #isWaiting = true;

  /** Begins it. Throws inside of another. */
  constructor(device: Device) {
    refuseCapture("capture()", "record one step after the other");
    this.device = device;
    capturing = this;
    watched++;
  }

  /** Ends it: calls are made again. */
  end(): void {
    capturing = undefined;
  }

  /** Whether nothing has written yet to what it made. */
  get isWaiting(): boolean {
    return this.#isWaiting;
  }

  /** What it made has been written. */
  arrived(): void {
    if (!this.#isWaiting) return;
    this.#isWaiting = false;
    watched--;
  }

  /** Keeps memory that a call uses, until it is released. */
  retain<T extends Shared>(memory: T, free: (memory: T) => void): void {
    if (this.#memory.has(memory)) return;
    memory.recordings++;
    this.#memory.set(memory, free as (memory: Shared) => void);
  }

  /** Notes that a call reads memory. */
  reads(memory: Shared): void {
    if (this.#writes.get(memory) !== true) this.#reads.add(memory);
  }

  /** Notes that a call writes to memory, to all of it or to a part. */
  writes(memory: Shared, isAll: boolean): void {
    this.#writes.set(memory, isAll || this.#writes.get(memory) === true);
  }

  /** The origin of all that a replay reads. */
  originOfReads(origins: Origins): number {
    let origin = 0;
    for (const memory of this.#reads) {
      const { unknown } = origins;
      origin = origins.join(origin, memory.shared ? unknown : memory.origin);
    }
    return origin;
  }

  /** Says what a replay has written; `isDone`: all of it. */
  setOrigin(origins: Origins, origin: number, isDone: boolean): void {
    for (const [memory, isAll] of this.#writes) {
      memory.origin = isAll && isDone
        ? origin
        : origins.join(memory.origin, origin);
    }
  }

  /** Notes that a call is of a group; `check` throws if that cannot be used. */
  useGroup(group: NativeHandle, device: Device, check: () => void): void {
    checkDevice(this, device);
    this.groups.set(group, check);
  }

  /** Gives all up that it has. */
  release(): void {
    for (const tensor of this.made) tensor.dispose();
    for (const [memory, free] of this.#memory) {
      memory.recordings--;
      free(memory);
    }
    this.#memory.clear();
    this.arrived();
  }
}

function checkDevice(capture: Capture, device: Device): void {
  if (device === capture.device) return;
  const other = device.name === capture.device.name
    ? `another Device object of ${device.name}`
    : device.name;
  capture.refused ??= new CaptureError(
    `a step captured on ${capture.device.name} cannot make a call on ${other}`,
  );
  throw capture.refused;
}

/**
 * Notes that a tensor is used: a capture under way then keeps its memory.
 * Throws if a capture made it that was never replayed.
 */
export function noteUse<T extends Shared>(
  tensor: Tensor,
  memory: T,
  free: (memory: T) => void,
): void {
  if (memory.capture !== capturing && memory.capture?.isWaiting) {
    throw new CaptureError(
      `${tensor} was made by a captured step that has not been replayed: nothing is written to it before replay()`,
    );
  }
  if (capturing === undefined) return;
  checkDevice(capturing, tensor.device);
  capturing.retain(memory, free);
}

/** Throws in a capture, which then fails: such a call cannot be recorded. */
export function refuseCapture(call: string, advice: string): void {
  if (capturing === undefined) return;
  capturing.refused ??= new CaptureError(
    `${call} cannot be recorded by device.capture(): ${advice}`,
  );
  throw capturing.refused;
}

/** What is thrown where something of one capture is used in another, or in none. */
export function otherCapture(what: string): Error {
  const error = new CaptureError(
    capturing === undefined
      ? `${what} was made by a captured step: it is written by its replays alone`
      : `${what} was made outside of this captured step: make it in there, so that each replay does`,
  );
  if (capturing !== undefined) capturing.refused ??= error;
  return error;
}

/** Makes something that a capture under way does not own. */
export function outsideCapture<T>(make: () => T): T {
  const before = capturing;
  capturing = undefined;
  try {
    return make();
  } finally {
    capturing = before;
  }
}
