/** Where this process stands in its job, from the variables that launchers set. */
import { LaunchError } from "../errors.ts";

/** A replica's place in its job. */
export interface Place {
  /** Number of this replica, from 0. */
  readonly rank: number;
  /** Number of replicas. */
  readonly worldSize: number;
  /** Number of this replica among those of its host. */
  readonly localRank: number;
  /** Where rank 0 serves the rendezvous store. */
  readonly masterAddr: string;
  /** Ports to look for the store on: rank 0 takes the first that is free. */
  readonly storePorts: readonly number[];
  /** What tells this job from another that uses the same host and ports. */
  readonly job: string;
}

/** Reads an environment variable. */
export type GetEnv = (name: string) => string | undefined;

/** Variables of one launcher. */
interface Launcher {
  readonly name: string;
  readonly rank: string;
  readonly worldSize: string;
  readonly localRank: string;
  readonly localSize?: string;
  /** Variables that tell this job from another on the same host. */
  readonly job: readonly string[];
}

/** In the order in which they are looked for. */
const LAUNCHERS: readonly Launcher[] = [
  {
    name: "launch.ts or torchrun",
    rank: "RANK",
    worldSize: "WORLD_SIZE",
    localRank: "LOCAL_RANK",
    localSize: "LOCAL_WORLD_SIZE",
    job: [],
  },
  {
    name: "mpirun (Open MPI)",
    rank: "OMPI_COMM_WORLD_RANK",
    worldSize: "OMPI_COMM_WORLD_SIZE",
    localRank: "OMPI_COMM_WORLD_LOCAL_RANK",
    localSize: "OMPI_COMM_WORLD_LOCAL_SIZE",
    job: ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"],
  },
  {
    name: "mpirun (MPICH, Intel MPI)",
    rank: "PMI_RANK",
    worldSize: "PMI_SIZE",
    localRank: "MPI_LOCALRANKID",
    localSize: "MPI_LOCALNRANKS",
    // Hydra gives its jobs no id: two on one host need a MASTER_PORT each.
    job: [],
  },
  {
    name: "srun (Slurm)",
    rank: "SLURM_PROCID",
    // Not SLURM_NTASKS: that is also set in a shell that salloc opens.
    worldSize: "SLURM_STEP_NUM_TASKS",
    localRank: "SLURM_LOCALID",
    job: ["SLURM_JOB_ID", "SLURM_STEP_ID"],
  },
];

/** Every variable that this module reads. */
export const LAUNCHER_VARIABLES: readonly string[] = [
  ...new Set([
    ...LAUNCHERS.flatMap(({ rank, worldSize, localRank, localSize, job }) => [
      rank,
      worldSize,
      localRank,
      ...(localSize === undefined ? [] : [localSize]),
      ...job,
    ]),
    "SLURM_STEP_NUM_NODES",
    "PMI_JOBID",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
  ]),
];

/** torch's default port. */
const DEFAULT_PORT = 29500;

/** Ports that a job's id is mapped to: below those that systems hand out. */
const JOB_PORTS = { first: 20000, count: 8000 };

/** Ports that are tried behind torchrun's, whose agent keeps MASTER_PORT. */
const PORTS_BEHIND_AGENT = 16;

const ALONE: Place = {
  rank: 0,
  worldSize: 1,
  localRank: 0,
  masterAddr: "127.0.0.1",
  storePorts: [],
  job: "",
};

function integer(name: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new LaunchError(
      `${name} is '${text}', expected an integer from ${min} to ${max}`,
    );
  }
  return value;
}

/** A number that all replicas of a job derive alike: FNV-1a. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (const char of text) h = Math.imul(h ^ char.codePointAt(0)!, 0x01000193);
  return h >>> 0;
}

/** The launcher whose variables are there, if any. */
function findLauncher(get: GetEnv): Launcher | undefined {
  for (const launcher of LAUNCHERS) {
    const rank = get(launcher.rank);
    const worldSize = get(launcher.worldSize);
    // `srun --mpi=pmi2` sets PMI_RANK too, but MPICH's local rank is missing.
    const startedBySrun = launcher.rank === "PMI_RANK" &&
      get("PMI_JOBID") !== undefined &&
      get("SLURM_STEP_NUM_TASKS") !== undefined;
    if (startedBySrun) continue;
    if (rank !== undefined && worldSize !== undefined) return launcher;
    // Only the variables that a user sets by hand can be set by halves:
    // Slurm and MPI leave some of theirs in shells that run no step.
    if (launcher === LAUNCHERS[0] && rank !== worldSize) {
      const [there, missing] = rank === undefined
        ? [launcher.worldSize, launcher.rank]
        : [launcher.rank, launcher.worldSize];
      throw new LaunchError(
        `${there} is set to '${
          get(there)
        }' but ${missing} is not set: set both, or neither to run alone`,
      );
    }
  }
  return undefined;
}

/** Ports of the store, by a rule that every replica applies alike. */
function storePorts(get: GetEnv, job: string): number[] {
  const text = get("MASTER_PORT");
  if (text !== undefined) {
    const behindAgent = get("TORCHELASTIC_RUN_ID") !== undefined;
    const last = behindAgent ? 65534 : 65535;
    const port = integer("MASTER_PORT", text, 1, last);
    if (!behindAgent) return [port];
    const span = Math.min(PORTS_BEHIND_AGENT, 65535 - port);
    return Array.from({ length: span }, (_, i) => port + 1 + i);
  }
  if (job.replaceAll("/", "") === "") return [DEFAULT_PORT];
  return [JOB_PORTS.first + hash(job) % JOB_PORTS.count];
}

/** Whether replicas are on other hosts too, as far as the variables tell. */
function onSeveralHosts(
  get: GetEnv,
  launcher: Launcher,
  worldSize: number,
): boolean {
  const localSize = launcher.localSize && get(launcher.localSize);
  if (launcher.localSize && localSize) {
    return integer(launcher.localSize, localSize, 1, worldSize) < worldSize;
  }
  return launcher.rank === "SLURM_PROCID" &&
    (get("SLURM_STEP_NUM_NODES") ?? "1") !== "1";
}

/**
 * This replica's place in its job: from RANK, WORLD_SIZE, LOCAL_RANK,
 * MASTER_ADDR and MASTER_PORT (launch.ts, torchrun), or from the variables of
 * mpirun or srun; alone if there are none.
 *
 * Without MASTER_ADDR all replicas must be on this host. Under torchrun, whose
 * agent listens on MASTER_PORT itself, the store takes the first free one of
 * the 16 ports behind it. Under mpirun and srun without MASTER_PORT the port
 * follows from the job's id; MPICH has none, and uses 29500.
 *
 * @throws {LaunchError} if a variable is missing or makes no sense.
 */
export function findPlace(get: GetEnv): Place {
  const launcher = findLauncher(get);
  if (launcher === undefined) return ALONE;
  const worldSize = integer(
    launcher.worldSize,
    get(launcher.worldSize)!,
    1,
    1_000_000,
  );
  const rank = integer(launcher.rank, get(launcher.rank)!, 0, worldSize - 1);
  const localRank = integer(
    launcher.localRank,
    get(launcher.localRank) ?? String(rank),
    0,
    worldSize - 1,
  );
  const severalHosts = onSeveralHosts(get, launcher, worldSize);
  const masterAddr = get("MASTER_ADDR") || undefined;
  if (masterAddr === undefined && severalHosts) {
    throw new LaunchError(
      `${launcher.name} started replicas on several hosts, but MASTER_ADDR is not set: set it to the address ` +
        "of the host of rank 0, MASTER_PORT to a free port there, and ATOMLOSS_SECRET to a secret of the job",
    );
  }
  const job = launcher.job.map((name) => get(name) ?? "").join("/");
  return {
    rank,
    worldSize,
    localRank,
    masterAddr: masterAddr ?? ALONE.masterAddr,
    storePorts: storePorts(get, job),
    job: [get("MASTER_PORT") ?? "", get("TORCHELASTIC_RUN_ID") ?? "", job]
      .join(" "),
  };
}
