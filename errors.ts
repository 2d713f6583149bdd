/**
 * Every error this package throws, each a class of its own, so that a caller
 * can tell them apart with `instanceof`.
 *
 * @module
 */

/** The parent of all errors of this package. */
export class AtomlossError extends Error {
  /** Name of the error's class. */
  override get name(): string {
    return this.constructor.name;
  }
}

/** Shapes do not fit: unequal, of the wrong rank, or not matching the data. */
export class ShapeError extends AtomlossError {}

/** A dtype is unknown, mixed with another, or not allowed here. */
export class DTypeError extends AtomlossError {}

/** A device does not exist, cannot be opened, failed, or is not this tensor's. */
export class DeviceError extends AtomlossError {}

/** The device has too little free memory for a request. */
export class OutOfMemoryError extends DeviceError {}

/** Something disposed was used again. */
export class DisposedError extends AtomlossError {}

/** An argument has a value that is not allowed: its name and the allowed ones are in the message. */
export class ArgumentError extends AtomlossError {}

/** A loss of this name is not registered. */
export class UnknownLossError extends ArgumentError {}

/** The text of a loss does not compile: the compiler's message is in that of the error. */
export class LossDefinitionError extends ArgumentError {}

/** The gradient of a loss is not the derivative of its value. */
export class GradientError extends AtomlossError {}

/** A call cannot be recorded, or what was recorded cannot be used now: the message says what to do instead. */
export class CaptureError extends AtomlossError {}

/** The norm of gradients that were to be clipped is NaN or infinite. */
export class NonFiniteGradientError extends AtomlossError {}

/** A reduction of this name does not exist. */
export class UnknownReductionError extends ArgumentError {}

/** The native library cannot be built, found or loaded. */
export class BuildError extends AtomlossError {}

/** The environment names this replica's place in the job incompletely or contradictorily. */
export class LaunchError extends AtomlossError {}

/** The replicas did not find each other: port taken, wrong secret, or some never came. */
export class RendezvousError extends AtomlossError {}

/** A collective failed or timed out, because a replica died, hung or disagreed. */
export class CollectiveError extends AtomlossError {}

/** The native library broke one of its own promises: a bug of this package. */
export class InternalError extends AtomlossError {}

/** A file that is not safetensors, not whole, or of a dtype that is not known here. */
export class SafetensorsError extends AtomlossError {}
