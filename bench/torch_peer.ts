/** PyTorch in a process of its own, asked for one timing at a time. */
import { TextLineStream } from "@std/streams/text-line-stream";

/** One timing, as bench/peer_torch.py takes it. */
export type TorchRequest =
  & {
    readonly seconds: number;
    readonly device: string;
    /** As it is, by torch.compile, or captured in a CUDA graph. */
    readonly mode: "eager" | "compile" | "graph";
  }
  & (
    /** One loss of forces. */
    | { readonly loss: string; readonly atoms: number }
    /** Energies, forces and stresses of a batch, so many sets of them. */
    | {
      readonly structures: number;
      readonly atoms: number;
      readonly sets: number;
    }
    /** A clipped step of Adam over so many parameters of a size. */
    | { readonly parameters: number; readonly size: number }
  );

/** A running bench/peer_torch.py. */
export class TorchPeer {
  /** Version of PyTorch. */
  readonly version: string;
  readonly #process: Deno.ChildProcess;
  readonly #requests: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #answers: ReadableStreamDefaultReader<string>;

  private constructor(version: string, process: Deno.ChildProcess) {
    this.version = version;
    this.#process = process;
    this.#requests = process.stdin.getWriter();
    this.#answers = process.stdout.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream() as TransformStream<string, string>)
      .getReader();
  }

  /** Starts PyTorch, or gives undefined where python3 has none. */
  static async start(): Promise<TorchPeer | undefined> {
    const probe = await new Deno.Command("python3", {
      args: ["-c", "import torch; print(torch.__version__)"],
      stderr: "null",
    }).output();
    if (!probe.success) return undefined;
    const process = new Deno.Command("python3", {
      args: [new URL("./peer_torch.py", import.meta.url).pathname],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    return new TorchPeer(
      new TextDecoder().decode(probe.stdout).trim(),
      process,
    );
  }

  /** Microseconds of one step of the reference. */
  async time(request: TorchRequest): Promise<number> {
    await this.#requests.write(
      new TextEncoder().encode(`${JSON.stringify(request)}\n`),
    );
    const { value, done } = await this.#answers.read();
    if (done) throw new Error("bench/peer_torch.py ended");
    return JSON.parse(value).microseconds;
  }

  /** Ends the process. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#requests.close();
    await this.#answers.cancel();
    await this.#process.status;
  }
}
