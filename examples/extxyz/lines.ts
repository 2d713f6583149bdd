/**
 * The lines of a file, one after the other, as bytes: of a file of any size,
 * only a piece is in memory.
 *
 * @module
 */

import type { Readable } from "node:stream";
import { ExtxyzError } from "./error.ts";

const LF = 10;
const CR = 13;
const BYTE_ORDER_MARK = [0xef, 0xbb, 0xbf];
const GZIP = [0x1f, 0x8b];
/** Bytes in memory; more where a line is longer. */
const FIRST_CAPACITY = 1 << 20;
/** Bytes of a compressed file that are read at once. */
const COMPRESSED_PIECE = 1 << 16;

/** Where bytes come from. */
interface Source extends Disposable {
  /** Puts what comes next into some bytes: how many, null at the end. */
  read(into: Uint8Array<ArrayBuffer>): Promise<number | null>;
}

/**
 * Goes from line to line: `take() || await load()` is whether there is one more.
 * Only LF ends a line, with one CR before it or without.
 */
export class Lines implements Disposable {
  /** The file. */
  readonly path: string;
  /** Where the current line is in `bytes`, without its end. */
  start = 0;
  end = 0;
  /** Number of the current line, from 1. */
  number = 0;
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array(FIRST_CAPACITY);

  readonly #source: Source;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  /** Where the next line begins, how far its end was looked for, how much there is. */
  #next = 0;
  #seen = 0;
  #filled = 0;
  #isWhole = false;

  private constructor(path: string, source: Source) {
    this.path = path;
    this.#source = source;
  }

  /**
   * Opens a file, which may be one of gzip's.
   *
   * @throws {ExtxyzError} where it cannot be read.
   */
  static async open(path: string): Promise<Lines> {
    let source: Source | undefined;
    try {
      const file = source = await Deno.open(path);
      // It is read twice, which a pipe cannot be.
      if (!(await file.stat()).isFile) throw new Error("it is no regular file");
      const start = new Uint8Array(3);
      const length = await file.read(start) ?? 0;
      const begins = (...bytes: number[]): boolean =>
        length >= bytes.length && bytes.every((byte, i) => byte === start[i]);
      await file.seek(0, Deno.SeekMode.Start);
      if (begins(...GZIP)) source = await Decompressed.of(file);
      const lines = new Lines(path, source);
      await lines.#fill(BYTE_ORDER_MARK.length);
      const { bytes } = lines;
      if (BYTE_ORDER_MARK.every((byte, i) => byte === bytes[i])) {
        lines.#next = lines.#seen = BYTE_ORDER_MARK.length;
      }
      return lines;
    } catch (error) {
      source?.[Symbol.dispose]();
      throw unreadable(path, error);
    }
  }

  /** Goes to the next line, if the whole of it is in memory. */
  take(): boolean {
    const at = this.bytes.indexOf(LF, this.#seen);
    if (at < 0 || at >= this.#filled) {
      this.#seen = this.#filled;
      return false;
    }
    this.#moveTo(at);
    if (this.end > this.start && this.bytes[this.end - 1] === CR) this.end--;
    return true;
  }

  /** Reads on until there is a next line and goes to it; false after the last. */
  async load(): Promise<boolean> {
    while (!this.#isWhole) {
      await this.#fill(this.#filled - this.#next + 1);
      if (this.take()) return true;
    }
    if (this.#next >= this.#filled) return false;
    this.#moveTo(this.#filled);
    return true;
  }

  /** Whether the line is of spaces and tabs alone. */
  isBlank(): boolean {
    for (let at = this.start; at < this.end; at++) {
      const byte = this.bytes[at];
      if (byte !== 32 && byte !== 9) return false;
    }
    return true;
  }

  /** The line, or a part of it; what is no UTF-8 is replaced. */
  text(start = this.start, end = this.end): string {
    return this.#decoder.decode(this.bytes.subarray(start, end));
  }

  /** An error of a line, the current one unless another is given. */
  error(problem: string, line = this.number): ExtxyzError {
    return new ExtxyzError(`${this.path}:${line}: ${problem}`);
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#source[Symbol.dispose]();
  }

  #moveTo(end: number): void {
    this.start = this.#next;
    this.end = end;
    this.#next = this.#seen = end + 1;
    this.number++;
  }

  /** Reads until there are so many bytes from the next line on, or no more. */
  async #fill(wanted: number): Promise<void> {
    while (this.#filled - this.#next < wanted && !this.#isWhole) {
      this.#makeRoom();
      let length: number | null;
      try {
        length = await this.#source.read(this.bytes.subarray(this.#filled));
      } catch (error) {
        throw unreadable(this.path, error);
      }
      if (length === null) this.#isWhole = true;
      else this.#filled += length;
    }
  }

  /** Drops the lines that were read, and takes more memory where that is not enough. */
  #makeRoom(): void {
    const rest = this.bytes.subarray(this.#next, this.#filled);
    if (2 * rest.length > this.bytes.length) {
      this.bytes = new Uint8Array(2 * this.bytes.length);
    }
    this.bytes.set(rest);
    this.#seen -= this.#next;
    this.#filled = rest.length;
    this.#next = 0;
  }
}

/** What is compressed in a file: in one member of gzip's or, as bgzip writes, in many. */
class Decompressed implements Source {
  readonly #file: Deno.FsFile;
  readonly #stream: Readable;
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array();

  private constructor(file: Deno.FsFile, stream: Readable) {
    this.#file = file;
    this.#stream = stream;
    this.#pieces = stream[Symbol.asyncIterator]();
  }

  static async of(file: Deno.FsFile): Promise<Decompressed> {
    // Loaded here, so that other files do not wait for it. The stream of the web
    // stops at the end of the first member.
    const { createGunzip } = await import("node:zlib");
    const { pipeline, Readable } = await import("node:stream");
    const gunzip = createGunzip();
    // What fails is told to who reads.
    pipeline(Readable.from(piecesOf(file)), gunzip, () => {});
    return new Decompressed(file, gunzip);
  }

  async read(into: Uint8Array<ArrayBuffer>): Promise<number | null> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#pieces.next();
      if (done) return null;
      this.#rest = value;
    }
    const length = Math.min(this.#rest.length, into.length);
    into.set(this.#rest.subarray(0, length));
    this.#rest = this.#rest.subarray(length);
    return length;
  }

  [Symbol.dispose](): void {
    this.#stream.destroy();
    this.#file.close();
  }
}

async function* piecesOf(file: Deno.FsFile): AsyncGenerator<Uint8Array> {
  for (;;) {
    const piece = new Uint8Array(COMPRESSED_PIECE);
    const length = await file.read(piece);
    if (length === null) return;
    yield piece.subarray(0, length);
  }
}

function unreadable(path: string, error: unknown): ExtxyzError {
  const reason = error instanceof Error ? error.message : String(error);
  return new ExtxyzError(`${path}: cannot be read: ${reason}`);
}
