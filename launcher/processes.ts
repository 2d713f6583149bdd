/**
 * Ending processes with all that they have started. Each replica leads a session
 * of its own, so that a signal reaches whatever it has started too. Since the
 * terminal then knows the launcher alone, a process that outlives the launcher
 * ends the replicas if that is killed.
 */

/** Time that replicas have to end themselves before they are killed, in ms. */
export const GRACE = 3_000;

/** Reads which process groups run, a line at each change; at the end of its input it ends them. */
const WATCHDOG = `while read -r line; do groups=$line; done
[ -n "$groups" ] || exit 0
kill -s TERM -- $groups; sleep ${GRACE / 1e3}; kill -s KILL -- $groups`;

/** Sends a signal to a process and all that it has started. */
export function kill(process: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    Deno.kill(-process.pid, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error; // has ended
  }
}

/** Ends the replicas that it knows of if this process ends before stop(). */
export class Watchdog {
  readonly #process = new Deno.Command("sh", {
    args: ["-c", WATCHDOG],
    stdin: "piped",
    stdout: "null",
    stderr: "null",
    detached: true,
  }).spawn();
  readonly #writer = this.#process.stdin.getWriter();

  /** Tells it which replicas run. */
  watch(replicas: Iterable<Deno.ChildProcess>): void {
    const groups = Array.from(replicas, ({ pid }) => -pid).join(" ");
    this.#writer.write(new TextEncoder().encode(`${groups}\n`))
      .catch(() => {}); // somebody has ended it: the job goes on without
  }

  async stop(): Promise<void> {
    kill(this.#process, "SIGKILL");
    await this.#process.status;
    await this.#writer.abort();
  }
}

/** Whether this process was told to ignore SIGHUP, as `nohup` does. */
export function ignoresHangup(): boolean {
  try {
    const status = Deno.readTextFileSync("/proc/self/status");
    const mask = /^SigIgn:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0";
    return (BigInt(`0x${mask}`) & 1n) === 1n;
  } catch {
    return false; // not Linux
  }
}
