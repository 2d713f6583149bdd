/** What examples/train_potential.ts does with labels that are missing. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  countLabels,
  withoutHalfLabels,
} from "../examples/potential/labels.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import type { Structure } from "../examples/potential/structure.ts";
import { withFolder } from "./system.ts";
import {
  deno,
  difference,
  toExtxyz,
  TRAINING_SCRIPT,
  type TrainingReport,
} from "./training.ts";

const NONE = new Float64Array(6).fill(NaN);

Deno.test("train_potential.ts counts what has a label, and nothing else", () =>
  withFolder(async (folder) => {
    const whole = siliconStructures(14, 1);
    // The same labels on two copies of each structure, of which one has no
    // energy: every atom has its force on one of them.
    const halves = whole.flatMap((structure, s): Structure[] => {
      const half = (odd: number): Float64Array =>
        structure.forces.map((f, k) => Math.floor(k / 3) % 2 === odd ? f : NaN);
      return [
        { ...structure, forces: half(s % 2), stress: NONE },
        { ...structure, forces: half(1 - s % 2), energy: NaN },
      ];
    });
    const test = siliconStructures(6, 2);
    const files = { whole, halves, test };
    for (const [name, structures] of Object.entries(files)) {
      const text = structures.map((structure) => toExtxyz(structure)).join("");
      await Deno.writeTextFile(`${folder}/${name}.xyz`, text);
    }

    const train = async (
      name: string,
      ...options: string[]
    ): Promise<{ out: string; report: TrainingReport }> => {
      const json = `${folder}/report.json`;
      const { code, out, err } = await deno(
        ...["launch.ts", "--nproc-per-node", name === "whole" ? "1" : "2"],
        ...[TRAINING_SCRIPT, "--train", `${folder}/${name}.xyz`],
        ...["--test", `${folder}/test.xyz`, "--report", json],
        ..."--device cpu --dtype float64 --steps 4 --batch 100".split(" "),
        ...options,
      );
      assertEquals(code, 0, err);
      return { out, report: JSON.parse(await Deno.readTextFile(json)) };
    };
    const expected = await train("whole");
    const actual = await train("halves", "--micro-batch", "5");
    const { energies, forces, stresses } = countLabels(whole);
    assertEquals([energies, stresses], [14, 14]);
    for (const { out } of [expected, actual]) {
      assertStringIncludes(
        out,
        `train: 14 energies, forces on ${forces} atoms, 14 stresses\n`,
      );
    }
    for (
      const key of [
        ...["energyMAE", "forceMAE", "forceRMSE", "forceCosine"] as const,
        ...["stressMAE", "stressRMSE", "finalLoss"] as const,
      ]
    ) {
      const off = difference([actual.report[key]], [expected.report[key]]);
      assert(off < 1e-5, `${key} is off by ${off}`);
    }
    const { stressMAE, forceMAE, baselineForceMAE } = expected.report;
    assert(stressMAE < 0.002, `stress MAE ${stressMAE} eV/Å³`);
    assert(forceMAE < 0.1 * baselineForceMAE);

    // No energy, no stress anywhere: none has an error.
    await Deno.writeTextFile(
      `${folder}/test.xyz`,
      test.map((structure) =>
        toExtxyz({ ...structure, energy: NaN, stress: NONE })
      ).join(""),
    );
    const { out, report } = await train("halves");
    const got = report as unknown as Record<string, number | null>;
    assertEquals([got.energyMAE, got.stressMAE, got.stressRMSE], [
      null,
      null,
      null,
    ]);
    assertEquals(report.forceMAE > 0, true);
    assertStringIncludes(out, "test: 0 energies");
  }));

Deno.test("train_potential.ts says that nothing has a label when nothing has", () =>
  withFolder(async (folder) => {
    const path = `${folder}/data.xyz`;
    await Deno.writeTextFile(path, "1\n\nSi 0 0 0\n");
    const { code, err } = await deno(
      ...[TRAINING_SCRIPT, "--device", "cpu", "--train", path, "--test", path],
    );
    assertEquals(code, 1);
    assertStringIncludes(
      err,
      "DataSetError: no structure to train on has an energy, a force or a stress",
    );
  }));

Deno.test("withoutHalfLabels() leaves whole forces, and stresses where there is a volume", () => {
  const [structure] = siliconStructures(1, 1);
  const forces = structure!.forces.slice();
  forces[4] = NaN; // of the second atom
  const half = withoutHalfLabels({ ...structure!, forces });
  assertEquals([...half.forces.slice(3, 6)], [NaN, NaN, NaN]);
  assertEquals(half.forces.slice(6), structure!.forces.slice(6));
  assertEquals(half.stress, structure!.stress);
  const atoms = structure!.numbers.length;
  assertEquals(countLabels([half, structure!]), {
    energies: 2,
    forces: 2 * atoms - 1,
    stresses: 2,
  });
  const slab = { ...structure!, periodic: [true, true, false] as const };
  assertEquals(withoutHalfLabels(slab).stress, NONE);
});
