/** Starts a script on several replicas by launch.ts. */
import { TextLineStream } from "@std/streams/text-line-stream";

/** What a job left. */
export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The package's folder. */
export const ROOT = new URL("../", import.meta.url).pathname;

/** A job that is under way. */
export class LaunchedJob {
  readonly #process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #stderr: Promise<string>;
  #stdout = "";

  constructor(process: Deno.ChildProcess) {
    this.#process = process;
    this.#lines = process.stdout.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream() as TransformStream<string, string>)
      .getReader();
    this.#stderr = new Response(process.stderr).text();
  }

  /** The next line on standard output; undefined at its end. */
  async nextLine(): Promise<string | undefined> {
    const { value, done } = await this.#lines.read();
    if (done) return undefined;
    this.#stdout += `${value}\n`;
    return value;
  }

  /** Sends a signal to the launcher. */
  kill(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  /** Waits for the end. */
  async finished(): Promise<Finished> {
    while (await this.nextLine() !== undefined);
    const { code } = await this.#process.status;
    return { code, stdout: this.#stdout, stderr: await this.#stderr };
  }
}

/** Starts `launch.ts --nproc-per-node n script args` in the package's folder. */
export function startReplicas(
  n: number,
  script: string,
  args: readonly string[] = [],
): LaunchedJob {
  return startProgram(Deno.execPath(), [
    "run",
    "-A",
    "launch.ts",
    "--nproc-per-node",
    String(n),
    script,
    ...args,
  ], { ATOMLOSS_SHARE_GPU: "1" });
}

/** Starts any program, in the package's folder unless another is given. */
export function startProgram(
  program: string,
  args: readonly string[],
  env: Record<string, string> = {},
  cwd = ROOT,
): LaunchedJob {
  const command = new Deno.Command(program, {
    args: [...args],
    cwd,
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
  return new LaunchedJob(command.spawn());
}

/** Runs a script on n replicas to its end. */
export function launchReplicas(
  n: number,
  script: string,
  args: readonly string[] = [],
): Promise<Finished> {
  return startReplicas(n, script, args).finished();
}
