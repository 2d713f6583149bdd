/** Where the lines that replicas print go: to the terminal, to a file a replica and attempt, or both. */
import { TextLineStream } from "@std/streams/text-line-stream";

/** A terminal, or who reads in its place. */
type Terminal = { write(bytes: Uint8Array): Promise<number> };

const encoder = new TextEncoder();

/** The lines of one replica. */
export class Output implements Disposable {
  readonly #rank: number;
  readonly #file: Deno.FsFile | undefined;
  readonly #toTerminal: boolean;
  /** The file that they go to, if they do. */
  readonly path: string | undefined;

  /**
   * @param folder The folder for the files of an attempt; it is made.
   * @param tee Whether they go to the terminal as well.
   */
  constructor(rank: number, folder: string | undefined, tee: boolean) {
    this.#rank = rank;
    this.#toTerminal = folder === undefined || tee;
    if (folder === undefined) return;
    Deno.mkdirSync(folder, { recursive: true });
    this.path = `${folder}/rank_${rank}.log`;
    this.#file = Deno.createSync(this.path);
  }

  /** Copies lines as they come; on the terminal each with the rank in front. */
  async forward(
    from: ReadableStream<Uint8Array<ArrayBuffer>>,
    terminal: Terminal,
  ): Promise<void> {
    const lines = from.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream() as TransformStream<string, string>);
    for await (const line of lines) {
      this.#write(`${line}\n`);
      if (!this.#toTerminal) continue;
      const bytes = encoder.encode(`[rank ${this.#rank}] ${line}\n`);
      for (let at = 0; at < bytes.length;) {
        at += await terminal.write(bytes.subarray(at));
      }
    }
  }

  /** To the file, if there is one: at once, so that lines stay whole. */
  #write(text: string): void {
    const bytes = encoder.encode(text);
    for (let at = 0; this.#file && at < bytes.length;) {
      at += this.#file.writeSync(bytes.subarray(at));
    }
  }

  [Symbol.dispose](): void {
    this.#file?.close();
  }
}
