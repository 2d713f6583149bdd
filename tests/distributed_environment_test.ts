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
  assertEquals(place({ PMI_RANK: "1", PMI_SIZE: "3" }).rank, 1);
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
});
