/** One start of a host's replicas, until all of them have ended. */
import { Output } from "./output.ts";
import { GRACE, kill, type Watchdog } from "./processes.ts";

/** What is started. */
export interface Plan {
  /** Number of the first replica of this host. */
  readonly firstRank: number;
  readonly count: number;
  /** What Deno is told: `run`, permissions, script, its arguments. */
  readonly args: readonly string[];
  /** Variables of a replica. */
  env(rank: number, localRank: number): Record<string, string>;
  /** Folder for the replicas' lines; default: the terminal. */
  readonly logs: string | undefined;
  /** Whether they go to the terminal as well. */
  readonly tee: boolean;
}

/** Why an attempt failed. */
export interface Failure {
  readonly code: number;
  readonly reason: string;
  readonly signal?: Deno.Signal | null;
  /** Whether it is no use to start again: somebody wants the job to end. */
  readonly isFinal?: boolean;
}

/**
 * Time that the others have to end by themselves once one has failed, in ms: to
 * say what they were doing, which takes a replica that has lost another up to
 * half of it. Whose failure comes first need not be the cause: survivors can end
 * before the system reports the one that was killed.
 */
const ATTRIBUTION = 1_000;

/** What shells report for a program whose reader has gone: 128 and SIGPIPE. */
const BROKEN_PIPE_CODE = 141;

/** The failure that the others follow from. */
function firstOf(failures: readonly Failure[]): Failure {
  return failures.find(({ signal }) => signal) ?? failures[0]!;
}

/** The replicas of this host. When one fails, the others are ended too. */
export class Attempt {
  readonly #plan: Plan;
  readonly #watchdog: Watchdog;
  readonly #replicas = new Set<Deno.ChildProcess>(); // those that run
  readonly #failures: Failure[] = [];
  #cause: Failure | undefined;
  #isEnding = false;
  #killer: ReturnType<typeof setTimeout> | undefined;
  #attribution: ReturnType<typeof setTimeout> | undefined;

  constructor(plan: Plan, watchdog: Watchdog) {
    this.#plan = plan;
    this.#watchdog = watchdog;
  }

  /** Starts them, and waits for their end; gives why they failed if they did. */
  async run(): Promise<Failure | undefined> {
    const { count, firstRank } = this.#plan;
    const running: Promise<void>[] = [];
    try {
      for (let i = 0; i < count && !this.#isEnding; i++) {
        running.push(this.#runOne(firstRank + i, i));
      }
      await Promise.all(running);
      this.#conclude();
    } finally {
      // Nothing is left to end, unless something above failed.
      for (const process of this.#replicas) kill(process, "SIGKILL");
      await Promise.allSettled(running);
      clearTimeout(this.#killer);
      clearTimeout(this.#attribution);
    }
    return this.#cause;
  }

  /** Passes a signal on; who has not ended soon is killed. */
  end(signal: Deno.Signal): void {
    this.#isEnding = true;
    for (const process of this.#replicas) kill(process, signal);
    this.#killer ??= setTimeout(() => {
      for (const process of this.#replicas) kill(process, "SIGKILL");
    }, GRACE);
  }

  async #runOne(rank: number, localRank: number): Promise<void> {
    const { args, env, logs, tee } = this.#plan;
    using output = new Output(rank, logs, tee);
    const process = new Deno.Command(Deno.execPath(), {
      args: [...args],
      env: env(rank, localRank),
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      detached: true,
    }).spawn();
    this.#replicas.add(process);
    this.#watchdog.watch(this.#replicas);
    const copied = Promise.all([
      output.forward(process.stdout, Deno.stdout),
      output.forward(process.stderr, Deno.stderr),
    ]).catch((error) => {
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
      this.#fail({
        code: BROKEN_PIPE_CODE,
        reason: "nobody reads the output any more",
        isFinal: true,
      });
    });
    const { code, signal } = await process.status;
    kill(process, "SIGKILL"); // what it has left behind
    this.#replicas.delete(process);
    this.#watchdog.watch(this.#replicas);
    if (code !== 0) {
      const how = signal === null
        ? `ended with code ${code}`
        : `was ended by ${signal}`;
      const where = output.path && !tee ? ` (its output: ${output.path})` : "";
      this.#fail({ code, signal, reason: `rank ${rank} ${how}${where}` });
    }
    await copied;
  }

  #fail(failure: Failure): void {
    this.#failures.push(failure);
    // Once they are being ended, the first to end is as good as any.
    if (this.#isEnding) this.#conclude();
    else {
      this.#attribution ??= setTimeout(() => this.#conclude(), ATTRIBUTION);
    }
  }

  #conclude(): void {
    clearTimeout(this.#attribution);
    if (this.#cause !== undefined || this.#failures.length === 0) return;
    this.#cause = firstOf(this.#failures);
    if (this.#isEnding) return;
    const others = this.#replicas.size > 0 ? "; ending the others" : "";
    console.error(`launch: ${this.#cause.reason}${others}`);
    this.end("SIGTERM");
  }
}
