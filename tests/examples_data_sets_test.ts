import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import fc from "fast-check";
import { OptionError } from "../examples/command/arguments.ts";
import { ExtxyzError } from "../examples/extxyz/error.ts";
import {
  type DataSets,
  holdOut,
  loadDataSets,
} from "../examples/potential/data_sets.ts";
import { isFreeAtom } from "../examples/potential/free_atoms.ts";
import { parseOptions } from "../examples/potential/options.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import {
  DataSetError,
  elementsOf,
  type Structure,
} from "../examples/potential/structure.ts";
import { withFolder } from "./system.ts";

function load(...args: readonly string[]): Promise<DataSets> {
  return loadDataSets(parseOptions(args)!);
}

function text(energies: string, symbol = "Si"): string {
  return "2\n" + `${energies} Properties=species:S:1:pos:R:3:forces:R:3\n` +
    `${symbol} 0 0 0 0 0 0.5\n${symbol} 0 0 2 0 0 -0.5\n`;
}

const [SAMPLE] = siliconStructures(1, 1);

Deno.test("holdOut() draws whole structures, and no element and no free atom", () => {
  const structures = fc.array(
    fc.array(fc.constantFrom(1, 6, 8, 14), { minLength: 1, maxLength: 5 })
      .map((numbers): Structure => ({
        ...SAMPLE!,
        numbers: Uint8Array.from(numbers),
        periodic: [false, false, false],
      })),
    { maxLength: 30 },
  );
  const fraction = fc.double({ min: 0, max: 0.9, noNaN: true });
  fc.assert(
    fc.property(structures, fraction, fc.nat(1000), (all, part, seed) => {
      const [stay, drawn] = holdOut(all, part, seed);
      assertEquals(new Set([...stay, ...drawn]), new Set(all));
      assertEquals(stay.length + drawn.length, all.length);
      assert(drawn.length <= Math.round(part * all.length));
      assert(!drawn.some(isFreeAtom));
      assertEquals(elementsOf(stay), elementsOf(all));
      assertEquals(holdOut(all, part, seed), [stay, drawn]);
      // Nothing else keeps a structure from being drawn.
      if (drawn.length < Math.round(part * all.length)) {
        for (const one of stay) {
          const rest = stay.filter((other) => other !== one);
          assert(
            isFreeAtom(one) || elementsOf(rest).length < elementsOf(all).length,
          );
        }
      }
    }),
  );
  const many = siliconStructures(40, 1);
  const drawn = [1, 2].map((seed) => holdOut(many, 0.25, seed)[1]);
  assertEquals(drawn[0]!.length, 10);
  assert(drawn[0]!.some((one) => !drawn[1]!.includes(one)));
});

Deno.test("loadDataSets() reads many files and patterns, and says what it takes", () =>
  withFolder(async (folder) => {
    const [a, b] = ["a.xyz", "b.xyz"].map((name) => `${folder}/${name}`) as [
      string,
      string,
    ];
    await Deno.writeTextFile(
      a,
      text("REF_energy=-1 energy=-2") + text("REF_energy=-3"),
    );
    await Deno.writeTextFile(b, text("energy=-4"));
    const { trainSet, testSet, notes, warnings } = await load(
      "--train",
      `${folder}/*.xyz`,
      "--test",
      b,
      a,
    );
    assertEquals(trainSet.map(({ energy }) => energy), [-1, -3, -4]);
    assertEquals(testSet.map(({ energy }) => energy), [-4, -1, -3]);
    assertEquals(notes, [
      `train: 2 structures of ${a}, energy by REF_energy, forces by forces`,
      `train: 1 structures of ${b}, energy by energy, forces by forces`,
      `test: 1 structures of ${b}, energy by energy, forces by forces`,
      `test: 2 structures of ${a}, energy by REF_energy, forces by forces`,
    ]);
    assertStringIncludes(
      warnings[0]!,
      `${a}:2: REF_energy and energy are not the same energy: REF_energy was taken`,
    );
    assertStringIncludes(warnings[1]!, "are they of one method?");

    const chosen = await load("--train", b, "--energy-key", "energy");
    assertEquals(chosen.notes, [
      `train: 1 structures of ${b}, energy by energy, forces by forces`,
      "test: 0 of these 1 structures, held out",
    ]);
    assertEquals(chosen.warnings, []);
    await assertRejects(
      () => load("--train", b, "--energy-key", "REF_energy"),
      ExtxyzError,
      `${b}: no structure has the key REF_energy`,
    );
    await assertRejects(
      () => load("--train", `${folder}/*.cif`),
      OptionError,
      "no file is named",
    );
    await Deno.writeTextFile(b, text("energy=-4", "O"));
    await assertRejects(
      () => load("--train", a, "--test", b),
      DataSetError,
      `${b}:1: has O, but there is none`,
    );
  }));

Deno.test("loadDataSets() holds out a part where no test is named", () =>
  withFolder(async (folder) => {
    const path = `${folder}/a.xyz`;
    await Deno.writeTextFile(
      path,
      Array.from({ length: 20 }, (_, k) => text(`energy=${k}`)).join(""),
    );
    const energies = async (
      ...args: readonly string[]
    ): Promise<number[][]> => {
      const { trainSet, testSet } = await load("--train", path, ...args);
      return [trainSet, testSet].map((set) => set.map(({ energy }) => energy));
    };
    const [train, test] = await energies() as [number[], number[]];
    assertEquals(test.length, 4);
    assertEquals([...train, ...test].sort((a, b) => a - b), [
      ...Array(20).keys(),
    ]);
    assertEquals(await energies(), [train, test]);
    const other = await energies("--seed", "2", "--test-fraction", "0.5");
    assertEquals(other[1]!.length, 10);
    assert(other[1]!.some((energy) => !test.includes(energy)));
  }));
