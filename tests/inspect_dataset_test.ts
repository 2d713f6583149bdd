import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { OptionError, parseArguments } from "../examples/command/arguments.ts";
import { findFiles } from "../examples/command/files.ts";
import { ROOT } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";
import { deno } from "./training.ts";

const SCRIPT = "examples/inspect_dataset.ts";

function crystal(shift: number, energy: number, extra = ""): string {
  return `2\nLattice="0 2.7 2.7 2.7 0 2.7 2.7 2.7 0" energy=${energy} ` +
    `Properties=species:S:1:pos:R:3:forces:R:3 ${extra}\n` +
    `Si 0 0 0 ${shift} 0 0\nSi ${1.35 + shift} 1.35 1.35 ${-shift} 0 0\n`;
}

Deno.test("inspect_dataset.ts --json prints one table and nothing else", () =>
  withFolder(async (folder) => {
    const path = `${folder}/data.xyz`;
    await Deno.writeTextFile(
      path,
      crystal(0.1, -9, 'virial="1 2 3 4 5 6" config_type=bulk') +
        "1\nenergy=nan\nO 1 2 3\n" +
        '1\nLattice="3 0 0 0 3 0 0 0 0" pbc="T T F" energy=-1\nC 1 0 1\n',
    );
    const { code, out, err } = await deno(SCRIPT, path, "--json");
    assertEquals(code, 0, err);
    const volume = 2 * 2.7 ** 3;
    const table = JSON.parse(out);
    const { volumes, stresses, stressNorm, forcesNorm, positionsSum, ...rest } =
      table;
    assertEquals(rest, {
      structures: 3,
      atoms: 4,
      elements: { C: 1, O: 1, Si: 2 },
      periodic: { all: 1, some: 1, none: 1 },
      keys: {
        energy: "energy",
        forces: "forces",
        stress: null,
        virial: "virial",
      },
      labels: { energy: 2, forces: 1, stress: 1 },
      energies: [-9, null, -1],

      forcesSum: [14 * 0.1 - 2 * 14 * 0.1, null, null],
      configTypes: { bulk: 1 },
      warnings: 3,
    });
    assertAlmostEquals(positionsSum[0], 2 * 14 * (1.45 + 2.7 + 4.05), 1e-9);
    assertEquals(positionsSum.slice(1), [112, 24]);
    assert(Math.abs(volumes[0] - volume) < 1e-9);
    assertEquals(volumes.slice(1), [null, null]);
    assert(Math.abs(stresses[0][4] + 5 / volume) < 1e-12);
    assertEquals(stresses.slice(1), [null, null]);
    const norm = Math.sqrt(1 + 4 + 9 + 2 * (16 + 25 + 36)) / volume;
    assert(Math.abs(stressNorm[0] - norm) < 1e-12);
    assert(Math.abs(forcesNorm[0] - Math.sqrt(0.02)) < 1e-12);
    assertEquals(err.trim().split("\n").length, 3);
    assertStringIncludes(err, "2 of 3 structures have energy");
  }));

Deno.test("inspect_dataset.ts prints a page with outliers, copies and what is missing", () =>
  withFolder(async (folder) => {
    const usual = Array.from(
      { length: 30 },
      (_, i) => crystal(0.01 * (i + 1), -9 + 0.01 * i),
    ).join("");
    await Deno.writeTextFile(
      `${folder}/a.xyz`,
      usual + crystal(0.155, 90) + crystal(0.02, -9.1),
    );
    await Deno.writeTextFile(`${folder}/b.xyz`, "1\n\nHe 0 0 0\n");
    const { code, out, err } = await deno(SCRIPT, `${folder}/*.xyz`);
    assertEquals(code, 0, err);
    assertStringIncludes(out, "32 of 2 atoms, 64 in all");
    assertStringIncludes(out, "Si 64");
    assertStringIncludes(out, "32 of 32, by energy");
    assertStringIncludes(out, `far off: 45.0000 at ${folder}/a.xyz:121`);
    assertStringIncludes(out, `${folder}/a.xyz:125 is ${folder}/a.xyz:5 again`);
    assertMatch(out, /missing +32 without stress/);
    assertMatch(out, /b\.xyz\n +structures +1 of 1 atoms/);
    const all = await deno(SCRIPT, `${folder}/*.xyz`, "--json");
    const { files } = JSON.parse(all.out);
    assertEquals(files[`${folder}/b.xyz`].elements, { He: 1 });
  }));

Deno.test("inspect_dataset.ts ends with FILE:LINE and 1 where a file is wrong", () =>
  withFolder(async (folder) => {
    const path = `${folder}/data.xyz`;
    await Deno.writeTextFile(path, "1\n\nSi 0 0 0\n1\nenergy=x\nSi 0 0 0\n");
    const { code, out, err } = await deno(SCRIPT, path, "--json");
    assertEquals([code, out], [1, ""]);
    assertEquals(err, `${path}:5: energy is "x", expected one number\n`);
    assertEquals((await deno(SCRIPT)).code, 2);
    assertEquals((await deno(SCRIPT, `${folder}/no.xyz`)).code, 1);
  }));

Deno.test("parseArguments() splits a command line", () => {
  const known = { lr: "value", train: "values", resume: "nothing" } as const;
  const { options, others } = parseArguments(
    ["x", "--train", "a", "b", "--lr=-1", "--resume", "y", "--lr", "-2"],
    known,
  );
  assertEquals(Object.fromEntries(options), {
    train: ["a", "b"],
    lr: ["-2"],
    resume: [],
  });
  assertEquals(others, ["x", "y"]);
  for (
    const [line, problem] of [
      ["--trian a", "unknown argument --trian: did you mean --train?"],
      ["--resumee", "did you mean --resume?"],
      ["--quite-another", "--help lists them"],
      ["-x", "unknown argument -x"],
      ["--constructor 1", "unknown argument"],
      ["--lr", "--lr needs a value"],
      ["--lr=", "--lr needs a value"],
      ["--train --resume", "--train needs a value"],
      ["--resume=1", "--resume takes no value"],
    ] as const
  ) {
    assertThrows(
      () => parseArguments(line.split(" "), known),
      OptionError,
      problem,
    );
  }
});

Deno.test("findFiles() finds what patterns fit, and takes a file of that name first", () =>
  withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/sub`);
    for (const name of ["b.xyz", "a.xyz", "a.txt", "sub/c.xyz", "d[1].xyz"]) {
      await Deno.writeTextFile(`${folder}/${name}`, "");
    }
    const found = async (...names: string[]): Promise<string[]> =>
      (await findFiles(names.map((name) => `${folder}/${name}`)))
        .map((path) => path.slice(folder.length + 1));
    assertEquals(await found("?.xyz"), ["a.xyz", "b.xyz"]);
    assertEquals(await found("b.xyz", "*.xyz"), ["b.xyz", "a.xyz", "d[1].xyz"]);
    assertEquals(await found("**/c.xyz"), ["sub/c.xyz"]);
    assertEquals(await found("d[1].xyz"), ["d[1].xyz"]);
    assertEquals(await found("none.xyz"), ["none.xyz"]); // said when it is read
    await assertRejects(() => found("*.cif"), OptionError, "no file is named");
  }));

Deno.test("./run inspect is inspect_dataset.ts", async () => {
  const text = await Deno.readTextFile(`${ROOT}run`);
  assertStringIncludes(text, `inspect) exec deno run -A ${SCRIPT} "$@"`);
});
