/** Objects of the native library that calls on other threads may be using. */
import type { Library } from "./library.ts";

/** A native object that is released once, and not while another thread uses it. */
export class NativeHandle {
  readonly library: Library;
  /** Its address, for the C ABI. */
  readonly handle: NonNullable<Deno.PointerValue>;
  readonly #release: () => void;
  #running = 0;
  #usable = true;
  #closed = false;
  #released = false;

  /**
   * @param library The library whose object it is.
   * @param address Its address.
   * @param release Gives it back to the library.
   */
  constructor(
    library: Library,
    address: bigint,
    release: (self: NativeHandle) => void,
  ) {
    this.library = library;
    this.handle = Deno.UnsafePointer.create(address)!;
    this.#release = (): void => release(this);
  }

  /** Whether it must not be used any more. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Whether calls may use it: not when it is closed, nor while one has it alone. */
  get usable(): boolean {
    return this.#usable;
  }

  /** Whether the library has it back. */
  get released(): boolean {
    return this.#released;
  }

  /** Releases it, once no other thread uses it. Safe to call again. */
  close(): void {
    this.#closed = true;
    this.#usable = false;
    if (this.#running > 0 || this.#released) return;
    this.#released = true;
    this.#release();
  }

  /** The same as `onThread` for a call that no other may use it beside. */
  async aloneOnThread(call: () => Promise<number>): Promise<number> {
    this.#usable = false;
    try {
      return await this.onThread(call);
    } finally {
      this.#usable = !this.#closed;
    }
  }

  /** Waits for a nonblocking call that uses it; gives the call's status. */
  async onThread(call: () => Promise<number>): Promise<number> {
    this.#running++;
    try {
      return await call();
    } finally {
      this.#running--;
      if (this.#closed) this.close();
    }
  }
}
