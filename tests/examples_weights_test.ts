/** What examples/train_potential.ts makes of weights. */
import {
  assert,
  assertEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { parseOptions } from "../examples/potential/options.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import {
  atomCount,
  DataSetError,
  type Structure,
} from "../examples/potential/structure.ts";
import { weighted } from "../examples/potential/weights.ts";
import { withFolder } from "./system.ts";
import {
  deno,
  difference,
  toExtxyz,
  TRAINING_SCRIPT,
  type TrainingReport,
} from "./training.ts";

Deno.test("train_potential.ts weighs labels as their files and the command line say", () =>
  withFolder(async (folder) => {
    const [bulk, surface] = [5, 6].map((seed) =>
      siliconStructures(5, seed)
    ) as [Structure[], Structure[]];
    const typed = [
      ...bulk.map((one) => ({ ...one, configType: "bulk" })),
      ...surface.map((one) => ({ ...one, configType: "surface" })),
    ];
    const repeat = (times: number): Structure[] =>
      new Array(times).fill(surface).flat();
    const weights = "config_weight=2 config_energy_weight=2 " +
      "config_forces_weight=2 config_stress_weight=2";
    const texts = {
      bulk: bulk.map((one) => toExtxyz(one)),
      typed: typed.map((one) => toExtxyz(one)),
      weighted: typed.map((one) =>
        toExtxyz(one, one.configType === "surface" ? weights : "")
      ),
      repeated: [...bulk, ...repeat(4)].map((one) => toExtxyz(one)),
      test: siliconStructures(5, 7).map((one) => toExtxyz(one)),
    };
    for (const [name, text] of Object.entries(texts)) {
      await Deno.writeTextFile(`${folder}/${name}.xyz`, text.join(""));
    }
    // Where the least squares begin: with the energy of the free atom given,
    // nothing else depends on how often a structure is there.
    const start = async (
      name: string,
      ...options: string[]
    ): Promise<TrainingReport> => {
      const json = `${folder}/report.json`;
      const { code, out, err } = await deno(
        ...[TRAINING_SCRIPT, "--train", `${folder}/${name}.xyz`],
        ...["--test", `${folder}/test.xyz`, "--report", json],
        ..."--device cpu --dtype float64 --steps 1 --lr 0 --batch 99".split(
          " ",
        ),
        ...["--e0s", "Si=-1", ...options],
      );
      assertEquals(code, 0, err);
      assertStringIncludes(out, "free atoms: Si -1.0000 eV (given)");
      return JSON.parse(await Deno.readTextFile(json));
    };
    const assertAlike = (a: TrainingReport, b: TrainingReport): void => {
      for (const key of ["energyMAE", "forceMAE", "stressMAE"] as const) {
        const off = difference([a[key]], [b[key]]);
        assert(off < 1e-4, `${key} is off by ${off}`);
      }
    };
    const byForces = ["--energy-weight", "0", "--stress-weight", "0"];

    const weight = "--config-type-weights";
    const ofType = await start("typed", weight, '{"surface": 4}');
    assertAlike(ofType, await start("weighted"));
    assertAlike(ofType, await start("repeated"));
    assert(
      difference([ofType.forceMAE], [(await start("typed")).forceMAE]) > 1e-3,
    );

    // A weight is no number of labels: the mean is over all of them.
    const none = await start("typed", weight, '{"surface": 0}', ...byForces);
    const bulkAlone = await start("bulk", ...byForces);
    assertAlike(none, bulkAlone);
    const part = atomCount(...bulk) / atomCount(...bulk, ...surface);
    assert(
      difference([none.finalLoss], [part * bulkAlone.finalLoss]) < 1e-4,
    );
  }));

Deno.test("weighted() refuses weights that are no numbers from 0, and config types that no structure has", () => {
  const [structure] = siliconStructures(1, 1);
  const options = parseOptions([])!;
  const { weights } = weighted([structure!], options)[0]!;
  assertEquals(weights, { energy: 1, forces: 1, stress: 1 });
  for (const weight of [NaN, -1, Infinity]) {
    const bad = { ...structure!, weights: { ...weights, forces: weight } };
    assertThrows(
      () => weighted([bad], options),
      DataSetError,
      `config_weight times config_forces_weight is ${weight}, expected`,
    );
  }
  const configTypeWeights = new Map([["Default", 3]]);
  const tripled = weighted([structure!], { ...options, configTypeWeights });
  assertEquals(tripled[0]!.weights, { energy: 3, forces: 3, stress: 3 });
  assertThrows(
    () =>
      weighted([structure!], {
        ...options,
        configTypeWeights: new Map([["bulk", 1]]),
      }),
    DataSetError,
    `--config-type-weights has "bulk", but the structures to train on are of "Default"`,
  );
});
