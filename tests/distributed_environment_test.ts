import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { findPlace } from "../distributed/environment.ts";
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
    job: "29501  ",
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
