import { assert, assertEquals, assertRejects } from "@std/assert";
import { volumeOf } from "../examples/extxyz/cell.ts";
import { Potential, PotentialError } from "../examples/potential/potential.ts";
import { Random } from "../examples/potential/random.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import type { Geometry } from "../examples/potential/structure.ts";
import { encodeSafetensors } from "../tensor/safetensors.ts";
import { withFolder } from "./system.ts";
import { deno, TRAINING_SCRIPT, type TrainingReport } from "./training.ts";

interface Trained {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly report: TrainingReport;
}

/** What a short training has saved and reported. */
let trained: Promise<Trained> | undefined;

/** A folder with the model of a short training. */
function withModel(
  test: (path: string, trained: Trained, folder: string) => Promise<void>,
): Promise<void> {
  return withFolder(async (folder) => {
    const [path, json] = [`${folder}/model.safetensors`, `${folder}/r.json`];
    const { bytes, report } = await (trained ??= (async () => {
      const { code, err } = await deno(
        TRAINING_SCRIPT,
        ..."--device cpu --dtype float64 --steps 5 --save".split(" "),
        path,
        "--report",
        json,
      );
      assertEquals(code, 0, err);
      const report = JSON.parse(await Deno.readTextFile(json));
      return { bytes: await Deno.readFile(path), report };
    })());
    await Deno.writeFile(path, bytes);
    await test(path, { bytes, report }, folder);
  });
}

Deno.test("Potential.load() predicts with the errors that the training has reported", () =>
  withModel(async (path, { bytes, report }, folder) => {
    const potential = await Potential.load(path);
    assertEquals(potential.elements, [14]);
    assertEquals(potential.cutoff, 5);
    const structures = siliconStructures(20, 2); // as the training tests with
    const predictions = potential.predict(structures);
    const energies = structures.map(({ energy, numbers }, s) =>
      Math.abs(predictions[s]!.energy - energy) / numbers.length
    );
    const forces = structures.flatMap(({ forces }, s) =>
      [...forces].map((f, k) => Math.abs(predictions[s]!.forces[k]! - f))
    );
    const mean = (x: number[]): number =>
      x.reduce((sum, y) => sum + y, 0) / x.length;
    assert(Math.abs(mean(energies) - report.energyMAE) < 1e-7);
    assert(Math.abs(mean(forces) - report.forceMAE) < 1e-7);
    assert(report.forceMAE > 1e-5);

    // What was saved again is the same file.
    const again = `${folder}/again.safetensors`;
    await potential.save(again);
    assertEquals(await Deno.readFile(again), bytes);

    const refused = async (
      file: Uint8Array<ArrayBuffer>,
      problem: string,
    ): Promise<void> => {
      await Deno.writeFile(again, file);
      await assertRejects(() => Potential.load(again), PotentialError, problem);
    };
    for (const length of [0, 4, 100, bytes.length - 1]) {
      await refused(bytes.slice(0, length), again);
    }
    await refused(
      encodeSafetensors({ arrays: {}, metadata: {} }),
      "its format is undefined, expected",
    );
    const format = "atomloss linear potential 1; eV, Å";
    await refused(
      encodeSafetensors({ arrays: {}, metadata: { format } }),
      "has no elements or no cutoff",
    );
    await assertRejects(
      () => Potential.load(`${folder}/none`),
      PotentialError,
      "cannot be read",
    );
    await assertRejects(
      () => potential.save(`${folder}/none/model`),
      PotentialError,
      "cannot be written",
    );
  }));

Deno.test("Potential.predict() gives forces and stresses that are the derivatives of the energy", () =>
  withModel(async (path) => {
    const potential = await Potential.load(path);
    const energyOf = (structure: Geometry): number =>
      potential.predict([structure])[0]!.energy;
    /** The slope at 0: central differences, Richardson extrapolated. */
    const slope = (energyAt: (h: number) => number): number => {
      const difference = (h: number): number =>
        (energyAt(h) - energyAt(-h)) / (2 * h);
      return (4 * difference(1e-4) - difference(2e-4)) / 3;
    };
    for (const structure of siliconStructures(2, 9)) {
      const { positions, lattice } = structure;
      const { forces, stress } = potential.predict([structure])[0]!;
      for (let k = 0; k < positions.length; k += 7) {
        const expected = -slope((h) =>
          energyOf({
            ...structure,
            positions: positions.with(k, positions[k]! + h),
          })
        );
        assert(
          Math.abs(forces[k]! - expected) < 1e-6,
          `${forces[k]} ${expected}`,
        );
      }
      const pairs = [[0, 0], [1, 1], [2, 2], [1, 2], [0, 2], [0, 1]] as const;
      for (const [c, [a, b]] of pairs.entries()) {
        // Half of the strain to each of two components: symmetric.
        const strained = (vectors: Float64Array, h: number): Float64Array =>
          vectors.map((x, k) => {
            const at = k - k % 3;
            return x + (k % 3 === a ? h / 2 * vectors[at + b]! : 0) +
              (k % 3 === b ? h / 2 * vectors[at + a]! : 0);
          });
        const expected = slope((h) =>
          energyOf({
            ...structure,
            lattice: strained(lattice, h),
            positions: strained(positions, h),
          })
        ) / volumeOf(lattice);
        assert(
          Math.abs(stress[c]! - expected) < 1e-7,
          `${stress[c]} ${expected}`,
        );
      }
    }
  }));

Deno.test("Potential.predict() conserves the energy of atoms that move by its forces", () =>
  withModel(async (path) => {
    const potential = await Potential.load(path);
    const [structure] = siliconStructures(1, 2);
    const atoms = structure!.numbers.length;
    /** How far the energy per atom goes from its start in 100 fs, by velocity Verlet. */
    const drift = (step: number): number => {
      const random = new Random(3);
      const acceleration = 9.648533e-3 / 28.0855; // of Si by 1 eV/Å, Å/fs²
      const positions = structure!.positions.slice();
      const velocities = positions.map(() => random.uniform(-0.01, 0.01));
      let now = potential.predict([{ ...structure!, positions }])[0]!;
      const total = (): number =>
        now.energy + velocities.reduce(
          (sum, v) => sum + v * v / (2 * acceleration),
          0,
        );
      const start = total();
      let largest = 0;
      for (let t = 0; t < 100; t += step) {
        const kick = (): void =>
          velocities.forEach((_, k) =>
            velocities[k]! += acceleration * now.forces[k]! * step / 2
          );
        kick();
        velocities.forEach((v, k) => positions[k]! += v * step);
        now = potential.predict([{ ...structure!, positions }])[0]!;
        kick();
        largest = Math.max(largest, Math.abs(total() - start) / atoms);
      }
      assert(
        positions.some((x, k) => Math.abs(x - structure!.positions[k]!) > 0.2),
        "nothing moves",
      );
      return largest;
    };
    // What is left is the integrator's, which is of second order.
    const [long, short] = [drift(1), drift(0.5)];
    assert(short < 1e-3, `${short} eV/atom`);
    assert(short < long / 3.3 && short > long / 5, `${long} and ${short} eV`);
  }));
