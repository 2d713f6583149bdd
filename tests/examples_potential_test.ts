import { assert, assertEquals, assertRejects } from "@std/assert";
import { Potential, PotentialError } from "../examples/potential/potential.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import { encodeSafetensors } from "../tensor/safetensors.ts";
import { withFolder } from "./system.ts";
import { deno, TRAINING_SCRIPT, type TrainingReport } from "./training.ts";

Deno.test("Potential.load() predicts with the errors that the training has reported", () =>
  withFolder(async (folder) => {
    const [path, json] = [`${folder}/model.safetensors`, `${folder}/r.json`];
    const { code, err } = await deno(
      TRAINING_SCRIPT,
      ..."--device cpu --dtype float64 --steps 5 --save".split(" "),
      path,
      "--report",
      json,
    );
    assertEquals(code, 0, err);
    const report: TrainingReport = JSON.parse(await Deno.readTextFile(json));

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
    const bytes = await Deno.readFile(path);
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
