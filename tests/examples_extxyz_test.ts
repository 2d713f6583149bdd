import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  ExtxyzError,
  parseExtxyz,
  readExtxyz,
} from "../examples/potential/extxyz.ts";
import { seeded } from "./random.ts";
import { DataSetError, elementOf } from "../examples/potential/structure.ts";

const COMMENT = `Lattice="4 0 0 0 5 0 1 0 6" ` +
  `Properties=species:S:1:pos:R:3:forces:R:3 energy=-9.5 pbc="T T F"`;
const ATOMS = ["Si 0 0 0 0.1 -0.2 3e-1", "Si 1.5 1.5 1.5 -.1 +0.2 -0.3"];

/** A file of one structure. */
function file(
  { count = "2", comment = COMMENT, atoms = ATOMS } = {},
): string {
  return [count, comment, ...atoms, ""].join("\n");
}

/** Asserts that a text is refused, with file and line in the message. */
function assertRefused(text: string, line: number, problem: string): void {
  const error = assertThrows(
    () => parseExtxyz(text, "data.xyz"),
    ExtxyzError,
    problem,
  );
  assertEquals(error.message.startsWith(`data.xyz:${line}: `), true);
}

Deno.test("parseExtxyz() reads every structure of a file", () => {
  const structures = parseExtxyz(file() + file({ count: " 2 " }), "data.xyz");

  assertEquals(structures.length, 2);
  const [first, second] = structures;
  assertEquals(first!.source, "data.xyz:1");
  assertEquals(second!.source, "data.xyz:5");
  assertEquals(first!.species, ["Si", "Si"]);
  assertEquals([...first!.lattice], [4, 0, 0, 0, 5, 0, 1, 0, 6]);
  assertEquals(first!.periodic, [true, true, false]);
  assertEquals([...first!.positions], [0, 0, 0, 1.5, 1.5, 1.5]);
  assertEquals(first!.energy, -9.5);
  assertEquals([...first!.forces], [0.1, -0.2, 0.3, -0.1, 0.2, -0.3]);
});

Deno.test("parseExtxyz() finds columns by name when they are in another order", () => {
  const [structure] = parseExtxyz(
    file({
      count: "1",
      comment: `config_type='a "b" c' free text energy=-1 ` +
        `Properties=tags:I:1:forces:R:3:pos:R:3:species:S:1 ` +
        `Lattice={4 0 0 0 4 0 0 0 4} stress="0 0 0 0 0 0 0 0 0"`,
      atoms: ["7 1 2 3 4 5 6 Ge"],
    }).replaceAll("\n", "\r\n"),
    "data.xyz",
  );

  assertEquals(structure!.species, ["Ge"]);
  assertEquals([...structure!.forces], [1, 2, 3]);
  assertEquals([...structure!.positions], [4, 5, 6]);
  assertEquals(structure!.periodic, [true, true, true]);
});

Deno.test("parseExtxyz() throws when an atom count is wrong", () => {
  assertRefused(file({ count: "1" }), 4, "expected a number of atoms");
  assertRefused(file({ count: "3" }), 1, "expected 3 atoms, but only 2");
  assertRefused(file({ count: "3" }) + file(), 5, "columns");
  assertRefused(file({ count: "0" }), 1, "0 atoms");
  assertRefused(file({ count: "-2" }), 1, "expected a number of atoms");
  assertRefused(file({ count: "2.5" }), 1, "expected a number of atoms");
  assertRefused(file({ count: "9".repeat(400) }), 1, "lines follow");
});

Deno.test("parseExtxyz() throws when the file is truncated", () => {
  assertRefused("2", 1, "the file ends here");
  assertRefused(file().split("\n").slice(0, 3).join("\n"), 1, "only 1 lines");
  assertRefused(file({ atoms: [ATOMS[0]!, "Si 1.5 1.5"] }), 4, "3 columns");
  assertThrows(
    () => parseExtxyz("\n", "data.xyz"),
    ExtxyzError,
    "no structure",
  );
});

Deno.test("parseExtxyz() throws when a number is none or not finite", () => {
  for (
    const bad of ["abc", "nan", "inf", "1e999", "0x10", "1,5", "1d0", "--1"]
  ) {
    assertRefused(
      file({ atoms: [ATOMS[0]!, `Si 1 2 ${bad} 0 0 0`] }),
      4,
      `a position is ${JSON.stringify(bad)}`,
    );
    assertRefused(
      file({ atoms: [`Si 1 2 3 0 0 ${bad}`, ATOMS[1]!] }),
      3,
      `a force is ${JSON.stringify(bad)}`,
    );
    assertRefused(
      file({ comment: COMMENT.replace("-9.5", bad) }),
      2,
      `energy is ${JSON.stringify(bad)}`,
    );
    assertRefused(
      file({ comment: COMMENT.replace("5", bad) }),
      2,
      `a number of Lattice is ${JSON.stringify(bad)}`,
    );
  }
});

Deno.test("parseExtxyz() throws when something is missing", () => {
  const without = (pattern: RegExp): string =>
    file({ comment: COMMENT.replace(pattern, "") });
  assertRefused(without(/Lattice="[^"]*"/), 2, "no Lattice");
  assertRefused(without(/ 6(?=")/), 2, "Lattice has 8 numbers");
  assertRefused(without(/"(?= Prop)/), 2, "no Lattice");
  assertRefused(without(/energy=\S+/), 2, "no energy");
  assertRefused(without(/Properties=\S+/), 2, "no Properties");
  assertRefused(without(/:forces:R:3/), 2, `no column "forces"`);
  assertRefused(without(/pos:R:3:/), 2, `no column "pos"`);
  assertRefused(without(/species:S:1:/), 2, `no column "species"`);
  assertRefused(without(/:3(?=:forces)/), 2, "Properties is");
  assertRefused(
    file({ comment: COMMENT.replace("pos:R:3", "pos:R:2") }),
    2,
    `column "pos" is R:2`,
  );
  assertRefused(
    file({ comment: COMMENT.replace("T T F", "T T") }),
    2,
    `pbc is "T T"`,
  );
  assertRefused(file({ comment: `"`.repeat(100_000) }), 2, "no Lattice");
  assertRefused(file({ comment: "=".repeat(100_000) }), 2, "no Lattice");
  assertRefused(file({ comment: "a=".repeat(50_000) }), 2, "no Lattice");
});

Deno.test("readExtxyz() throws when the file cannot be read", async () => {
  await assertRejects(
    () => readExtxyz("/no/such/file.xyz"),
    ExtxyzError,
    "/no/such/file.xyz: cannot be read",
  );
});

Deno.test("elementOf() throws when there are several elements", () => {
  const structures = parseExtxyz(file(), "data.xyz");
  assertEquals(elementOf(structures), "Si");
  const mixed = parseExtxyz(
    file({ atoms: [ATOMS[0]!, ATOMS[1]!.replace("Si", "Ge")] }),
    "mixed.xyz",
  );
  assertThrows(
    () => elementOf([...structures, ...mixed]),
    DataSetError,
    "mixed.xyz:1: has Ge",
  );
  assertThrows(() => elementOf([]), DataSetError);
});

Deno.test("parseExtxyz() ends every damaged file with its own error, or reads it", () => {
  const whole = file() + file({ count: " 2 " });
  const next = seeded(5);
  const pick = (text: string): string =>
    text[Math.floor(next() * text.length)]!;
  let refused = 0;
  for (let i = 0; i < 20_000; i++) {
    const characters = [...whole];
    for (let k = 0; k < 1 + 4 * next(); k++) {
      const at = Math.floor(next() * characters.length);
      // Cut, changed, repeated; with what means something to the format.
      if (next() < 0.3) characters.splice(at, Math.floor(next() * 40));
      else if (next() < 0.5) {
        characters[at] = pick('0123456789-+.eE"= \n\t:RSITF\0∞\u2028');
      } else characters.splice(at, 0, ...characters.slice(at, at + 30));
    }
    try {
      const structures = parseExtxyz(characters.join(""), "data.xyz");
      for (const { positions, forces, species, lattice } of structures) {
        assertEquals(positions.length, 3 * species.length);
        assertEquals(forces.length, 3 * species.length);
        assertEquals(
          [...positions, ...forces, ...lattice].every(Number.isFinite),
          true,
        );
      }
    } catch (error) {
      if (!(error instanceof ExtxyzError)) throw error;
      refused++;
    }
  }
  assertEquals(refused > 5_000 && refused < 20_000, true);
});
