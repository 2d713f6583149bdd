/** Which collectives the tensors of a device were computed from. */
import type { NativeHandle } from "../ffi/native_handle.ts";
import { AtomlossError } from "../errors.ts";

/** AL_ORIGIN_GENERATION of kernels/atomloss.h. */
const GENERATION = 2 ** 32;

/** AL_ORIGIN_UNKNOWN of kernels/atomloss.h. */
const UNKNOWN = Infinity;

/**
 * The collectives of a device. One that fails is known to have failed when much
 * has been computed from it already: all of that is lost, and must not be read,
 * and nothing else is. So every tensor has an origin, the number of the latest
 * collective that went into it, by which the native library knows it.
 */
export class Origins {
  /** Of the latest collective; 0 before the first. */
  latest = 0;
  readonly #native: NativeHandle;
  #told = 0;

  /** @param native The device's. */
  constructor(native: NativeHandle) {
    this.#native = native;
  }

  /** Of what others may have written, from whatever was there. */
  get unknown(): number {
    return this.latest < GENERATION ? this.latest : UNKNOWN;
  }

  /**
   * Of what is computed from two: the later one. After a failure that may be good
   * where the other is lost; then it is the lost one.
   */
  join(a: number, b: number): number {
    const [earlier, later] = a < b ? [a, b] : [b, a];
    return later >= GENERATION && this.#isLost(earlier) ? earlier : later;
  }

  #isLost(origin: number): boolean {
    if (origin === 0) return false;
    const { library, handle } = this.#native;
    try {
      library.check(library.symbols.al_origin_check(handle, origin));
      return false;
    } catch (error) {
      if (!(error instanceof AtomlossError)) throw error;
      return true;
    }
  }

  /** The first collective whose failure nobody was told of who waited for all. */
  takeUntold(): number {
    const first = this.#told + 1;
    this.#told = this.latest;
    return first;
  }
}
