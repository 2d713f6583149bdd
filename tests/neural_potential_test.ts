import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { Device } from "../mod.ts";
import { Batch, sizesOf } from "../examples/neural/batch.ts";
import { startOf } from "../examples/neural/least_squares.ts";
import { NeuralPotential } from "../examples/neural/potential.ts";
import { Random } from "../examples/potential/random.ts";
import type { Structure } from "../examples/potential/structure.ts";
import { alloyFile, alloys } from "./alloys.ts";
import { startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";
import { deno, difference, launch } from "./training.ts";

const SCRIPT = "examples/neural_potential.ts";
const ELEMENTS = [14, 32];
const FREE = new Float64Array(119);

/** A potential that has learned nothing, but of which every part counts. */
function untrained(device: Device): NeuralPotential {
  const random = new Random(3);
  const structures = alloys(12, 4);
  const sizes = sizesOf([structures], ELEMENTS);
  using batch = new Batch(device, structures, sizes, FREE);
  const start = startOf([batch], 2, random, 10, () => {});
  start.w3 = start.w3.map(() => random.uniform(-0.3, 0.3));
  return new NeuralPotential(device, 2, start);
}

function predict(
  device: Device,
  potential: NeuralPotential,
  structures: Structure[],
  sizes = sizesOf([structures], ELEMENTS),
): { energies: Float32Array; forces: Float32Array } {
  using batch = new Batch(device, structures, sizes, FREE);
  return potential.predict(batch);
}

/** Largest difference. */
function off(a: ArrayLike<number>, b: ArrayLike<number>): number {
  assertEquals(a.length, b.length);
  return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i]!)));
}

Deno.test("the forces of a neural potential are minus the gradient of its energy", async () => {
  using device = await Device.open("cpu");
  const structure = alloys(1, 5)[0]!;
  using potential = untrained(device);
  const { forces } = predict(device, potential, [structure]);
  const scale = Math.max(...forces.map(Math.abs));
  assert(scale > 0.1, `forces up to ${scale}`);
  for (const i of [0, 1, 2, 13]) {
    const moved = [1, -1].map((sign) => {
      const positions = structure.positions.slice();
      positions[i]! += 0.01 * sign;
      return predict(device, potential, [{ ...structure, positions }])
        .energies[0]!;
    });
    assertAlmostEquals(
      forces[i]!,
      (moved[1]! - moved[0]!) / 0.02,
      0.01 * scale,
    );
  }
});

Deno.test("a neural potential does not see how a structure is turned, shifted, or where it is in a padded batch", async () => {
  using device = await Device.open("cpu");
  const structures = alloys(2, 6);
  using potential = untrained(device);
  const { energies, forces } = predict(device, potential, structures);
  const scale = Math.max(...forces.map(Math.abs));

  // By 0.7 around z, then x for y for z.
  const [c, s] = [Math.cos(0.7), Math.sin(0.7)];
  const turn = (rows: ArrayLike<number>): Float64Array<ArrayBuffer> =>
    Float64Array.from(rows, (_, i) => {
      const [x, y, z] = [0, 1, 2].map((a) => rows[i - i % 3 + a]!) as [
        number,
        number,
        number,
      ];
      return [z, c * x - s * y, s * x + c * y][i % 3]!;
    });
  const turned = structures.map((structure) => ({
    ...structure,
    lattice: turn(structure.lattice),
    positions: turn(structure.positions).map((x) => x + 3),
  }));
  const after = predict(device, potential, turned);
  assert(
    off(after.energies, energies) < 1e-4 * Math.max(...energies.map(Math.abs)),
  );
  assert(off(after.forces, turn(forces)) < 1e-4 * scale);

  const sizes = sizesOf([structures], ELEMENTS);
  const larger = predict(device, potential, structures.toReversed(), {
    ...sizes,
    structures: 5,
    atoms: sizes.atoms + 3,
    neighbors: sizes.neighbors + 4,
  });
  assert(off(larger.energies, energies.toReversed()) < 1e-4);
  const atoms = structures[1]!.numbers.length;
  assert(
    off(larger.forces.subarray(3 * atoms), forces.subarray(0, -3 * atoms)) <
      1e-4 * scale,
  );
});

Deno.test("the gradients of a neural potential are those of what weighs energies and forces", async () => {
  using device = await Device.open("cpu");
  const structures = alloys(2, 8);
  using potential = untrained(device);
  using batch = new Batch(
    device,
    structures,
    sizesOf([structures], ELEMENTS),
    FREE,
  );
  const random = new Random(9);
  const weights = (length: number): Float32Array<ArrayBuffer> =>
    Float32Array.from({ length }, () => random.uniform(-1, 1));
  const ofEnergies = weights(2);
  const ofForces = weights(3 * batch.atoms);
  const sum = (): number => {
    const { energies, forces } = potential.predict(batch);
    return energies.reduce((sum, x, i) => sum + x * ofEnergies[i]!, 0) +
      forces.reduce((sum, x, i) => sum + x * ofForces[i]!, 0);
  };
  const gradients = potential.gradients(batch, ofEnergies, ofForces);
  for (const [k, parameter] of potential.parameters.entries()) {
    const before = await parameter.data() as Float32Array;
    const direction = weights(parameter.size);
    const slope = direction.reduce(
      (sum, x, i) => sum + x * gradients[k]![i]!,
      0,
    );
    const step = 1e-3 * Math.max(...before.map(Math.abs));
    const [ahead, behind] = [step, -step].map((step) => {
      parameter.copy_(
        before.map((x, i) => x + step * direction[i]!) as Float32Array<
          ArrayBuffer
        >,
      );
      return sum();
    }) as [number, number];
    parameter.copy_(before as Float32Array<ArrayBuffer>);
    const expected = (ahead - behind) / 2 / step;
    assertAlmostEquals(
      slope,
      expected,
      0.02 * Math.abs(expected) + 0.01,
      `parameter ${k}`,
    );
  }
});

interface Report {
  readonly worldSize: number;
  readonly losses: number[];
  /** Of energies, forces, and of forces that are predicted to be 0. */
  readonly errors: [number, number, number];
  readonly parameters: number[];
}

Deno.test("neural_potential.ts trains on an alloy: 1, 2 and 3 replicas agree, and one that was killed goes on", async () => {
  await withFolder(async (folder) => {
    const [train, test] = [`${folder}/train.xyz`, `${folder}/test.xyz`];
    await Deno.writeTextFile(train, alloyFile(33, 1));
    await Deno.writeTextFile(test, alloyFile(6, 2));
    const data = ["--train", train, "--test", test];
    // 33 structures in batches of 4: of the last one, all replicas but the first have none.
    const run = (replicas: number, ...options: string[]): Promise<Report> =>
      launch(replicas, SCRIPT, (path) => [
        ...[...data, "--report", path, "--steps", "24"],
        ...options,
      ]);
    const alone = await run(1);
    const [, error, zero] = alone.errors;
    assert(error < 0.3 * zero, `${error} of ${zero} eV/Å`);
    for (const replicas of [2, 3]) {
      const together = await run(replicas);
      assertEquals(together.worldSize, replicas);
      // jax-js adds in float32, and the least squares make much of its rounding.
      const most = { losses: 1e-2, parameters: 5e-5, errors: 5e-4 } as const;
      for (const key of ["losses", "parameters", "errors"] as const) {
        const off = difference(together[key], alone[key]);
        assert(
          off < most[key],
          `${replicas} replicas: ${key} are off by ${off}`,
        );
      }
    }

    const checkpoint = `${folder}/checkpoint.safetensors`;
    const options = ["--checkpoint", checkpoint, "--checkpoint-every", "1"];
    const job = startProgram(Deno.execPath(), [
      ...["run", "-A", SCRIPT, ...data, "--steps", "24", ...options],
    ]);
    while (!await Deno.stat(checkpoint).then(() => true, () => false)) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    job.kill("SIGKILL");
    await job.finished();
    const resumed = await run(1, ...options);
    assertEquals(resumed.parameters, alone.parameters);

    const other = await deno(SCRIPT, ...data, "--steps", "25", ...options);
    assertEquals(other.code, 1);
    assertStringIncludes(other.err, "is of a training with");
  });
});

Deno.test("neural_potential.ts says what is wrong with its command line", async () => {
  for (
    const [option, message] of [
      ["--step 3", "unknown argument --step: did you mean --steps?"],
      ["--batch 0", '--batch is "0", expected an integer from 1'],
      ["--lr x", '--lr is "x", expected a number from 0'],
    ] as const
  ) {
    const { code, err } = await deno(SCRIPT, ...option.split(" "));
    assertEquals(code, 2);
    assertMatch(err, new RegExp(message.replaceAll("?", "\\?")));
  }
});
