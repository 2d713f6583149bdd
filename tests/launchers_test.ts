/** The training example under the launchers of others. */
import { assertEquals } from "@std/assert";
import { startProgram } from "./launch_replicas.ts";

/** Whether a program is there and can start something. */
async function works(program: string, args: string[]): Promise<boolean> {
  try {
    const command = new Deno.Command(program, {
      args,
      stdout: "null",
      stderr: "null",
    });
    return (await command.output()).success;
  } catch {
    return false;
  }
}

const SCRIPT = [
  "examples/train_potential.ts",
  "--device",
  "cpu",
  "--dtype",
  "float64",
  "--steps",
  "40",
  "--report",
];

/** Parameters after training under a launcher. */
async function train(
  program: string,
  args: readonly string[],
): Promise<number[]> {
  const path = await Deno.makeTempFile({ suffix: ".json" });
  try {
    const env = { OMP_NUM_THREADS: "1" };
    const job = startProgram(program, [...args, ...SCRIPT, path], env);
    const { code, stdout, stderr } = await job.finished();
    assertEquals(code, 0, stdout + stderr);
    const report = JSON.parse(await Deno.readTextFile(path));
    assertEquals([report.worldSize, report.backend], [2, "gloo"]);
    return report.parameters;
  } finally {
    await Deno.remove(path);
  }
}

const deno = Deno.execPath();
// Each names itself by the command that a user would type.
const LAUNCHERS = [
  {
    name: "mpirun -n 2",
    program: "mpirun",
    check: ["--version"],
    args: ["--allow-run-as-root", "--oversubscribe", "-n", "2"],
  },
  {
    name: "mpiexec.hydra -n 2", // MPICH's, also beside an Open MPI
    program: "mpiexec.hydra",
    check: ["-n", "1", "true"],
    args: ["-n", "2"],
  },
  {
    name: "srun -n 2",
    program: "srun",
    check: ["-n", "2", "true"],
    args: ["-n", "2"],
  },
  {
    name: "flux run -n 2",
    program: "flux",
    check: ["run", "-n", "2", "true"],
    args: ["run", "-n", "2"],
  },
  {
    name: "torchrun --no-python --nproc-per-node 2",
    program: "torchrun",
    check: ["--help"],
    args: ["--no-python", "--nproc-per-node", "2"],
  },
];

for (const { name, program, check, args } of LAUNCHERS) {
  Deno.test({
    name: `train_potential.ts gives the parameters of launch.ts under ${name}`,
    ignore: !await works(program, check),
    async fn(): Promise<void> {
      const expected = await train(deno, [
        "run",
        "-A",
        "launch.ts",
        "--nproc-per-node",
        "2",
      ]);
      assertEquals(
        await train(program, [...args, deno, "run", "-A"]),
        expected,
      );
    },
  });
}
