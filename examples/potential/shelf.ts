/**
 * Arrays of numbers for later: in memory while there is room, then in a
 * temporary file, which takes no more memory than the system has to spare.
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";

/** The temporary file cannot be made, written or read. */
export class ShelfError extends AtomlossError {}

/** What a shelf takes. */
type Numbers = Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;

/** Takes arrays, and gives them back. */
export class Shelf implements Disposable {
  /** Bytes that memory has left for what is put here. */
  #room: number;
  /** Made when it is needed, and without a name at once: nothing can leave it behind. */
  #file: Deno.FsFile | undefined;
  #size = 0;
  #buffer = new ArrayBuffer(0);

  /** @param room How many bytes may stay in memory. */
  constructor(room: number) {
    this.#room = room;
  }

  /** Takes so many bytes of the room, if it has them. */
  reserve(bytes: number): boolean {
    if (bytes > this.#room) return false;
    this.#room -= bytes;
    return true;
  }

  /**
   * Puts an array into memory if there is room, otherwise into the file.
   *
   * @returns Takes it away again, as {@linkcode write} says; once, after which
   * memory has the room again.
   * @throws {ShelfError} where the file cannot be written.
   */
  put<T extends Numbers>(array: T): () => T {
    if (!this.reserve(array.byteLength)) return this.write(array);
    let kept: T | undefined = array;
    return () => {
      if (kept === undefined) throw new ShelfError("an array was taken twice");
      const taken = kept;
      kept = undefined;
      this.#room += taken.byteLength;
      return taken;
    };
  }

  /**
   * Writes an array to the file.
   *
   * @returns Reads it, into memory that the next array of this shelf is read to.
   * @throws {ShelfError} where it cannot be written, or read.
   */
  write<T extends Numbers>(array: T): () => T {
    const at = this.#append(array);
    const { length, byteLength } = array;
    const Type = array.constructor as new (
      buffer: ArrayBuffer,
      offset: number,
      length: number,
    ) => T;
    return () => new Type(this.#read(at, byteLength), 0, length);
  }

  /** Frees the file. */
  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = undefined;
  }

  /** Writes an array behind the others; apart, so that what reads it does not hold it. */
  #append({ buffer, byteOffset, byteLength }: Numbers): number {
    const at = this.#size;
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    attempt("written", () => {
      this.#file ??= makeFile();
      this.#file.seekSync(at, Deno.SeekMode.Start);
      for (let done = 0; done < byteLength;) {
        done += this.#file.writeSync(bytes.subarray(done));
      }
    });
    this.#size += byteLength;
    return at;
  }

  #read(at: number, byteLength: number): ArrayBuffer {
    if (this.#buffer.byteLength < byteLength) {
      this.#buffer = new ArrayBuffer(byteLength);
    }
    attempt("read", () => {
      if (this.#file === undefined) throw new Error("the shelf was disposed");
      this.#file.seekSync(at, Deno.SeekMode.Start);
      const bytes = new Uint8Array(this.#buffer, 0, byteLength);
      for (let done = 0; done < byteLength;) {
        const count = this.#file.readSync(bytes.subarray(done));
        if (count === null) throw new Error("it is shorter than it was");
        done += count;
      }
    });
    return this.#buffer;
  }
}

function makeFile(): Deno.FsFile {
  const path = Deno.makeTempFileSync({ prefix: "atomloss-" });
  const file = Deno.openSync(path, { read: true, write: true });
  Deno.removeSync(path);
  return file;
}

function attempt(what: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ShelfError(
      `a temporary file cannot be ${what} (TMPDIR says where it is): ${reason}`,
    );
  }
}
