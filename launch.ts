/**
 * Starts the replicas of a job on this host, with torchrun's option names:
 *
 * `deno run -A launch.ts --nproc-per-node 4 train.ts …`
 *
 * Each replica is told its place by RANK, WORLD_SIZE, LOCAL_RANK,
 * LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and the job's secret by
 * ATOMLOSS_SECRET. Lines that replicas print get their rank in front.
 *
 * Each replica leads a session of its own, so that a signal reaches whatever it
 * has started too. Since the terminal then knows the launcher alone, a process
 * that outlives the launcher ends the replicas if that is killed.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { TextLineStream } from "@std/streams/text-line-stream";
import { LaunchError } from "./errors.ts";

/** What {@linkcode launch} starts. */
export interface LaunchOptions {
  /** Replicas on this host. */
  nprocPerNode: number;
  /** Hosts of the job. Default: 1. */
  nnodes?: number;
  /** Number of this host, from 0. Default: 0. */
  nodeRank?: number;
  /** Address of host 0. Default: 127.0.0.1, for a job on one host. */
  masterAddr?: string;
  /** Free port of host 0. Default: any free one for a job on one host, otherwise 29500. */
  masterPort?: number;
  /** Deno's permission flags for the replicas. Default: `--allow-all`. */
  permissions?: readonly string[];
  /** Script to run in every replica. */
  script: string;
  /** Its arguments. */
  args?: readonly string[];
}

/** Time that replicas have to end themselves before they are killed, in ms. */
const GRACE = 3_000;

/**
 * Time that the others have to end by themselves once one has failed, in ms: to
 * say what they were doing, which takes a replica that has lost another up to
 * half of it. Whose failure comes first need not be the cause: survivors can end
 * before the system reports the one that was killed.
 */
const ATTRIBUTION = 1_000;

const DEFAULT_PORT = 29500;

/** What shells report for a program whose reader has gone: 128 and SIGPIPE. */
const BROKEN_PIPE_CODE = 141;

/** Signals that are passed on. */
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Reads which process groups run, a line at each change; at the end of its input it ends them. */
const WATCHDOG = `while read -r line; do groups=$line; done
[ -n "$groups" ] || exit 0
kill -s TERM -- $groups; sleep ${GRACE / 1e3}; kill -s KILL -- $groups`;

const USAGE = `usage: deno run -A launch.ts [options] script.ts [arguments]

  --nproc-per-node N   replicas on this host
  --nnodes M           hosts of the job (default 1)
  --node-rank R        number of this host, from 0 (default 0)
  --master-addr A      address of host 0 (default 127.0.0.1 on one host)
  --master-port P      free port of host 0 (default: any on one host, otherwise ${DEFAULT_PORT})

  --allow-…, --deny-…  permissions of the replicas, as Deno has them
                       (default --allow-all)

For several hosts set ATOMLOSS_SECRET to the same secret on all of them.`;

/**
 * What lets replicas share a GPU, when ATOMLOSS_SHARE_GPU=1 asks for it (tests
 * on machines with fewer GPUs than replicas): NCCL refuses two ranks of one host
 * on one GPU, so each pretends to be a host of its own.
 */
function gpuSharing(rank: number): Record<string, string> {
  if (Deno.env.get("ATOMLOSS_SHARE_GPU") !== "1") return {};
  return { NCCL_HOSTID: `replica-${rank}`, NCCL_SOCKET_IFNAME: "lo" };
}

/** A port that is free now. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Whether options can be right; what they miss can be found out when starting. */
function checkOptions(options: LaunchOptions): void {
  const { nprocPerNode, nnodes = 1, nodeRank = 0, masterPort = 1 } = options;
  const check = (
    name: string,
    value: number,
    min: number,
    max: number,
  ): void => {
    if (Number.isInteger(value) && value >= min && value <= max) return;
    throw new LaunchError(
      `--${name} is ${value}, expected an integer of at least ${min}` +
        (max === Infinity ? "" : ` and at most ${max}`),
    );
  };
  check("nproc-per-node", nprocPerNode, 1, Infinity);
  check("nnodes", nnodes, 1, Infinity);
  check("node-rank", nodeRank, 0, nnodes - 1);
  check("master-port", masterPort, 1, 65535);
  if (nnodes > 1 && options.masterAddr === undefined) {
    throw new LaunchError(
      "--nnodes above 1 needs --master-addr, the address of host 0",
    );
  }
}

/** Whether replicas can be ended, which must not turn out at their end. */
function checkPermission(): void {
  const { state } = Deno.permissions.requestSync({ name: "run" });
  if (state === "granted") return;
  throw new LaunchError(
    "sending signals to replicas requires --allow-run, without names of programs",
  );
}

/** Variables that all replicas of this host share. */
function sharedVariables(options: LaunchOptions): Record<string, string> {
  const { nprocPerNode, nnodes = 1 } = options;
  let secret = Deno.env.get("ATOMLOSS_SECRET");
  if (!secret) {
    if (nnodes > 1) {
      throw new LaunchError(
        "a job on several hosts needs ATOMLOSS_SECRET, the same secret on all of them",
      );
    }
    secret = crypto.getRandomValues(new Uint8Array(32)).toHex();
  }
  const port = options.masterPort ?? (nnodes > 1 ? DEFAULT_PORT : freePort());
  const threads = Math.floor(navigator.hardwareConcurrency / nprocPerNode);
  return {
    WORLD_SIZE: String(nnodes * nprocPerNode),
    LOCAL_WORLD_SIZE: String(nprocPerNode),
    MASTER_ADDR: options.masterAddr ?? "127.0.0.1",
    MASTER_PORT: String(port),
    ATOMLOSS_SECRET: secret,
    // Replicas that each used every core would only get in each other's way.
    OMP_NUM_THREADS: Deno.env.get("OMP_NUM_THREADS") ??
      String(Math.max(1, threads)),
  };
}

/** Copies a replica's lines, each with its rank in front. */
async function forwardLines(
  from: ReadableStream<Uint8Array<ArrayBuffer>>,
  to: { write(bytes: Uint8Array): Promise<number> },
  rank: number,
): Promise<void> {
  const encoder = new TextEncoder();
  const lines = from.pipeThrough(new TextDecoderStream())
    .pipeThrough(new TextLineStream() as TransformStream<string, string>);
  for await (const line of lines) {
    const bytes = encoder.encode(`[rank ${rank}] ${line}\n`);
    for (let at = 0; at < bytes.length;) {
      at += await to.write(bytes.subarray(at));
    }
  }
}

/** Sends a signal to a replica and all that it has started. */
function kill(process: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    Deno.kill(-process.pid, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error; // has ended
  }
}

/** Whether this process was told to ignore SIGHUP, as `nohup` does. */
function ignoresHangup(): boolean {
  try {
    const status = Deno.readTextFileSync("/proc/self/status");
    const mask = /^SigIgn:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0";
    return (BigInt(`0x${mask}`) & 1n) === 1n;
  } catch {
    return false; // not Linux
  }
}

/** Why the job failed. */
interface Failure {
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly reason: string;
}

/** The failure that the others follow from. */
function firstOf(failures: readonly Failure[]): Failure {
  return failures.find(({ signal }) => signal !== null) ?? failures[0]!;
}

/** Ends the replicas that it knows of if this process ends before stop(). */
class Watchdog {
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

/**
 * Runs a script in several replicas until all have ended. When one fails, the
 * others are ended too. SIGINT, SIGTERM and SIGHUP are passed on to the replicas,
 * which have 3 s to end then.
 *
 * @returns 0, or the exit code of the replica that failed first (128 and the
 * number of the signal if one ended it).
 * @throws {LaunchError} if the options contradict each other, or without the
 * permission to run any program.
 *
 * @example
 * ```ts ignore
 * import { launch } from "@atomloss/atomloss/launch";
 *
 * Deno.exit(await launch({ nprocPerNode: 4, script: "train.ts" }));
 * ```
 */
export async function launch(options: LaunchOptions): Promise<number> {
  checkOptions(options);
  checkPermission();
  const {
    nprocPerNode,
    nodeRank = 0,
    permissions = ["--allow-all"],
    script,
    args = [],
  } = options;
  const shared = sharedVariables(options);
  const replicas = new Set<Deno.ChildProcess>(); // those that run

  let ending = false;
  let killer: ReturnType<typeof setTimeout> | undefined;
  const end = (signal: Deno.Signal): void => {
    ending = true;
    for (const process of replicas) kill(process, signal);
    killer ??= setTimeout(() => {
      for (const process of replicas) kill(process, "SIGKILL");
    }, GRACE);
  };
  const watchdog = new Watchdog();
  // Deno's first listener makes it notice SIGHUP too, ignored or not: not to
  // listen would end it.
  const immune = ignoresHangup();
  const handlers = SIGNALS.map((signal) =>
    [signal, (): void => {
      if (signal !== "SIGHUP" || !immune) end(signal);
    }] as const
  );
  for (const [signal, handler] of handlers) {
    Deno.addSignalListener(signal, handler);
  }

  const failures: Failure[] = [];
  let cause: Failure | undefined;
  let attribution: ReturnType<typeof setTimeout> | undefined;
  const conclude = (): void => {
    clearTimeout(attribution);
    if (cause !== undefined || failures.length === 0) return;
    cause = firstOf(failures);
    if (ending) return;
    const others = replicas.size > 0 ? "; ending the others" : "";
    console.error(`launch: ${cause.reason}${others}`);
    end("SIGTERM");
  };
  const fail = (failure: Failure): void => {
    failures.push(failure);
    // Once they are being ended, the first to end is as good as any.
    if (ending) conclude();
    else attribution ??= setTimeout(conclude, ATTRIBUTION);
  };
  const run = async (
    rank: number,
    process: Deno.ChildProcess,
  ): Promise<void> => {
    const output = Promise.all([
      forwardLines(process.stdout, Deno.stdout, rank),
      forwardLines(process.stderr, Deno.stderr, rank),
    ]).catch((error) => {
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
      fail({
        code: BROKEN_PIPE_CODE,
        signal: null,
        reason: "nobody reads the output any more",
      });
    });
    const status = await process.status;
    kill(process, "SIGKILL"); // what it has left behind
    replicas.delete(process);
    watchdog.watch(replicas);
    const { code, signal } = status;
    if (code !== 0) {
      const how = signal === null
        ? `ended with code ${code}`
        : `was ended by ${signal}`;
      fail({ code, signal, reason: `rank ${rank} ${how}` });
    }
    await output;
  };

  const running: Promise<void>[] = [];
  try {
    for (let localRank = 0; localRank < nprocPerNode && !ending; localRank++) {
      const rank = nodeRank * nprocPerNode + localRank;
      const process = new Deno.Command(Deno.execPath(), {
        args: ["run", ...permissions, script, ...args],
        env: {
          ...shared,
          ...gpuSharing(rank),
          RANK: String(rank),
          LOCAL_RANK: String(localRank),
        },
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
        detached: true,
      }).spawn();
      replicas.add(process);
      watchdog.watch(replicas);
      running.push(run(rank, process));
    }
    await Promise.all(running);
    conclude();
  } finally {
    // Nothing is left to end, unless something above failed.
    for (const process of replicas) kill(process, "SIGKILL");
    await Promise.allSettled(running);
    clearTimeout(killer);
    clearTimeout(attribution);
    for (const [signal, handler] of handlers) {
      Deno.removeSignalListener(signal, handler);
    }
    await watchdog.stop();
  }
  return (cause as Failure | undefined)?.code ?? 0;
}

/** An option's value as an integer. */
function integerOption(
  name: string,
  text: string | undefined,
  min: number,
): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d+$/.test(text) || Number(text) < min) {
    throw new LaunchError(
      `--${name} is '${text}', expected an integer of at least ${min}`,
    );
  }
  return Number(text);
}

/** Options of this command that take a value. */
const VALUED = [
  "nproc-per-node",
  "nnodes",
  "node-rank",
  "master-addr",
  "master-port",
];

/**
 * Takes Deno's permission flags out of the options before the script. They have
 * their value behind a "=" or none, which parseArgs cannot be told.
 */
function takePermissions(
  argv: readonly string[],
): { permissions: string[]; others: string[] } {
  const permissions: string[] = [];
  const others: string[] = [];
  let i = 0;
  for (; argv[i]?.startsWith("-"); i++) {
    const option = argv[i]!;
    if (/^--(allow|deny)-/.test(option)) {
      permissions.push(option);
      continue;
    }
    others.push(option);
    const takesNext = VALUED.includes(option.slice(2).replaceAll("_", "-"));
    if (takesNext && i + 1 < argv.length) others.push(argv[++i]!);
  }
  return { permissions, others: [...others, ...argv.slice(i)] };
}

/** Options from the command line. torchrun's spelling with underscores is fine. */
function parseOptions(argv: readonly string[]): LaunchOptions | undefined {
  const { permissions, others } = takePermissions(argv);
  const unknown: string[] = [];
  const parsed = parseArgs(others, {
    string: VALUED,
    boolean: ["help"],
    alias: Object.fromEntries(
      VALUED.filter((name) => name.includes("-"))
        .map((name) => [name, name.replaceAll("-", "_")]),
    ),
    stopEarly: true,
    unknown: (arg: string) => {
      if (arg.startsWith("-")) unknown.push(arg);
    },
  });
  if (parsed.help) return undefined;
  if (unknown.length > 0) {
    throw new LaunchError(`${unknown[0]} is not an option`);
  }
  const [script, ...args] = parsed._.map(String);
  const number = (name: string, min: number): number | undefined =>
    integerOption(name, parsed[name] as string | undefined, min);
  const nprocPerNode = number("nproc-per-node", 1);
  if (nprocPerNode === undefined) {
    throw new LaunchError("--nproc-per-node is missing");
  }
  if (script === undefined) throw new LaunchError("the script is missing");
  const nnodes = number("nnodes", 1) ?? 1;
  const nodeRank = number("node-rank", 0) ?? 0;
  const masterAddr = parsed["master-addr"] as string | undefined;
  const masterPort = number("master-port", 1);
  return {
    nprocPerNode,
    nnodes,
    nodeRank,
    script,
    args,
    ...(permissions.length === 0 ? {} : { permissions }),
    ...(masterAddr === undefined ? {} : { masterAddr }),
    ...(masterPort === undefined ? {} : { masterPort }),
  };
}

if (import.meta.main) {
  try {
    const options = parseOptions(Deno.args);
    if (options === undefined) {
      console.log(USAGE);
      Deno.exit(0);
    }
    Deno.exit(await launch(options));
  } catch (error) {
    if (!(error instanceof LaunchError)) throw error;
    console.error(`launch: ${error.message}\n\n${USAGE}`);
    Deno.exit(2);
  }
}
