/**
 * Starts the replicas of a job on this host, with torchrun's option names:
 *
 * `deno run -A launch.ts --nproc-per-node 4 train.ts …`
 *
 * Each replica is told its place by RANK, WORLD_SIZE, LOCAL_RANK,
 * LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, the job's secret by
 * ATOMLOSS_SECRET, and by TORCHELASTIC_RESTART_COUNT and
 * TORCHELASTIC_MAX_RESTARTS how often the job was started again and may be.
 * Lines that replicas print get their rank in front.
 *
 * @module
 */
import { AtomlossError, DeviceError, LaunchError } from "./errors.ts";
import { nvidiaDriver } from "./ffi/nvidia_driver.ts";
import { Attempt, type Failure, type Plan } from "./launcher/attempt.ts";
import { Hosts } from "./launcher/hosts.ts";
import {
  checkOptions,
  DEFAULT_PORT,
  type LaunchOptions,
  parseOptions,
  USAGE,
} from "./launcher/options.ts";
import { ignoresHangup, Watchdog } from "./launcher/processes.ts";

export type { LaunchOptions };

/** Signals that are passed on, with their numbers. */
const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

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

/** Whether replicas can be ended, which must not turn out at their end. */
function checkPermission(): void {
  const { state } = Deno.permissions.requestSync({ name: "run" });
  if (state === "granted") return;
  throw new LaunchError(
    "sending signals to replicas requires --allow-run, without names of programs",
  );
}

/** How many replicas this host gets. */
async function countReplicas(
  count: LaunchOptions["nprocPerNode"],
): Promise<number> {
  if (typeof count === "number") return count;
  if (count !== "cpu") {
    try {
      return (await nvidiaDriver()).gpus.length;
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      if (count === "gpu") {
        throw new LaunchError(`--nproc-per-node is gpu, but ${error.message}`);
      }
    }
  }
  return navigator.hardwareConcurrency;
}

/** The job's secret. */
function findSecret(nnodes: number): string {
  const secret = Deno.env.get("ATOMLOSS_SECRET");
  if (secret) return secret;
  if (nnodes > 1) {
    throw new LaunchError(
      "a job on several hosts needs ATOMLOSS_SECRET, the same secret on all of them",
    );
  }
  return crypto.getRandomValues(new Uint8Array(32)).toHex();
}

/**
 * Runs a script in several replicas until all have ended. When one fails, the
 * others are ended too, on all hosts if the job may be started again; what is
 * started then finds its own checkpoint. SIGINT, SIGTERM and SIGHUP are passed
 * on to the replicas, which have 3 s to end then.
 *
 * @returns 0, or the exit code of the replica that failed first (128 and the
 * number of the signal if one ended it).
 * @throws {LaunchError} if the options contradict each other, or without the
 * permission to run any program.
 * @throws {RendezvousError} if the job may be started again, and the launchers
 * of its hosts do not find each other.
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
  const { nnodes = 1, nodeRank = 0, maxRestarts = 0 } = options;
  const count = await countReplicas(options.nprocPerNode);
  const secret = findSecret(nnodes);

  let attempt: Attempt | undefined;
  let hosts: Hosts | undefined;
  let stopped: keyof typeof SIGNALS | undefined;
  // Deno's first listener makes it notice SIGHUP too, ignored or not: not to
  // listen would end it.
  const immune = ignoresHangup();
  const stop = (signal: keyof typeof SIGNALS): void => {
    if (signal === "SIGHUP" && immune) return;
    stopped = signal;
    if (attempt !== undefined) attempt.end(signal);
    else hosts?.close();
  };
  const handlers = (Object.keys(SIGNALS) as (keyof typeof SIGNALS)[])
    .map((signal) => [signal, (): void => stop(signal)] as const);
  for (const [signal, handler] of handlers) {
    Deno.addSignalListener(signal, handler);
  }
  const watchdog = new Watchdog();
  try {
    if (maxRestarts > 0 && nnodes > 1) {
      hosts = await Hosts.meet({
        nodeRank,
        nnodes,
        masterAddr: options.masterAddr!,
        masterPort: options.masterPort ?? DEFAULT_PORT,
        secret,
        agreed: { nnodes, count, maxRestarts },
      });
    }
    for (let n = 0;; n++) {
      await hosts?.begin(n);
      if (stopped !== undefined) throw new LaunchError(stopped);
      attempt = new Attempt(planOf(options, count, secret, n), watchdog);
      const failure = await runOn(hosts, attempt, n, () => stopped);
      attempt = undefined;
      const isLast = failure === undefined || failure.isFinal ||
        n === maxRestarts;
      if (isLast) {
        await hosts?.leave();
        return failure?.code ?? 0;
      }
      console.error(
        `launch: starting again: restart ${n + 1} of ${maxRestarts}`,
      );
    }
  } catch (error) {
    // Between two attempts, or while it waited for other hosts.
    if (stopped === undefined) throw error;
    return 128 + SIGNALS[stopped];
  } finally {
    for (const [signal, handler] of handlers) {
      Deno.removeSignalListener(signal, handler);
    }
    await hosts?.close();
    await watchdog.stop();
  }
}

/** Runs an attempt here and, if there are others, until they have ended theirs. */
async function runOn(
  hosts: Hosts | undefined,
  attempt: Attempt,
  number: number,
  stopped: () => string | undefined,
): Promise<Failure | undefined> {
  let elsewhere: Failure | undefined;
  hosts?.failed(number).then((failure) => {
    elsewhere = failure;
    attempt.end("SIGTERM");
  });
  let failure = await attempt.run();
  // A replica that ends well on a signal ends the job all the same.
  const signal = stopped();
  if (signal !== undefined && (failure !== undefined || hosts !== undefined)) {
    const code = failure?.code ?? 0;
    failure = { code, reason: `${signal} ended it`, isFinal: true };
  }
  if (hosts === undefined) return failure;
  if (elsewhere === undefined) {
    return await hosts.conclude(number, failure, () => elsewhere);
  }
  console.error(`launch: ${elsewhere.reason}, on another host`);
  return elsewhere;
}

/** What an attempt starts. */
function planOf(
  options: LaunchOptions,
  count: number,
  secret: string,
  attempt: number,
): Plan {
  const { nnodes = 1, nodeRank = 0, maxRestarts = 0, args = [] } = options;
  const { permissions = ["--allow-all"], logDir, tee = false } = options;
  const port = options.masterPort ?? (nnodes > 1 ? DEFAULT_PORT : freePort());
  const threads = Math.floor(navigator.hardwareConcurrency / count);
  const shared = {
    WORLD_SIZE: String(nnodes * count),
    LOCAL_WORLD_SIZE: String(count),
    MASTER_ADDR: options.masterAddr ?? "127.0.0.1",
    MASTER_PORT: String(port),
    ATOMLOSS_SECRET: secret,
    TORCHELASTIC_RESTART_COUNT: String(attempt),
    TORCHELASTIC_MAX_RESTARTS: String(maxRestarts),
    // As under torchrun: the launchers keep MASTER_PORT for themselves.
    ...(maxRestarts > 0 && nnodes > 1 ? { TORCHELASTIC_RUN_ID: "launch" } : {}),
    // Replicas that each used every core would only get in each other's way.
    OMP_NUM_THREADS: Deno.env.get("OMP_NUM_THREADS") ??
      String(Math.max(1, threads)),
  };
  return {
    firstRank: nodeRank * count,
    count,
    args: ["run", ...permissions, options.script, ...args],
    env: (rank, localRank) => ({
      ...shared,
      ...gpuSharing(rank),
      RANK: String(rank),
      LOCAL_RANK: String(localRank),
    }),
    logs: logDir === undefined ? undefined : `${logDir}/attempt_${attempt}`,
    tee,
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
    if (!(error instanceof AtomlossError)) throw error;
    const isUsage = error instanceof LaunchError;
    console.error(`launch: ${error.message}${isUsage ? `\n\n${USAGE}` : ""}`);
    Deno.exit(isUsage ? 2 : 1);
  }
}
