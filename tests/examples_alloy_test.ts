/** Three elements, crystals, slabs and molecules in one file. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { countLabels } from "../examples/potential/labels.ts";
import { Random } from "../examples/potential/random.ts";
import type { Structure } from "../examples/potential/structure.ts";
import { alloys, freeAtoms } from "./alloy.ts";
import { withFolder } from "./system.ts";
import {
  deno,
  toExtxyz,
  TRAINING_SCRIPT,
  type TrainingReport,
} from "./training.ts";

const SIZES = { crystal: 40, slab: 40, molecule: 60 } as const;
const KINDS = Object.keys(SIZES) as (keyof typeof SIZES)[];

/** One structure in five has no energy, one in two no stress, one in eight atoms no force. */
function withoutSomeLabels(structures: readonly Structure[]): Structure[] {
  const random = new Random(11);
  const isMissing = (oneIn: number): boolean => random.integer(1, oneIn) === 1;
  return structures.map((structure) => {
    const atoms = Array.from(structure.numbers, () => isMissing(8));
    return {
      ...structure,
      energy: isMissing(5) ? NaN : structure.energy,
      forces: structure.forces.map((f, k) =>
        atoms[Math.floor(k / 3)] ? NaN : f
      ),
      stress: isMissing(2) ? new Float64Array(6).fill(NaN) : structure.stress,
    };
  });
}

type Errors = TrainingReport & {
  readonly byConfigType: Readonly<Record<string, TrainingReport>>;
};

Deno.test("train_potential.ts learns an alloy of three elements with missing labels, crystals, slabs and molecules from one file, as well as each of them alone", () =>
  withFolder(async (folder) => {
    const write = async (
      name: string,
      structures: readonly Structure[],
    ): Promise<string> => {
      const path = `${folder}/${name}.xyz`;
      const text = structures.map((structure) => toExtxyz(structure)).join("");
      await Deno.writeTextFile(path, text);
      return path;
    };
    const train = async (
      data: readonly Structure[],
      test: readonly Structure[],
    ): Promise<{ out: string; report: Errors }> => {
      const report = `${folder}/report.json`;
      const { code, out, err } = await deno(
        TRAINING_SCRIPT,
        ...["--train", await write("train", [...freeAtoms(), ...data])],
        ...["--test", await write("test", test), "--report", report],
      );
      assertEquals(code, 0, err);
      return { out, report: JSON.parse(await Deno.readTextFile(report)) };
    };
    const parts = KINDS.map((kind, k) => ({
      kind,
      data: withoutSomeLabels(alloys(kind, SIZES[kind], 1 + k)),
      test: alloys(kind, 10, 11 + k),
    }));

    const data = parts.flatMap((part) => part.data);
    const { out, report } = await train(
      data,
      parts.flatMap(({ test }) => test),
    );
    const { energies, forces, stresses } = countLabels(data);
    assertStringIncludes(
      out,
      `train: ${energies + 3} energies, forces on ${forces + 3} atoms, ` +
        `${stresses} stresses`,
    );
    assert(energies < 130 && stresses < 30 && stresses > 10);
    assertStringIncludes(
      out,
      "Cu -1.0000 eV (isolated atom), Ag -2.0000 eV (isolated atom), " +
        "Au -3.5000 eV (isolated atom)",
    );
    for (const { kind, data, test } of parts) {
      const together = report.byConfigType[kind]!;
      const { report: alone } = await train(data, test);
      for (const key of ["energyMAE", "forceMAE"] as const) {
        const most = 1.5 * alone[key];
        console.log(
          kind,
          key,
          together[key],
          alone[key],
          together.baselineForceMAE,
        );
        assert(
          together[key] < most,
          `${kind}: ${key} ${together[key]} together, ${alone[key]} alone`,
        );
      }
      assert(together.forceMAE < 0.2 * together.baselineForceMAE);
    }
  }));
