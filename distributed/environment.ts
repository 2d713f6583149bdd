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

/** Variables of one launcher. Of several that mean the same the first that is set counts. */
interface Launcher {
  readonly name: string;
  readonly rank: string;
  /** None: it tells no replica how many there are, and the user has to. */
  readonly worldSize?: string;
  readonly localRank: readonly string[];
  /** Replicas on this host. */
  readonly localSize: readonly string[];
  /** Hosts of the job. */
  readonly hosts?: string;
  /** Variables that tell this job from another on the same host. */
  readonly job: readonly string[];
  /** Where these are all set, it was srun that set this launcher's too. */
  readonly unless?: readonly string[];
  /** They are in replicas alone: a rank without a size is a mistake. */
  readonly strict?: true;
}

/**
 * In the order in which they are looked for: first who sets what others set too.
 * Launchers start their helpers by Slurm's srun, whose variables the replicas
 * inherit.
 */
const LAUNCHERS: readonly Launcher[] = [
  {
    name: "launch.ts or torchrun",
    rank: "RANK",
    worldSize: "WORLD_SIZE",
    localRank: ["LOCAL_RANK"],
    localSize: ["LOCAL_WORLD_SIZE"],
    job: [],
    strict: true,
  },
  {
    name: "mpirun (Open MPI)",
    rank: "OMPI_COMM_WORLD_RANK",
    worldSize: "OMPI_COMM_WORLD_SIZE",
    localRank: ["OMPI_COMM_WORLD_LOCAL_RANK"],
    localSize: ["OMPI_COMM_WORLD_LOCAL_SIZE"],
    job: ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"],
  },
  {
    name: "jsrun (LSF)",
    rank: "JSM_NAMESPACE_RANK",
    worldSize: "JSM_NAMESPACE_SIZE",
    localRank: ["JSM_NAMESPACE_LOCAL_RANK"],
    localSize: ["JSM_NAMESPACE_LOCAL_SIZE"],
    job: ["LSB_JOBID", "PMIX_NAMESPACE"],
  },
  {
    name: "mpirun_rsh (MVAPICH2)",
    rank: "MV2_COMM_WORLD_RANK",
    worldSize: "MV2_COMM_WORLD_SIZE",
    localRank: ["MV2_COMM_WORLD_LOCAL_RANK"],
    localSize: ["MV2_COMM_WORLD_LOCAL_SIZE"],
    job: ["MPIRUN_ID"],
  },
  {
    name: "flux run",
    rank: "FLUX_TASK_RANK",
    worldSize: "FLUX_JOB_SIZE",
    localRank: ["FLUX_TASK_LOCAL_ID"],
    localSize: [],
    hosts: "FLUX_JOB_NNODES",
    job: ["FLUX_JOB_ID"],
  },
  {
    name: "mpiexec (PALS)",
    rank: "PALS_RANKID",
    // Not PALS_NRANKS: that is an option of mpiexec.
    worldSize: "PMI_SIZE",
    localRank: ["PALS_LOCAL_RANKID"],
    localSize: ["PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE"],
    job: ["PALS_APID"],
    unless: ["SLURM_STEP_NUM_TASKS"],
    strict: true,
  },
  {
    name: "mpirun (MPICH, Intel MPI)",
    rank: "PMI_RANK",
    worldSize: "PMI_SIZE",
    localRank: ["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
    localSize: ["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"],
    // Hydra gives its jobs no id: two on one host need a MASTER_PORT each.
    job: [],
    unless: ["SLURM_STEP_NUM_TASKS", "PMI_JOBID"],
  },
  {
    name: "srun (Slurm)",
    rank: "SLURM_PROCID",
    // Not SLURM_NTASKS: that is also set in a shell that salloc opens.
    worldSize: "SLURM_STEP_NUM_TASKS",
    localRank: ["SLURM_LOCALID"],
    localSize: [],
    hosts: "SLURM_STEP_NUM_NODES",
    job: ["SLURM_JOB_ID", "SLURM_STEP_ID"],
  },
  {
    name: "a launcher with PMIx",
    rank: "PMIX_RANK",
    localRank: [],
    localSize: [],
    job: ["PMIX_NAMESPACE"],
    strict: true,
  },
];

/** Every variable that this module reads. */
export const LAUNCHER_VARIABLES: readonly string[] = [
  ...new Set([
    ...LAUNCHERS.flatMap((launcher) =>
      [
        launcher.rank,
        launcher.worldSize ?? [],
        launcher.localRank,
        launcher.localSize,
        launcher.hosts ?? [],
        launcher.job,
      ].flat()
    ),
    "PMI_JOBID",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
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

/** The first of the variables that is set, and its value. */
function firstSet(
  get: GetEnv,
  names: readonly string[],
): [name: string, value: string] | undefined {
  const name = names.find((name) => get(name) !== undefined);
  return name === undefined ? undefined : [name, get(name)!];
}

/** A launcher whose variables are there, and its rank and world size. */
interface Found {
  readonly launcher: Launcher;
  readonly rank: number;
  readonly worldSize: number;
}

/** The launcher that has started this replica, if any has. */
function findLauncher(get: GetEnv): Found | undefined {
  for (const launcher of LAUNCHERS) {
    if (launcher.unless?.every((name) => get(name) !== undefined)) continue;
    const rank = get(launcher.rank);
    // What the launcher does not tell, its user may.
    const sizes = [launcher.worldSize ?? [], "WORLD_SIZE"].flat();
    const size = firstSet(get, launcher.strict ? sizes : sizes.slice(0, 1));
    if (rank !== undefined && size !== undefined) {
      const worldSize = integer(...size, 1, 1_000_000);
      const byHand = get("WORLD_SIZE") ?? size[1];
      if (byHand !== size[1]) {
        throw new LaunchError(
          `WORLD_SIZE is set to '${byHand}', but ${launcher.name} has started ${worldSize} replicas`,
        );
      }
      return {
        launcher,
        rank: integer(launcher.rank, rank, 0, worldSize - 1),
        worldSize,
      };
    }
    // Slurm and MPI leave some of theirs in shells that run no step.
    if (launcher.strict && rank !== undefined) {
      throw new LaunchError(
        launcher === LAUNCHERS[0]
          ? `RANK is set to '${rank}' but WORLD_SIZE is not set: set both, or neither to run alone`
          : `${launcher.rank} is set to '${rank}', but ${launcher.name} does not tell the number of replicas: ` +
            "set WORLD_SIZE to it",
      );
    }
  }
  const size = get("WORLD_SIZE");
  if (size === undefined) return undefined;
  throw new LaunchError(
    `WORLD_SIZE is set to '${size}' but RANK is not set: set both, or neither to run alone`,
  );
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
function onSeveralHosts(get: GetEnv, { launcher, worldSize }: Found): boolean {
  const localSize = firstSet(get, launcher.localSize);
  if (localSize !== undefined && localSize[1] !== "") {
    return integer(...localSize, 1, worldSize) < worldSize;
  }
  return launcher.hosts !== undefined && (get(launcher.hosts) ?? "1") !== "1";
}

/**
 * This replica's place in its job: from RANK, WORLD_SIZE, LOCAL_RANK,
 * MASTER_ADDR and MASTER_PORT (launch.ts, torchrun), or from the variables of
 * another launcher; alone if there are none.
 *
 * Without MASTER_ADDR all replicas must be on this host. Under torchrun, whose
 * agent listens on MASTER_PORT itself, the store takes the first free one of
 * the 16 ports behind it. Under other launchers without MASTER_PORT the port
 * follows from the job's id; MPICH has none, and uses 29500.
 *
 * @throws {LaunchError} if a variable is missing or makes no sense.
 */
export function findPlace(get: GetEnv): Place {
  const found = findLauncher(get);
  if (found === undefined) return ALONE;
  const { launcher, rank, worldSize } = found;
  const [name, value] = firstSet(get, launcher.localRank) ??
    [launcher.rank, String(rank)];
  const localRank = integer(name, value, 0, worldSize - 1);
  const severalHosts = onSeveralHosts(get, found);
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
    // Those of an attempt before may still be there.
    job: [
      get("MASTER_PORT") ?? "",
      get("TORCHELASTIC_RUN_ID") ?? "",
      get("TORCHELASTIC_RESTART_COUNT") ?? "",
      job,
    ].join(" "),
  };
}
