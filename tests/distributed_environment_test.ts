import {
  assert,
  assertEquals,
  assertNotEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { findPlace } from "../distributed/environment.ts";
import { LOCAL_RANKS } from "../tensor/device.ts";
import { LaunchError } from "../mod.ts";

const place = (env: Record<string, string>): ReturnType<typeof findPlace> =>
  findPlace((name) => env[name]);

const torchrun = {
  RANK: "3",
  WORLD_SIZE: "4",
  LOCAL_RANK: "1",
  LOCAL_WORLD_SIZE: "2",
  MASTER_ADDR: "10.0.0.1",
  MASTER_PORT: "29501",
};

Deno.test("findPlace() is alone without variables", () => {
  assertEquals(place({}).worldSize, 1);
  assertEquals(place({ MASTER_PORT: "29500" }).worldSize, 1);
  // A shell that salloc opened runs no step.
  assertEquals(place({ SLURM_NTASKS: "4", SLURM_PROCID: "0" }).worldSize, 1);
});

Deno.test("findPlace() reads the variables of launch.ts and torchrun", () => {
  assertEquals(place(torchrun), {
    rank: 3,
    worldSize: 4,
    localRank: 1,
    masterAddr: "10.0.0.1",
    storePorts: [29501],
    job: "29501   ",
  });
});

Deno.test("findPlace() leaves MASTER_PORT to torchrun's agent", () => {
  const { storePorts } = place({ ...torchrun, TORCHELASTIC_RUN_ID: "none" });
  assertEquals(storePorts.length, 16);
  assertEquals(storePorts[0], 29502);
  const last = place({
    ...torchrun,
    TORCHELASTIC_RUN_ID: "none",
    MASTER_PORT: "65530",
  });
  assertEquals(last.storePorts, [65531, 65532, 65533, 65534, 65535]);
});

Deno.test("findPlace() reads the variables of mpirun, with a port of the job's own", () => {
  const mpi = (job: string, rank = "1"): ReturnType<typeof findPlace> =>
    place({
      OMPI_COMM_WORLD_RANK: rank,
      OMPI_COMM_WORLD_SIZE: "2",
      OMPI_COMM_WORLD_LOCAL_RANK: rank,
      OMPI_COMM_WORLD_LOCAL_SIZE: "2",
      PMIX_NAMESPACE: job,
    });
  assertEquals([mpi("a").rank, mpi("a").worldSize, mpi("a").localRank], [
    1,
    2,
    1,
  ]);
  assertEquals(mpi("a").masterAddr, "127.0.0.1");
  assertEquals(mpi("a").storePorts, mpi("a", "0").storePorts);
  assertEquals(mpi("a").storePorts[0] === mpi("b").storePorts[0], false);
  assertEquals(mpi("a").job === mpi("b").job, false);
});

Deno.test("findPlace() gives all ranks of MPICH's mpirun the same port", () => {
  const hydra = (rank: string): ReturnType<typeof findPlace> =>
    place({
      PMI_RANK: rank,
      PMI_SIZE: "3",
      PMI_FD: rank === "0" ? "6" : "8",
      PMI_ID: rank,
      MPI_LOCALRANKID: rank,
      MPI_LOCALNRANKS: "3",
    });
  const [zero, one] = [hydra("0"), hydra("1")];
  assertEquals([one.rank, one.worldSize, one.localRank], [1, 3, 1]);
  assertEquals([zero.storePorts, zero.job], [one.storePorts, one.job]);
});

Deno.test("findPlace() prefers Slurm's variables to PMI_RANK under srun --mpi=pmi2", () => {
  const step = place({
    PMI_RANK: "3",
    PMI_SIZE: "4",
    PMI_JOBID: "7.0",
    SLURM_PROCID: "3",
    SLURM_STEP_NUM_TASKS: "4",
    SLURM_LOCALID: "1",
    SLURM_STEP_NUM_NODES: "2",
    SLURM_JOB_ID: "7",
    SLURM_STEP_ID: "0",
    MASTER_ADDR: "node1",
  });
  assertEquals([step.rank, step.worldSize, step.localRank], [3, 4, 1]);
});

/**
 * What launchers set for rank 5 of 8, the second of four on the second host, as
 * their documentation or source has it, and the variable that tells jobs apart.
 */
const SECOND_HOST = {
  // docs.open-mpi.org, "Environment variables set for MPI applications"
  "mpirun (Open MPI)": {
    job: "PMIX_NAMESPACE",
    env: {
      OMPI_COMM_WORLD_RANK: "5",
      OMPI_COMM_WORLD_SIZE: "8",
      OMPI_COMM_WORLD_LOCAL_RANK: "1",
      OMPI_COMM_WORLD_LOCAL_SIZE: "4",
      OMPI_COMM_WORLD_NODE_RANK: "1",
      OMPI_UNIVERSE_SIZE: "8",
      PMIX_NAMESPACE: "prterun-node1-4711@1",
      PMIX_RANK: "5",
    },
  },
  // Spectrum LSF; Lightning's LSFEnvironment has the list
  "jsrun (LSF)": {
    job: "LSB_JOBID",
    env: {
      JSM_NAMESPACE_RANK: "5",
      JSM_NAMESPACE_SIZE: "8",
      JSM_NAMESPACE_LOCAL_RANK: "1",
      JSM_NAMESPACE_LOCAL_SIZE: "4",
      LSB_JOBID: "1234",
      LSB_HOSTS: "batch node1 node1 node2 node2",
      PMIX_NAMESPACE: "1",
      PMIX_RANK: "5",
    },
  },
  // MVAPICH2's mpispawn.c
  "mpirun_rsh (MVAPICH2)": {
    job: "MPIRUN_ID",
    env: {
      MV2_COMM_WORLD_RANK: "5",
      MV2_COMM_WORLD_SIZE: "8",
      MV2_COMM_WORLD_LOCAL_RANK: "1",
      MV2_COMM_WORLD_LOCAL_SIZE: "4",
      MV2_NUM_NODES_IN_JOB: "2",
      MPIRUN_ID: "77",
      MPIRUN_NPROCS: "8",
      PMI_ID: "5",
    },
  },
  // flux-environment(7)
  "flux run": {
    job: "FLUX_JOB_ID",
    env: {
      FLUX_TASK_RANK: "5",
      FLUX_JOB_SIZE: "8",
      FLUX_TASK_LOCAL_ID: "1",
      FLUX_JOB_NNODES: "2",
      FLUX_JOB_ID: "ƒ3ETxsR9H",
      FLUX_URI: "local:///run/flux/local",
      PMI_RANK: "5",
      PMI_SIZE: "8",
      PMI_FD: "7",
    },
  },
  // Cray PMI's, and the comment above the API of flux-coral2's libpals
  "mpiexec (PALS)": {
    job: "PALS_APID",
    env: {
      PALS_RANKID: "5",
      PALS_LOCAL_RANKID: "1",
      PALS_LOCAL_SIZE: "4",
      PALS_NODEID: "1",
      PALS_APID: "4f3c0fc5",
      PALS_SPOOL_DIR: "/var/run/palsd/4f3c0fc5",
      PMI_JOBID: "4f3c0fc5",
      PMI_RANK: "5",
      PMI_SIZE: "8",
      PMI_LOCAL_RANK: "1",
      PMI_LOCAL_SIZE: "4",
    },
  },
  // Hydra
  "mpirun (MPICH, Intel MPI)": {
    job: undefined,
    env: {
      PMI_RANK: "5",
      PMI_SIZE: "8",
      PMI_FD: "6",
      MPI_LOCALRANKID: "1",
      MPI_LOCALNRANKS: "4",
      // Its helper was started by srun, one on each host.
      SLURM_PROCID: "1",
      SLURM_STEP_NUM_TASKS: "2",
      SLURM_LOCALID: "0",
    },
  },
  // srun(1), with --mpi=cray_shasta, as Slurm 22.05 sets them
  "srun (Slurm)": {
    job: "SLURM_JOB_ID",
    env: {
      SLURM_PROCID: "5",
      SLURM_STEP_NUM_TASKS: "8",
      SLURM_LOCALID: "1",
      SLURM_STEP_NUM_NODES: "2",
      SLURM_JOB_ID: "7",
      SLURM_STEP_ID: "0",
      SLURM_NTASKS: "8",
      PALS_RANKID: "5",
      PALS_LOCAL_RANKID: "1",
      PALS_APID: "7.0",
    },
  },
} as const;

for (const [launcher, { job, env }] of Object.entries(SECOND_HOST)) {
  Deno.test(`findPlace() reads the variables of ${launcher} on two hosts`, () => {
    const there = { ...env, MASTER_ADDR: "node1" };
    const { rank, worldSize, localRank, masterAddr } = place(there);
    assertEquals([rank, worldSize, localRank, masterAddr], [
      5,
      8,
      1,
      "node1",
    ]);
    const error = assertThrows(() => place(env), LaunchError);
    assertStringIncludes(
      error.message,
      `${launcher} started replicas on several hosts, but MASTER_ADDR is not set`,
    );
    if (job === undefined) return;
    assertNotEquals(
      place({ ...there, [job]: "another" }).job,
      place(there).job,
    );
  });
}

Deno.test("findPlace() asks for the number of replicas where a launcher does not tell it", () => {
  const pmix = { PMIX_RANK: "1", PMIX_NAMESPACE: "prterun-a-1@1" };
  // As mpiexec of PALS with --pmi=pmix does.
  const pals = { ...pmix, PALS_RANKID: "1", PALS_LOCAL_RANKID: "0" };
  for (
    const [name, env] of [["PMIX_RANK", pmix], ["PALS_RANKID", pals]] as const
  ) {
    assertThrows(() => place(env), LaunchError, `${name} is set to '1', but`);
    const { rank, worldSize } = place({ ...env, WORLD_SIZE: "2" });
    assertEquals([rank, worldSize], [1, 2]);
  }
  assertEquals(place({ ...pals, WORLD_SIZE: "2" }).localRank, 0);
});

Deno.test("findPlace() does not take one number of replicas for another", () => {
  assertThrows(
    () => place({ ...SECOND_HOST["flux run"].env, WORLD_SIZE: "4" }),
    LaunchError,
    "WORLD_SIZE is set to '4', but flux run has started 8 replicas",
  );
});

Deno.test("findPlace() is alone in shells that run no step", () => {
  for (
    const env of [
      // salloc; a script of sbatch; a shell that flux alloc opens; bsub
      { SLURM_NTASKS: "4", SLURM_JOB_ID: "7", SLURM_PROCID: "0" },
      { FLUX_URI: "local:///run/flux/local" },
      { LSB_JOBID: "1234", LSB_HOSTS: "batch node1 node1" },
      { PBS_JOBID: "12.server", PBS_NODEFILE: "/var/spool/pbs/aux/12" },
      // The shell of an interactive step that srun has begun with PMIx.
      {
        SLURM_PROCID: "0",
        SLURM_STEP_NUM_TASKS: "1",
        SLURM_JOB_ID: "7",
        PMIX_RANK: "0",
      },
    ]
  ) assertEquals(place(env).worldSize, 1);
});

Deno.test('Device.open("cuda") knows the local rank of every launcher', () => {
  const known = new Set(LOCAL_RANKS);
  for (const { env } of Object.values(SECOND_HOST)) {
    const names = Object.keys(env).filter((name) =>
      /LOCAL_?(RANK|ID)/.test(name)
    );
    for (const name of names) assert(known.has(name), name);
  }
});

Deno.test("findPlace() asks for MASTER_ADDR when it is empty and replicas are on several hosts", () => {
  assertThrows(
    () => place({ ...torchrun, MASTER_ADDR: "" }),
    LaunchError,
    "MASTER_ADDR is not set",
  );
});

Deno.test("findPlace() tells jobs apart that share their candidate ports", () => {
  const job = (port: string): string =>
    place({ ...torchrun, TORCHELASTIC_RUN_ID: "none", MASTER_PORT: port }).job;
  assertEquals(job("29500"), job("29500"));
  assertEquals(job("29500") === job("29501"), false);
});

Deno.test("findPlace() reads the variables of srun", () => {
  const step = {
    SLURM_PROCID: "2",
    SLURM_STEP_NUM_TASKS: "4",
    SLURM_LOCALID: "0",
    SLURM_JOB_ID: "7",
    SLURM_STEP_ID: "0",
  };
  assertEquals(place({ ...step, SLURM_STEP_NUM_NODES: "1" }).rank, 2);
  const error = assertThrows(
    () => place({ ...step, SLURM_STEP_NUM_NODES: "2" }),
    LaunchError,
  );
  assertStringIncludes(error.message, "MASTER_ADDR is not set");
  assertStringIncludes(error.message, "ATOMLOSS_SECRET");
  assertEquals(
    place({ ...step, SLURM_STEP_NUM_NODES: "2", MASTER_ADDR: "node1" })
      .masterAddr,
    "node1",
  );
});

Deno.test("findPlace() rejects variables that are missing or make no sense", () => {
  const { RANK: _rank, ...noRank } = torchrun;
  assertThrows(
    () => place(noRank),
    LaunchError,
    "WORLD_SIZE is set to '4' but RANK is not set",
  );
  assertThrows(
    () => place({ RANK: "0" }),
    LaunchError,
    "WORLD_SIZE is not set",
  );
  for (
    const [name, value] of [
      ["RANK", "4"],
      ["RANK", "-1"],
      ["RANK", "one"],
      ["RANK", ""],
      ["WORLD_SIZE", "0"],
      ["LOCAL_RANK", "9"],
      ["LOCAL_WORLD_SIZE", "two"],
      ["LOCAL_WORLD_SIZE", "5"],
      ["MASTER_PORT", "70000"],
      ["MASTER_PORT", "http"],
    ] as const
  ) {
    assertThrows(
      () => place({ ...torchrun, [name]: value }),
      LaunchError,
      `${name} is '${value}'`,
    );
  }
  // Behind the last port there is none for the store.
  assertThrows(
    () =>
      place({ ...torchrun, TORCHELASTIC_RUN_ID: "x", MASTER_PORT: "65535" }),
    LaunchError,
    "MASTER_PORT is '65535'",
  );
});
