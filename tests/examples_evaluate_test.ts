import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import fc from "fast-check";
import { ExtxyzFile } from "../examples/extxyz/read.ts";
import { formatStructure } from "../examples/extxyz/write.ts";
import type { Prediction } from "../examples/potential/descriptors.ts";
import {
  type ErrorReport,
  ErrorSums,
  type Predicted,
} from "../examples/potential/errors.ts";
import { Potential } from "../examples/potential/potential.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import type { Structure } from "../examples/potential/structure.ts";
import { encodeSafetensors } from "../tensor/safetensors.ts";
import { testOnDevices } from "./devices.ts";
import { ROOT } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";
import { deno, TRAINING_SCRIPT } from "./training.ts";

const SCRIPT = "examples/evaluate.ts";

/** Structures with any numbers, and labels of which any is missing. */
const predicted: fc.Arbitrary<Predicted[]> = fc.array(
  fc.record({
    numbers: fc.array(fc.constantFrom(1, 8, 14), {
      minLength: 1,
      maxLength: 4,
    }),
    configType: fc.constantFrom(undefined, "bulk", "__proto__"),
    periodic: fc.boolean(),
    seed: fc.array(
      // Halves of the smallest numbers would be rounded.
      fc.double({ min: -2, max: 2, noNaN: true })
        .map((x) => Math.abs(x) < 1e-300 ? 0 : x),
      { minLength: 40, maxLength: 40 },
    ),
    missing: fc.array(fc.boolean(), { minLength: 14, maxLength: 14 }),
  }).map(({ numbers, configType, periodic, seed, missing }): Predicted => {
    const some = (from: number, length: number): Float64Array<ArrayBuffer> =>
      Float64Array.from({ length }, (_, k) => seed[(from + k) % 40]!);
    const length = 3 * numbers.length;
    const stress = some(30, 6);
    return [{
      source: "test",
      numbers: Uint8Array.from(numbers),
      lattice: Float64Array.of(5, 0, 0, 0, 5, 0, 0, 0, 5),
      periodic: [true, true, periodic],
      positions: some(0, length),
      energy: missing[12] ? NaN : seed[0]!,
      forces: some(3, length).map((f, k) => missing[k] ? NaN : f),
      stress: missing[13] ? stress.fill(NaN) : stress,
      configType,
      weights: { energy: 1, forces: 1, stress: 1 },
    }, { energy: seed[1]!, forces: some(20, length), stress: some(7, 6) }];
  }),
  { maxLength: 8 },
);

/** The same errors, from their formulas. */
function plainErrors(
  all: readonly Predicted[],
  element?: number,
): Record<string, number> {
  const mean = (x: readonly number[]): number =>
    x.reduce((sum, y) => sum + y, 0) / x.length;
  const energies = all.filter(([{ energy }]) => !Number.isNaN(energy));
  const forces = all.flatMap(([{ forces, numbers }, prediction]) =>
    [...numbers].flatMap((z, i) => {
      const [f, p] = [forces, prediction.forces].map((
        v,
      ) => [...v.subarray(3 * i, 3 * i + 3)]) as [number[], number[]];
      const counts = (element ?? z) === z && !f.some(Number.isNaN);
      return counts ? [{ f, d: p.map((x, k) => x - f[k]!) }] : [];
    })
  );
  const stresses = all.flatMap(([{ stress, periodic }, prediction]) =>
    periodic.every(Boolean) && !Number.isNaN(stress[0]!)
      ? [[...stress].map((s, k) => prediction.stress![k]! - s)]
      : []
  );
  const components = forces.flatMap(({ d }) => d);
  return {
    energyMAE: mean(
      energies.map(([{ energy, numbers }, prediction]) =>
        Math.abs(prediction.energy - energy) / numbers.length
      ),
    ),
    forceMAE: mean(components.map(Math.abs)),
    forceRMSE: Math.sqrt(mean(components.map((d) => d * d))),
    baselineForceMAE: mean(forces.flatMap(({ f }) => f.map(Math.abs))),
    stressMAE: mean(stresses.flat().map(Math.abs)),
    stressRMSE: Math.sqrt(mean(stresses.flat().map((d) => d * d))),
    energies: energies.length,
    atoms: forces.length,
    stresses: stresses.length,
  };
}

testOnDevices(
  "ErrorSums counts every label that is there, and no other",
  async (device) => {
    await fc.assert(
      fc.asyncProperty(predicted, fc.nat(8), async (all, cut) => {
        using sums = new ErrorSums(device);
        sums.add(all.slice(0, cut));
        sums.add(all.slice(cut));
        const report = await sums.result();
        const check = (
          found: Partial<ErrorReport>,
          plain: Record<string, number>,
          names: string,
        ): void => {
          for (const name of names.split(" ")) {
            const value = found[name as keyof ErrorReport] as number;
            assertAlmostEquals(value, plain[name]!, 1e-12, name);
          }
        };
        const names =
          "energyMAE forceMAE forceRMSE baselineForceMAE stressMAE stressRMSE";
        const plain = plainErrors(all);
        check(report, plain, names);
        assertEquals(report.labels, {
          energy: plain.energies,
          forces: plain.atoms,
          stress: plain.stresses,
        });
        const types = new Set(all.map(([{ configType }]) => configType ?? ""));
        assertEquals(new Set(Object.keys(report.byConfigType)), types);
        for (const type of types) {
          const part = all.filter(([one]) => (one.configType ?? "") === type);
          const errors = Object.entries(report.byConfigType)
            .find(([name]) => name === type)![1];
          check(errors, plainErrors(part), names);
        }
        for (const [symbol, z] of [["H", 1], ["O", 8], ["Si", 14]] as const) {
          const errors = report.byElement[symbol];
          const isThere = all.some(([{ numbers }]) => numbers.includes(z));
          assertEquals(errors !== undefined, isThere);
          if (errors === undefined) continue;
          const plain = plainErrors(all, z);
          check(errors, plain, "forceMAE forceRMSE baselineForceMAE");
          assertEquals(errors.atoms, plain.atoms);
        }
      }),
      { numRuns: 50 },
    );
  },
);

Deno.test("formatStructure() writes what the reader reads back to the bit", () =>
  withFolder(async (folder) => {
    const path = `${folder}/data.xyz`;
    const name = fc.oneof(
      fc.string({ unit: "grapheme", minLength: 1 }),
      fc.constantFrom('a "b" \\', "two\nlines", "_JSON 1", "k=v", "'", "[{"),
    );
    await fc.assert(
      fc.asyncProperty(
        predicted.filter((all) => all.length > 0),
        name,
        async (all, configType) => {
          const written = all.map(([structure, prediction]) =>
            [
              { ...structure, configType },
              prediction as Prediction,
            ] as const
          );
          await Deno.writeTextFile(
            path,
            written.map((one) => formatStructure(...one)).join(""),
          );
          const file = await ExtxyzFile.open(path);
          const read = await Array.fromAsync(file.structures());
          assertEquals(read.length, written.length);
          for (const [k, found] of read.entries()) {
            const [structure, prediction] = written[k]!;
            const { numbers, lattice, periodic, positions } = structure;
            assertEquals(
              { ...found, source: "", weights: 0 },
              {
                numbers,
                lattice,
                periodic,
                positions: unsigned(positions),
                configType,
                energy: prediction.energy + 0,
                forces: unsigned(prediction.forces),
                stress: unsigned(prediction.stress),
                source: "",
                weights: 0,
              },
            );
          }
        },
      ),
      { numRuns: 50 },
    );
  }));

/** With 0 for −0, which no text has. */
function unsigned(numbers: Float64Array): Float64Array {
  return numbers.map((x) => x + 0);
}

/** The file of a potential that a short training has left. */
let model: Promise<Uint8Array<ArrayBuffer>> | undefined;

function trainedModel(): Promise<Uint8Array<ArrayBuffer>> {
  return model ??= (async () => {
    let bytes = new Uint8Array();
    await withFolder(async (folder) => {
      const path = `${folder}/model.safetensors`;
      const { code, err } = await deno(
        TRAINING_SCRIPT,
        ..."--device cpu --steps 1 --save".split(" "),
        path,
      );
      assertEquals(code, 0, err);
      bytes = await Deno.readFile(path);
    });
    return bytes;
  })();
}

/** A folder with the model and a file of crystals, a slab, a molecule, and labels that are missing. */
function withModel(test: (folder: string) => Promise<void>): Promise<void> {
  return withFolder(async (folder) => {
    await Deno.writeFile(`${folder}/model`, await trainedModel());
    const [crystal, slab, molecule, other] = siliconStructures(4, 5) as [
      ...[Structure, Structure, Structure, Structure],
    ];
    const stress = Float64Array.of(1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3);
    const of = (
      structure: Structure,
      periodic: Structure["periodic"],
      changes: Partial<Prediction> = {},
    ): string =>
      formatStructure(
        {
          ...structure,
          periodic,
          configType: periodic.map((flag) => flag ? "P" : "-").join(""),
          lattice: periodic[0] ? structure.lattice : new Float64Array(9),
        },
        {
          ...structure,
          forces: Float64Array.from(structure.forces),
          stress: new Float64Array(6).fill(NaN),
          ...changes,
        },
      );
    await Deno.writeTextFile(
      `${folder}/data.xyz`,
      of(crystal, [true, true, true], { stress }) +
        of(slab, [true, true, false], {
          forces: new Float64Array(slab.forces.length).fill(NaN),
        }) +
        of(molecule, [false, false, false]) +
        of(other, [true, true, true], { energy: NaN }),
    );
    await test(folder);
  });
}

Deno.test("evaluate.ts compares with the labels that are there and writes what is predicted", () =>
  withModel(async (folder) => {
    const [out, report, plot] = ["out.xyz", "report.json", "plot.svg"]
      .map((name) => `${folder}/${name}`) as [string, string, string];
    const { code, out: said, err } = await deno(
      SCRIPT,
      ...[`${folder}/model`, `${folder}/*.xyz`, "--out", out],
      ...["--report", report, "--plot", plot],
    );
    assertEquals(code, 0, err);
    assertStringIncludes(
      said,
      "data.xyz: energy by energy, forces by forces, stress by stress",
    );
    assertMatch(said, /\nall( +-?\d+\.\d+){6}\n/);
    assertMatch(said, /\nPP- +-?\d+\.\d+( +–){5}\n/);

    const potential = await Potential.load(`${folder}/model`);
    const read = async (path: string): Promise<Structure[]> =>
      await Array.fromAsync((await ExtxyzFile.open(path)).structures());
    const structures = await read(`${folder}/data.xyz`);
    const written = await read(out);
    const predictions = potential.predict(structures);
    assertEquals(
      written.map(({ energy, forces, stress, positions }) => ({
        energy,
        forces,
        stress,
        positions,
      })),
      predictions.map((one, k) => ({
        ...one,
        positions: structures[k]!.positions,
      })),
    );
    const errors: ErrorReport = JSON.parse(await Deno.readTextFile(report));
    const plain = plainErrors(
      structures.map((one, k) => [one, predictions[k]!]),
    );
    assertAlmostEquals(errors.energyMAE, plain.energyMAE!, 1e-12);
    assertAlmostEquals(errors.forceMAE, plain.forceMAE!, 1e-12);
    assertAlmostEquals(errors.stressMAE, plain.stressMAE!, 1e-12);
    assertEquals(errors.labels.energy, 3);
    assertEquals(errors.labels.stress, 1);
    assertEquals(Object.keys(errors.byConfigType).length, 3);
    assertEquals(
      [...Deno.readDirSync(folder)].map(({ name }) => name).sort(),
      ["data.xyz", "model", "out.xyz", "plot.svg", "report.json"],
    );
    assertStringIncludes(await Deno.readTextFile(plot), "stress component");
  }));

/** What ASE reads from a file, every number to the bit. */
const READ_BY_ASE = `
import sys, json, ase.io
def hexed(array): return [float(x).hex() for x in array.reshape(-1)]
print(json.dumps([[
    a.get_chemical_symbols(), a.pbc.tolist(), a.info.get("config_type"), a.get_potential_energy().hex(),
    hexed(a.positions), hexed(a.cell.array), hexed(a.get_forces()),
    hexed(a.get_stress()) if "stress" in a.calc.results else None,
] for a in ase.io.read(sys.argv[1], ":", format="extxyz")]))
`;

const hasASE = await new Deno.Command("python3", {
  args: ["-c", "import ase.io"],
  stderr: "null",
}).output().then(({ success }) => success, () => false);

Deno.test({
  name: "ASE reads what evaluate.ts --out writes, every number to the bit",
  ignore: !hasASE,
  fn: () =>
    withModel(async (folder) => {
      const out = `${folder}/out.xyz`;
      const { code, err } = await deno(
        SCRIPT,
        ...[`${folder}/model`, `${folder}/data.xyz`, "--out", out],
      );
      assertEquals(code, 0, err);
      const { stdout, success } = await new Deno.Command("python3", {
        args: ["-c", READ_BY_ASE, out],
        stderr: "inherit",
      }).output();
      assert(success);
      const found: unknown[][] = JSON.parse(new TextDecoder().decode(stdout));
      const numbers = (texts: unknown): Float64Array =>
        Float64Array.from(texts as string[], fromHex);

      const file = await ExtxyzFile.open(out);
      const structures = await Array.fromAsync(file.structures());
      const potential = await Potential.load(`${folder}/model`);
      assertEquals(found.length, 4);
      for (const [k, structure] of structures.entries()) {
        const [symbols, pbc, type, energy, positions, cell, forces, stress] =
          found[k]!;
        const [prediction] = potential.predict([structure]);
        assertEquals(symbols, [...structure.numbers].map(() => "Si"));
        assertEquals(pbc, structure.periodic);
        assertEquals(type, structure.configType);
        assertEquals(fromHex(energy as string), prediction!.energy);
        assertEquals(numbers(positions), structure.positions);
        assertEquals(numbers(cell), structure.lattice);
        assertEquals(numbers(forces), prediction!.forces);
        if (stress === null) assert(!structure.periodic.every(Boolean));
        else assertEquals(numbers(stress), prediction!.stress);
      }
    }),
});

/** The number of Python's float.hex(). */
function fromHex(text: string): number {
  const [, sign, whole, fraction, exponent] =
    /^(-?)0x([01])\.?([0-9a-f]*)p([+-]\d+)$/.exec(text)!;
  const digits = Number(`0x${whole}${fraction}`);
  return (sign ? -1 : 1) * digits *
    2 ** (Number(exponent) - 4 * fraction!.length);
}

Deno.test("evaluate.ts ends with 1 and a clear error where the model is none", () =>
  withModel(async (folder) => {
    const bytes = await trainedModel();
    const [model, data, out] = ["model", "data.xyz", "out.xyz"]
      .map((name) => `${folder}/${name}`) as [string, string, string];
    const other = encodeSafetensors({
      arrays: {},
      metadata: { format: "atomloss linear potential 0; eV, Å" },
    });
    for (
      const [file, problem] of [
        [bytes.slice(0, -1), `${model}: `],
        [new TextEncoder().encode("no model"), `${model}: `],
        [other, `${model}: its format is "atomloss linear potential 0`],
        [encodeSafetensors({ arrays: {}, metadata: {} }), "its format is"],
      ] as const
    ) {
      await Deno.writeFile(model, file);
      const { code, err } = await deno(SCRIPT, model, data, "--out", out);
      assertEquals(code, 1);
      assertStringIncludes(err, problem);
      assertEquals(err.trim().split("\n").length, 1);
    }
    const missing = await deno(SCRIPT, `${folder}/none`, data);
    assertEquals(missing.code, 1);
    assertStringIncludes(missing.err, "none: cannot be read");

    // A file that breaks off leaves nothing.
    await Deno.writeFile(model, bytes);
    await Deno.writeTextFile(data, "1\n\nSi 0 0 0\n1\n\nO 0 0 0\n");
    const broken = await deno(SCRIPT, model, data, "--out", out);
    assertEquals(broken.code, 1);
    assertStringIncludes(
      broken.err,
      `${data}:4: has O, the potential is of Si`,
    );
    assertEquals(
      [...Deno.readDirSync(folder)].map(({ name }) => name).sort(),
      ["data.xyz", "model"],
    );
    assertEquals((await deno(SCRIPT, model)).code, 2);
    const unplotted = await deno(SCRIPT, model, data, "--outt", out);
    assertEquals(unplotted.code, 2);
    assertStringIncludes(unplotted.err, "did you mean --out?");
  }));

Deno.test("./run evaluate is evaluate.ts", async () => {
  const text = await Deno.readTextFile(`${ROOT}run`);
  assertStringIncludes(text, `evaluate) exec deno run -A ${SCRIPT} "$@"`);
});
