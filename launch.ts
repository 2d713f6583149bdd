/**
 * Starts the replicas of a job on this host, with torchrun's option names:
 *
 * `deno run -A launch.ts --nproc-per-node 4 train.ts …`
 *
 * Each replica is told its place by RANK, WORLD_SIZE, LOCAL_RANK,
 * LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and the job's secret by
 * ATOMLOSS_SECRET. Lines that replicas print get their rank in front.
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
  /** Script to run in every replica. */
  script: string;
  /** Its arguments. */
  args?: readonly string[];
}

/** Time that replicas have to end themselves before they are killed, in ms. */
const GRACE = 3_000;

const DEFAULT_PORT = 29500;

const USAGE = `usage: deno run -A launch.ts [options] script.ts [arguments]

  --nproc-per-node N   replicas on this host
  --nnodes M           hosts of the job (default 1)
  --node-rank R        number of this host, from 0 (default 0)
  --master-addr A      address of host 0 (default 127.0.0.1 on one host)
  --master-port P      free port of host 0 (default: any on one host, otherwise ${DEFAULT_PORT})

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

/** Variables that all replicas of this host share. */
function sharedVariables(options: LaunchOptions): Record<string, string> {
  const { nprocPerNode, nnodes = 1 } = options;
  if (nnodes > 1 && options.masterAddr === undefined) {
    throw new LaunchError(
      "--nnodes above 1 needs --master-addr, the address of host 0",
    );
  }
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

/** Sends a signal to a process that may have ended. */
function kill(process: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    process.kill(signal);
  } catch (error) {
    const gone = error instanceof Deno.errors.NotFound ||
      error instanceof TypeError;
    if (!gone) throw error;
  }
}

/**
 * Runs a script in several replicas until all have ended. When one fails, the
 * others are ended too. SIGINT and SIGTERM are passed on to the replicas.
 *
 * @returns 0, or the exit code of the replica that failed first (128 and the
 * number of the signal if one ended it).
 * @throws {LaunchError} if the options contradict each other.
 *
 * @example
 * ```ts ignore
 * import { launch } from "@atomloss/atomloss/launch";
 *
 * Deno.exit(await launch({ nprocPerNode: 4, script: "train.ts" }));
 * ```
 */
export async function launch(options: LaunchOptions): Promise<number> {
  const { nprocPerNode, nodeRank = 0, script, args = [] } = options;
  const shared = sharedVariables(options);
  const replicas = Array.from({ length: nprocPerNode }, (_, localRank) => {
    const rank = nodeRank * nprocPerNode + localRank;
    const process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", script, ...args],
      env: {
        ...shared,
        ...gpuSharing(rank),
        RANK: String(rank),
        LOCAL_RANK: String(localRank),
      },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const output = Promise.all([
      forwardLines(process.stdout, Deno.stdout, rank),
      forwardLines(process.stderr, Deno.stderr, rank),
    ]);
    return { rank, process, output };
  });

  let interrupted: Deno.Signal | undefined;
  let killer: ReturnType<typeof setTimeout> | undefined;
  const end = (signal: Deno.Signal): void => {
    for (const { process } of replicas) kill(process, signal);
    killer ??= setTimeout(() => {
      for (const { process } of replicas) kill(process, "SIGKILL");
    }, GRACE);
  };
  const onSignal = (signal: Deno.Signal) => (): void => {
    interrupted = signal;
    end(signal);
  };
  const handlers = (["SIGINT", "SIGTERM"] as const)
    .map((signal) => [signal, onSignal(signal)] as const);
  for (const [signal, handler] of handlers) {
    Deno.addSignalListener(signal, handler);
  }

  let code = 0;
  await Promise.all(replicas.map(async ({ rank, process, output }) => {
    const status = await process.status;
    if (!status.success && code === 0) {
      code = status.code;
      if (interrupted === undefined) {
        console.error(
          `launch: rank ${rank} ${
            status.signal === null
              ? `ended with code ${status.code}`
              : `was ended by ${status.signal}`
          }; ending the others`,
        );
        end("SIGTERM");
      }
    }
    await output;
  }));
  clearTimeout(killer);
  for (const [signal, handler] of handlers) {
    Deno.removeSignalListener(signal, handler);
  }
  return code;
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

/** Options from the command line. torchrun's spelling with underscores is fine. */
function parseOptions(argv: readonly string[]): LaunchOptions | undefined {
  const names = [
    "nproc-per-node",
    "nnodes",
    "node-rank",
    "master-addr",
    "master-port",
  ];
  const unknown: string[] = [];
  const parsed = parseArgs([...argv], {
    string: names,
    boolean: ["help"],
    alias: Object.fromEntries(
      names.filter((name) => name.includes("-"))
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
  if (nodeRank >= nnodes) {
    throw new LaunchError(
      `--node-rank is ${nodeRank}, expected less than --nnodes, ${nnodes}`,
    );
  }
  const masterAddr = parsed["master-addr"] as string | undefined;
  const masterPort = number("master-port", 1);
  return {
    nprocPerNode,
    nnodes,
    nodeRank,
    script,
    args,
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
