/**
 * A file of results that grows, and is there when it is whole.
 *
 * @module
 */

import { ResultError } from "./results.ts";

/** Characters that are written at once. */
const PIECE = 1 << 16;

/** A file to write to, under its name only once it is complete. */
export class ResultFile implements Disposable {
  readonly #path: string;
  readonly #temporary: string;
  readonly #file: Deno.FsFile;
  #texts: string[] = [];
  #length = 0;
  #isComplete = false;

  private constructor(path: string, temporary: string, file: Deno.FsFile) {
    this.#path = path;
    this.#temporary = temporary;
    this.#file = file;
  }

  /** @throws {ResultError} where it cannot be written. */
  static async create(path: string): Promise<ResultFile> {
    const temporary = path.replace(/[^/]*$/, (name) => `.${name}.${Deno.pid}`);
    try {
      if ((await Deno.stat(path).catch(() => undefined))?.isDirectory) {
        throw new Error("it is a folder");
      }
      const file = await Deno.create(temporary);
      return new ResultFile(path, temporary, file);
    } catch (error) {
      throw failure(path, error);
    }
  }

  /** @throws {ResultError} where it cannot be written. */
  async write(text: string): Promise<void> {
    this.#texts.push(text);
    this.#length += text.length;
    if (this.#length >= PIECE) await this.#flush();
  }

  /**
   * Gives the file its name.
   *
   * @throws {ResultError} where that cannot be.
   */
  async complete(): Promise<void> {
    await this.#flush();
    try {
      await Deno.rename(this.#temporary, this.#path);
    } catch (error) {
      throw failure(this.#path, error);
    }
    this.#isComplete = true;
  }

  /** Closes the file; without {@linkcode complete} it was none. */
  [Symbol.dispose](): void {
    this.#file.close();
    if (!this.#isComplete) Deno.removeSync(this.#temporary);
  }

  async #flush(): Promise<void> {
    const bytes = new TextEncoder().encode(this.#texts.join(""));
    this.#texts = [];
    this.#length = 0;
    try {
      for (let at = 0; at < bytes.length;) {
        at += await this.#file.write(bytes.subarray(at));
      }
    } catch (error) {
      throw failure(this.#path, error);
    }
  }
}

function failure(path: string, error: unknown): ResultError {
  const reason = error instanceof Error ? error.message : String(error);
  return new ResultError(`${path}: cannot be written: ${reason}`);
}
