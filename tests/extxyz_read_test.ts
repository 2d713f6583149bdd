import { assertEquals, assertRejects } from "@std/assert";
import { ExtxyzError } from "../examples/extxyz/error.ts";
import { SYMBOLS } from "../examples/extxyz/elements.ts";
import { ExtxyzFile } from "../examples/extxyz/read.ts";
import { assertRefused, read, structureOf, withComment } from "./extxyz.ts";
import { withFolder } from "./system.ts";

const CELL = `Lattice="4 0 0 0 5 0 1 0 6"`;
const COLUMNS = "Properties=species:S:1:pos:R:3:forces:R:3";
const FILE = `2
${CELL} ${COLUMNS} energy=-9.5 pbc="T T F"
Si 0 0 0 0.1 -0.2 3e-1
O 1.5 1.5 1.5 -.1 +0.2 -0.3
`;

// --- Lines. ------------------------------------------------------------------

Deno.test("ExtxyzFile reads every structure of a file", async () => {
  const { structures, warnings } = await read(FILE + FILE);
  assertEquals(structures.length, 2);
  assertEquals(warnings, []);
  const [first, second] = structures;
  assertEquals(first!.source.replace(/.*:/, ""), "1");
  assertEquals(second!.source.replace(/.*:/, ""), "5");
  assertEquals([...first!.numbers], [14, 8]);
  assertEquals([...first!.lattice], [4, 0, 0, 0, 5, 0, 1, 0, 6]);
  assertEquals(first!.periodic, [true, true, false]);
  assertEquals([...first!.positions], [0, 0, 0, 1.5, 1.5, 1.5]);
  assertEquals(first!.energy, -9.5);
  assertEquals([...first!.forces], [0.1, -0.2, 0.3, -0.1, 0.2, -0.3]);
  assertEquals({ ...second, source: "" }, { ...first!, source: "" });
});

Deno.test("ExtxyzFile reads the same from any ends of lines, blanks and a byte order mark", async () => {
  const data = async (content: string | Uint8Array): Promise<unknown[]> =>
    (await read(content)).structures.map((s) => ({ ...s, source: "" }));
  const expected = await data(FILE + FILE);
  for (
    const content of [
      (FILE + FILE).replaceAll("\n", "\r\n"),
      FILE + FILE.replaceAll("\n", "\r\n"),
      (FILE + FILE).trimEnd(),
      `\uFEFF${FILE}${FILE}`,
      `\n \t\n${FILE}\n\n\r\n${FILE}\n  \n`,
      (FILE + FILE).replaceAll(/^|$/gm, " \t ").replaceAll(
        / (?=[\d.+-])/g,
        "\t  ",
      ),
      await gzip(FILE + FILE),
    ]
  ) assertEquals(await data(content), expected);
});

Deno.test("ExtxyzFile takes the line after the number for the comment, blank too", async () => {
  const { structures, keys } = await read("1\n\nSi 1 2 3\n");
  const [{ periodic, positions, energy, lattice }] = structures as [
    typeof structures[0],
  ];
  assertEquals(periodic, [false, false, false]);
  assertEquals([...positions], [1, 2, 3]);
  assertEquals(energy, NaN);
  assertEquals([...lattice], Array(9).fill(0));
  assertEquals(keys, {
    energy: null,
    forces: null,
    stress: null,
    virial: null,
  });
  // Plain XYZ with any comment.
  const plain = await read('1\nwater, 1\xe9 "quoted\nO 1 2 3\n');
  assertEquals([...plain.structures[0]!.numbers], [8]);
});

Deno.test("ExtxyzFile replaces bytes that are no UTF-8", async () => {
  const bytes = new TextEncoder().encode(
    withComment("note=x energy=-5 config_type=?"),
  ).map((byte) => byte === 63 ? 0xff : byte);
  const { structures } = await read(bytes);
  assertEquals(structures[0]!.configType, "\ufffd");
  assertEquals(structures[0]!.energy, -5);
});

Deno.test("ExtxyzFile reads lines that are longer than what is in memory", async () => {
  const { structures } = await read(
    withComment(`note="${"x".repeat(3_000_000)}" energy=-5`) + FILE,
  );
  assertEquals(structures.map(({ energy }) => energy), [-5, -9.5]);
});

Deno.test("ExtxyzFile reads a file that is larger than what is in memory", async () => {
  const { structures } = await read(FILE.repeat(20_000));
  assertEquals(structures.length, 20_000);
  assertEquals(structures.at(-1)!.source.replace(/.*:/, ""), "79997");
  assertEquals([...structures.at(-1)!.positions], [0, 0, 0, 1.5, 1.5, 1.5]);
});

Deno.test("ExtxyzFile refuses what is no structure", async () => {
  const lines = FILE.trimEnd().split("\n");
  const [, comment, one, two] = lines;
  await assertRefused(`1\n${comment}\n${one}\n${two}`, 4, "a number of atoms");
  await assertRefused(`3\n${comment}\n${one}\n${two}`, 4, "ends after 2 of 3");
  await assertRefused(
    `3\n${FILE.slice(2)}${FILE}`,
    5,
    "number of atoms is wrong",
  );
  for (const count of ["0", "-2", "+2", "2.0", "2 atoms", "2,", "2e0", "1_0"]) {
    await assertRefused(`${count}\n${FILE.slice(2)}`, 1, "atoms");
  }
  await assertRefused(
    "9".repeat(400) + `\n${FILE.slice(2)}`,
    4,
    "ends after 2",
  );
  await assertRefused(`${FILE}VEC1 1 0 0\n`, 5, "VEC1");
  await assertRefused("2", 1, "the file ends here");
  await assertRefused(`2\n${comment}\n`, 2, "ends after 0 of 2");
  await assertRefused(`2\n${comment}\n${one}\n\n${two}\n`, 4, "a blank line");
  await assertRefused(
    `2\n${comment}\n${one}\nO 1 2\n`,
    4,
    "3 columns, expected 7",
  );
  for (const content of ["", "\n", " \n\t\n\r\n"]) {
    await assertRejects(() => read(content), ExtxyzError, "no structure");
  }
});

Deno.test("ExtxyzFile refuses a file that cannot be read", async () => {
  await assertRejects(
    () => ExtxyzFile.open("/no/such/file.xyz"),
    ExtxyzError,
    "/no/such/file.xyz: cannot be read",
  );
  await withFolder(async (folder) => {
    await assertRejects(
      () => ExtxyzFile.open(folder),
      ExtxyzError,
      "no regular file",
    );
  });
  const whole = await gzip(FILE.repeat(100));
  for (const damaged of [whole.subarray(0, -20), whole.with(30, 0xff)]) {
    await assertRejects(() => read(damaged), ExtxyzError);
  }
});

Deno.test("ExtxyzFile reads all members of a gzip file, and leaves it early", async () => {
  const text = FILE.repeat(50);
  const members = [0, 17, 17, 1000, text.length] // one of nothing, others cut in lines
    .map((end, k, ends) => gzip(text.slice(ends[k - 1] ?? 0, end)));
  const joined = (...more: Uint8Array<ArrayBuffer>[]): Promise<Uint8Array> =>
    Promise.all(members).then((all) => new Blob([...all, ...more]).bytes());
  const { structures } = await read(await joined());
  const expected = await read(text);
  assertEquals(
    structures.map((one) => ({ ...one, source: "" })),
    expected.structures.map((one) => ({ ...one, source: "" })),
  );
  assertEquals(structures.length, 50);
  // Zeros fill up the blocks of a tape.
  const padded = await read(await joined(new Uint8Array(512)));
  assertEquals(padded.structures.length, structures.length);
  await assertRejects(
    async () => await read(await joined(new Uint8Array([1, 2, 3]))),
    ExtxyzError,
    "cannot be read",
  );
  await withFolder(async (folder) => {
    const path = `${folder}/data.xyz.gz`;
    await Deno.writeFile(path, await gzip(FILE.repeat(20_000)));
    for await (const _ of (await ExtxyzFile.open(path)).structures()) break;
  });
});

async function gzip(text: string): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([text]).stream()
    .pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// --- Cell and periodicity. -----------------------------------------------------

Deno.test("ExtxyzFile reads Lattice in every way that it is written", async () => {
  const expected = [4, 0, 0, 0, 5, 0, 1, 0, -6]; // left-handed
  for (
    const value of [
      '"4 0 0 0 5 0 1 0 -6"',
      "'4 0 0 0 5 0 1 0 -6'",
      "{4 0 0 0 5 0 1 0 -6}",
      "[4,0,0,0,5,0,1,0,-6]",
      '"4, 0, 0, 0, 5, 0, 1, 0, -6"',
      "[[4, 0, 0], [0, 5, 0], [1, 0, -6]]",
      '"_JSON [[4, 0, 0], [0, 5, 0], [1, 0, -6]]"',
      "{_JSON [[4, 0, 0], [0, 5, 0], [1, 0, -6]]}",
      '"4d0 0. .0 0 5e0 0 1 0 -0.6D1"',
    ]
  ) {
    for (const key of ["Lattice", "lattice", "LATTICE"]) {
      const { lattice, periodic } = await structureOf(`${key}=${value}`);
      assertEquals([...lattice], expected);
      assertEquals(periodic, [true, true, true]);
    }
  }
});

Deno.test("ExtxyzFile refuses a Lattice that is none, whatever pbc says", async () => {
  for (
    const value of [
      ...['"4 0 0 0 5 0 1 0"', '"4 0 0 0 5 0 1 0 6 7"', '"4 0 0 0 5 0 1 0 x"'],
      ...['"4 0 0 0 5 0 1 0 nan"', '"inf 0 0 0 5 0 1 0 6"', '""', "4 0 0"],
      ...['"1e999 0 0 0 5 0 1 0 6"', "null", '["4" 0 0 0 5 0 1 0 6]'],
    ]
  ) {
    await assertRefused(withComment(`Lattice=${value}`), 2, "Lattice is");
    await assertRefused(withComment(`Lattice=${value} pbc=F`), 2, "Lattice is");
  }
});

Deno.test("ExtxyzFile reads pbc in every way that it is written", async () => {
  const flags = async (value: string): Promise<readonly boolean[]> =>
    (await structureOf(`${CELL} pbc=${value}`)).periodic;
  for (
    const value of [
      ...['"T F T"', '"true, false, true"', "[True False True]", '"1 0 1"'],
      ...["{TRUE FALSE TRUE}", '"_JSON [true, false, true]"', "T,F,T"],
    ]
  ) assertEquals(await flags(value), [true, false, true], value);
  assertEquals(await flags("T"), [true, true, true]);
  assertEquals(await flags("0"), [false, false, false]);
  assertEquals(await flags("T F F"), [true, true, true]); // two more flags of the line
  assertEquals((await structureOf(`${CELL} PBC="F F F"`)).periodic[0], false);
  for (
    const value of [
      ...['"T T"', '"T T T T"', "t", "yes", '"T T 2"', '""', "tRUE", "None"],
      ...['"T T constructor"', "no"],
    ]
  ) {
    await assertRefused(withComment(`${CELL} pbc=${value}`), 2, "pbc is");
  }
});

Deno.test("ExtxyzFile is periodic without pbc if there is a lattice", async () => {
  const periodic = async (comment: string): Promise<readonly boolean[]> =>
    (await structureOf(comment)).periodic;
  assertEquals(await periodic(CELL), [true, true, true]);
  assertEquals(await periodic("a=1"), [false, false, false]);
  assertEquals(await periodic(`${CELL} pbc`), [true, true, true]); // a flag
  const zeros = `Lattice="0 0 0 0 0 0 0 0 0"`;
  assertEquals(await periodic(zeros), [false, false, false]);
  await assertRefused(
    withComment(`${zeros} pbc="T T T"`),
    2,
    "expected a Lattice",
  );
  await assertRefused(withComment("pbc=T"), 2, "expected a Lattice");
  await assertRefused(withComment('pbc="F F T"'), 2, "along c");
});

Deno.test("ExtxyzFile refuses periodic directions whose vectors are dependent", async () => {
  const bad = [
    ["4 0 0 0 5 0 0 0 0", "T T T"], // c is zero
    ["4 0 0 8 0 0 0 0 6", "T T F"], // parallel
    ["1 1 0 0 1 1 1 2 1", "T T T"], // in one plane
    ["0.1 0.2 0.3 0.3 0.6 0.9 0 0 1", "T T F"], // to rounding
    ["0 0 0 0 5 0 0 0 6", "T F F"],
    ["1e-200 0 0 1e-200 1e-210 0 0 0 1", "T T T"],
  ] as const;
  for (const [lattice, pbc] of bad) {
    await assertRefused(
      withComment(`Lattice="${lattice}" pbc="${pbc}"`),
      2,
      "Lattice",
    );
  }
  const good = [
    ["4 0 0 0 5 0 0 0 0", "T T F"],
    ["4 0 0 8 0 0 0 0 6", "F T T"],
    ["0 0 0 0 0 0 0 0 6", "F F T"],
    ["1 0 0 1 1e-7 0 0 0 1", "T T T"], // flat, but not to rounding
    ["1e-200 0 0 0 1e-200 0 0 0 1e-200", "T T T"],
    ["1e200 0 0 0 1e200 0 0 0 1e200", "T T T"],
  ] as const;
  for (const [lattice, pbc] of good) {
    await structureOf(`Lattice="${lattice}" pbc="${pbc}"`);
  }
});

// --- Columns. --------------------------------------------------------------------

Deno.test("ExtxyzFile finds columns by name, in another order in each structure", async () => {
  const { structures } = await read(
    withComment("Properties=forces:R:3:pos:R:3:species:S:1", "1 2 3 4 5 6 Ge") +
      withComment(
        'properties="id:I:1:symbols:s:1:tags:L:2:positions:r:3:forces:i:3" ',
        "7 Si T F 4 5 6 1 2 3 more of it",
      ) +
      withComment("", "C 4 5 6"),
  );
  assertEquals(structures.map(({ numbers }) => numbers[0]), [32, 14, 6]);
  for (const { positions } of structures) {
    assertEquals([...positions], [4, 5, 6]);
  }
  assertEquals([...structures[1]!.forces], [1, 2, 3]);
  assertEquals([...structures[2]!.forces], [NaN, NaN, NaN]);
});

Deno.test("ExtxyzFile prefers Z to species and the usual of two names", async () => {
  const number = async (columns: string, atom: string): Promise<number> =>
    (await structureOf(`Properties=${columns}:pos:R:3`, `${atom} 0 0 0`))
      .numbers[0]!;
  assertEquals(await number("species:S:1:Z:I:1", "H 14"), 14);
  assertEquals(await number("Z:R:1", "14.0"), 14);
  assertEquals(await number("numbers:I:1", "1.4e1"), 14);
  assertEquals(await number("numbers:I:1:Z:I:1", "1 2"), 2);
  assertEquals(await number("symbols:S:1:species:S:1", "H He"), 2);
  const { positions } = await structureOf(
    "Properties=species:S:1:positions:R:3:pos:R:3",
    "Si 1 2 3 4 5 6",
  );
  assertEquals([...positions], [4, 5, 6]);
});

Deno.test("ExtxyzFile knows every element in any case", async () => {
  assertEquals(SYMBOLS.length, 119);
  for (const change of ["toString", "toLowerCase", "toUpperCase"] as const) {
    const { structures } = await read(
      withComment("", ...SYMBOLS.slice(1).map((s) => `${s[change]()} 0 0 0`)),
    );
    assertEquals(
      [...structures[0]!.numbers],
      SYMBOLS.slice(1).map((_, i) => i + 1),
    );
  }
  for (const bad of ["X", "Xq", "14", "Si1", "\u212a", "D", "-", "Sı"]) {
    await assertRefused(
      withComment("", "Si 0 0 0", `${bad} 0 0 0`),
      4,
      "element",
    );
  }
  for (const bad of ["0", "119", "-1", "1.5", "Si", "nan", "1e3", "length"]) {
    await assertRefused(
      withComment("Properties=Z:I:1:pos:R:3", `${bad} 0 0 0`),
      3,
      "an atomic number is",
    );
  }
});

Deno.test("ExtxyzFile refuses Properties that are no list of columns to read", async () => {
  for (
    const bad of [
      ...["", "species", "species:S:1:pos:R", "species:S:0:pos:R:3", "::"],
      ...[
        "species:S:1:pos:R:3:",
        "species:X:1:pos:R:3",
        "species:S:-1:pos:R:3",
      ],
      ...["species:S:1:pos:R:1.5", ":S:1:species:S:1:pos:R:3"],
      ...["species:S:1:pos:R:3:a:R:1:a:R:1", "species:S:1:pos:R:3:pos:R:3"],
      ...["species:S:1", "pos:R:3", "species:S:2:pos:R:3", "Z:S:1:pos:R:3"],
      ...["species:S:1:pos:R:2", "species:S:1:pos:S:3", "species:S:1:pos:L:3"],
      ...["species:S:1:pos:R:3:forces:R:2", "species:S:1:pos:R:3:forces:S:3"],
      ...["species:I:1:pos:R:3"],
    ]
  ) {
    await assertRefused(
      withComment(`Properties="${bad}"`, "Si 0 0 0 0 0 0"),
      [1, 2],
      "",
    );
  }
});

Deno.test("ExtxyzFile counts columns that nothing asks for, and does not look at them", async () => {
  const { structures } = await read(
    withComment(
      "Properties=species:S:1:x:R:2:pos:R:3:y:L:1:z:I:1:w:S:1 energy=1",
      "Si no number 1 2 3 maybe 1.5 ********",
    ),
  );
  assertEquals([...structures[0]!.positions], [1, 2, 3]);
});

Deno.test("ExtxyzFile refuses an atom's number that is none, or a position that is not finite", async () => {
  for (
    const bad of ["abc", "0x10", "1,5", "1_000", "--1", "1.2.3", "********"]
  ) {
    await assertRefused(
      withComment(COLUMNS, "Si 0 0 0 0 0 0", `Si 1 2 ${bad} 0 0 0`),
      4,
      `a position is ${JSON.stringify(bad)}`,
    );
    await assertRefused(
      withComment(COLUMNS, `Si 1 2 3 0 ${bad} nan`),
      3,
      `a force is ${JSON.stringify(bad)}`,
    );
  }
  for (const bad of ["nan", "-inf", "Infinity", "1e999"]) {
    await assertRefused(withComment("", `Si 1 2 ${bad}`), 3, "a position is");
  }
});
