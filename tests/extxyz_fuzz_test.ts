import { assert, assertEquals } from "@std/assert";
import { ExtxyzError } from "../examples/extxyz/error.ts";
import { read } from "./extxyz.ts";
import { seeded } from "./random.ts";

const GOOD = [
  `2
Lattice="4 0 0 0 5 0 1 0 6" Properties=species:S:1:pos:R:3:forces:R:3 energy=-9.5 pbc="T T F"
Si 0 0 0 0.1 -0.2 3e-1
O 1.5 1.5 1.5 -.1 +0.2 -0.3
`,
  `1
Lattice=[[3, 0, 0], [0, 3, 0], [0, 0, 3]] Properties=id:I:1:Z:I:1:pos:R:3:REF_forces:R:3 REF_energy="-5" virials={_JSON [[1, 2, 3], [2, 1, 3], [3, 3, 1]]} config_type='a "b"'
7 14 0.25 0.125 1d-1 nan 0 1
`,
  `3
water's comment, energy = -14.25 note="" stress="1 2 3 4 5 6"
O 0 0 0
H 0.96 0 0
H -0.24 0.93 0 0
`,
];

/** What a structure may hold after any edit. */
function assertSound({ structures }: Awaited<ReturnType<typeof read>>): void {
  for (const structure of structures) {
    const { numbers, positions, forces, lattice, stress, periodic } = structure;
    assert(numbers.length > 0);
    assertEquals(positions.length, 3 * numbers.length);
    assertEquals(forces.length, 3 * numbers.length);
    assert(numbers.every((z) => z >= 1 && z <= 118));
    assert([...positions, ...lattice].every(Number.isFinite));
    assert(
      [...forces, ...stress, structure.energy].every((x) =>
        Number.isFinite(x) || Number.isNaN(x)
      ),
    );
    if (periodic.some(Boolean)) assert(lattice.some((x) => x !== 0));
  }
}

Deno.test("ExtxyzFile ends every damaged file with its own error, or reads it", async () => {
  const next = seeded(5);
  const below = (n: number): number => Math.floor(next() * n);
  let refused = 0;
  const runs = 4_000;
  for (let i = 0; i < runs; i++) {
    const characters = [...GOOD[below(3)]! + GOOD[below(3)]!];
    for (let k = 0; k < 1 + 3 * next(); k++) {
      const at = below(characters.length);
      const what = next();
      // Cut, changed, repeated; with what means something to the format.
      if (what < 0.3) characters.splice(at, below(40));
      else if (what < 0.7) {
        const special = [
          ..."0123456789-+.eEdD\"'=[]{}\\,_ \n\r\t:RSIT\0∞\u2028",
        ];
        characters[at] = special[below(special.length)]!;
      } else characters.splice(at, 0, ...characters.slice(at, at + below(60)));
    }
    try {
      assertSound(await read(characters.join("")));
    } catch (error) {
      if (!(error instanceof ExtxyzError)) throw error;
      assert(/\.xyz(:\d+)?: /.test(error.message), error.message);
      refused++;
    }
  }
  assert(refused > runs / 4 && refused < runs, `${refused} refused`);
});

Deno.test("ExtxyzFile reads what it is given, whatever else stands in the file", async () => {
  const next = seeded(6);
  const below = (n: number): number => Math.floor(next() * n);
  const pick = <T>(...values: T[]): T => values[below(values.length)]!;
  const number = (): number =>
    Number((20 * next() - 10).toPrecision(1 + below(17)));
  const written = (x: number): string =>
    pick(String(x), x.toExponential(), x.toExponential().replace("e", "D"));
  const list = (numbers: readonly number[]): string => {
    const words = numbers.map(written);
    const [a, b, c] = [0, 3, 6].map((k) => words.slice(k, k + 3).join(", "));
    return pick(
      ...['""', "''", "{}", "[]"].map((q) =>
        q[0]! + words.join(pick(" ", ", ", ",", "  ")) + q[1]
      ),
      ...words.length === 9 ? [`[[${a}], [${b}], [${c}]]`] : [],
      `"_JSON [${words.join(", ")}]"`,
    );
  };
  const junk = (): string =>
    pick(
      "flag",
      "note=x",
      'text="a=1 energy=3"',
      "it's",
      "y= ",
      "[1 {2]",
      "z={}",
    );
  for (let i = 0; i < 300; i++) {
    const atoms = 1 + below(4);
    const energy = number();
    const lattice = [9, 0, 0, 0, 9, 0, 0, 0, 9].map((x) => x + number() / 30);
    const stress = Array.from({ length: 6 }, number);
    const rows = Array.from(
      { length: atoms },
      () => Array.from({ length: 6 }, number),
    );
    const equals = (): string => pick("=", " = ", "= ", "\t=");
    const pairs = [
      `energy${equals()}${written(energy)}`,
      `Lattice${equals()}${list(lattice)}`,
      `stress${equals()}${list(stress)}`,
      "Properties=a:R:1:pos:R:3:species:S:1:forces:R:3:b:S:2",
      ...Array.from({ length: below(4) }, junk),
    ];
    for (let k = pairs.length - 1; k > 0; k--) {
      const j = below(k + 1);
      [pairs[k], pairs[j]] = [pairs[j]!, pairs[k]!];
    }
    const lines = rows.map((row) =>
      ["?", ...row.slice(0, 3).map(written), "si", ...row.slice(3).map(written)]
        .concat(["x", "y", "more"]).join(pick(" ", "\t", "   "))
    );
    const content = [atoms, pairs.join(pick(" ", "\t ")), ...lines]
      .join(pick("\n", "\r\n"));
    const { structures: [structure] } = await read(content);
    assertEquals(structure!.energy, energy, content);
    assertEquals([...structure!.lattice], lattice, content);
    assertEquals([...structure!.stress], stress, content);
    assertEquals([...structure!.positions], rows.flatMap((r) => r.slice(0, 3)));
    assertEquals([...structure!.forces], rows.flatMap((r) => r.slice(3)));
  }
});
