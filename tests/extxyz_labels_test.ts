import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { ExtxyzError } from "../examples/extxyz/error.ts";
import { LABEL_KEYS, type LabelName } from "../examples/extxyz/label_keys.ts";
import { assertRefused, read, structureOf, withComment } from "./extxyz.ts";

const CELL = `Lattice="2 0 0 0 2 0 0 0 2"`;
const NAMES = ["energy", "stress", "virial"] as const;
/** A value of each label, and another one. */
const VALUES = {
  energy: ["-5", "-5.1"],
  stress: ['"1 2 3 4 5 6"', '"1 2 3 4 5 7"'],
  virial: ['"1 2 3 4 5 6"', '"1 2 3 4 5 7"'],
} as const;

Deno.test("ExtxyzFile chooses the first key of the list that a structure has", async () => {
  for (const name of NAMES) {
    const keys = LABEL_KEYS[name];
    for (let k = 0; k < keys.length; k++) {
      // The others stand before it, and in an earlier structure.
      const others = keys.slice(k + 1).map((key) =>
        `${key}=${VALUES[name][0]}`
      );
      const { keys: chosen } = await read(
        withComment([...others, CELL].join(" ")) +
          withComment(`${keys[k]}=${VALUES[name][0]} ${CELL}`),
      );
      assertEquals(chosen[name], keys[k]!);
    }
  }
  const keys = LABEL_KEYS.forces;
  for (let k = 0; k < keys.length; k++) {
    const columns = keys.slice(k).reverse().map((key) => `:${key}:R:3`);
    const { keys: chosen, structures } = await read(withComment(
      `Properties=species:S:1:pos:R:3${columns.join("")}`,
      `Si 0 0 0 ${columns.map((_, c) => `${c} ${c} ${c}`).join(" ")}`,
    ));
    assertEquals(chosen.forces, keys[k]!);
    assertEquals(structures[0]!.forces[0], columns.length - 1);
  }
});

Deno.test("ExtxyzFile takes a structure without the chosen key for one without the label", async () => {
  const { structures, keys } = await read(
    withComment("energy=-1") + withComment("REF_energy=-2 energy=-2"),
  );
  assertEquals(keys.energy, "REF_energy");
  assertEquals(structures.map(({ energy }) => energy), [NaN, -2]);
});

Deno.test("ExtxyzFile chooses keys in exactly their own case, of pairs alone", async () => {
  const { keys } = await read(withComment("Dft_energy=1 ENERGY=2 energy"));
  assertEquals(keys.energy, null);
  // A key that has no number is there all the same, and then an error.
  await assertRefused(
    withComment("REF_energy=none energy=1"),
    2,
    "REF_energy is",
  );
  // Forces are columns, the others are not.
  const other = await read(
    withComment("forces=1 Properties=species:S:1:pos:R:3:stress:R:3"),
  );
  assertEquals([other.keys.forces, other.keys.stress], [null, null]);
});

Deno.test("ExtxyzFile takes the keys that it is told, and them alone", async () => {
  const content = withComment(
    `my_energy=-3 energy=-1 my_stress="1 1 1 0 0 0" stress="2 2 2 0 0 0" ` +
      `virial="8 8 8 0 0 0" ${CELL} Properties=species:S:1:pos:R:3:F:R:3:forces:R:3`,
    "Si 0 0 0 1 2 3 4 5 6",
  ) + withComment(`energy=-1 virial="8 8 8 0 0 0" ${CELL}`);
  const { structures, keys, warnings } = await read(content, {
    energyKey: "my_energy",
    forcesKey: "F",
    stressKey: "my_stress",
  });
  assertEquals(keys, {
    energy: "my_energy",
    forces: "F",
    stress: "my_stress",
    virial: "virial",
  });
  assertEquals(structures.map(({ energy }) => energy), [-3, NaN]);
  assertEquals([...structures[0]!.forces], [1, 2, 3]);
  // No virial fills in for a stress that has been asked for by its key.
  assertEquals(structures.map(({ stress }) => stress[0]), [1, NaN]);
  assert(!warnings.some((text) => /not the same/.test(text)), `${warnings}`);
  for (
    const options of [
      { energyKey: "Energy" },
      { forcesKey: "my_energy" },
      { stressKey: "F" },
    ]
  ) {
    await assertRejects(
      () => read(content, options),
      ExtxyzError,
      "no structure has the",
    );
  }
});

Deno.test("ExtxyzFile tells an error of the file rather than that it does not know a key", async () => {
  await assertRefused(`${withComment("")}what\n`, 4, "what", {
    energyKey: "E",
  });
});

Deno.test("ExtxyzFile reads an energy from any way of writing a number", async () => {
  for (
    const value of [
      ...["-5", "-5.0", "-5.", "-0.5d1", '"-5"', "' -5 '", "{-5}", "[-5]"],
      ...['"_JSON -5"', "{_JSON -5}", '"[-5.0]"', "-5 eV", '",-5"'],
    ]
  ) assertEquals((await structureOf(`energy=${value}`)).energy, -5, value);
  for (
    const value of [
      ...["-1.5x", '"-5 eV"', "-5.0eV", '"1 2"', '""', "None", "null", "T"],
      ...["1_000", "0x10", "********", "", '"nan 1"', "{'-5'}"],
    ]
  ) await assertRefused(withComment(`energy=${value}`), 2, "energy is");
});

Deno.test("ExtxyzFile has no label where a number is not finite", async () => {
  for (const bad of ["nan", "-inf", "1e999"]) {
    const structure = await structureOf(
      `energy=${bad} stress="1 2 3 4 5 ${bad}" ${CELL} ` +
        "Properties=species:S:1:pos:R:3:forces:R:3",
      `Si 0 0 0 1 2 ${bad}`,
      "Si 1 1 1 1 2 3",
    );
    assertEquals(structure.energy, NaN);
    assertEquals([...structure.stress], Array(6).fill(NaN));
    // The other atom has its force.
    assertEquals([...structure.forces], [1, 2, NaN, 1, 2, 3]);
  }
  // A word that is no number beside one that is not finite is an error.
  await assertRefused(
    withComment(`stress="nan 2 3 4 5 x" ${CELL}`),
    2,
    "stress is",
  );
});

Deno.test("ExtxyzFile reads stresses of nine numbers and of six in Voigt's order", async () => {
  const expected = [1, 2, 3, 4, 5, 6];
  for (
    const value of [
      '"1 6 5 6 2 4 5 4 3"',
      '"1, 6, 5, 6, 2, 4, 5, 4, 3"',
      "[[1, 6, 5], [6, 2, 4], [5, 4, 3]]",
      '"_JSON [[1, 6, 5], [6, 2, 4], [5, 4, 3]]"',
      "{1 6 5 6 2 4 5 4 3}",
      '"1 2 3 4 5 6"',
      "[1, 2, 3, 4, 5, 6]",
      // Not symmetric: the mean with its transpose.
      '"1 5 4 7 2 1 6 7 3"',
    ]
  ) {
    for (const key of LABEL_KEYS.stress) {
      const { stress } = await structureOf(`${key}=${value}`);
      assertEquals([...stress], expected, value);
    }
    for (const key of LABEL_KEYS.virial) {
      const { stress } = await structureOf(`${key}=${value} ${CELL}`);
      assertEquals([...stress], expected.map((x) => -x / 8), value);
    }
  }
  for (const value of ['"1 2 3 4 5 6 7"', "5", '"1 2 3 4 5 6 eV"', "", "T"]) {
    await assertRefused(withComment(`stress=${value}`), 2, "stress is");
    await assertRefused(withComment(`virial=${value}`), 2, "virial is");
  }
});

Deno.test("ExtxyzFile fills a missing stress in by a virial where there is a volume", async () => {
  const virial = 'REF_virial="8 8 8 0 0 0"';
  const first = async (comment: string): Promise<number> =>
    (await structureOf(comment)).stress[0]!;
  assertEquals(await first(`${virial} ${CELL}`), -1);
  assertEquals(await first(`${virial} ${CELL} stress="2 2 2 0 0 0"`), 2);
  assertEquals(await first(`${virial} ${CELL} stress="nan 2 2 0 0 0"`), -1);
  assertEquals(await first(`${virial} ${CELL} pbc="T T F"`), NaN);
  assertEquals(await first(virial), NaN);
  assertEquals(await first(`REF_virial="inf 8 8 0 0 0" ${CELL}`), NaN);
});

Deno.test("ExtxyzFile warns where two keys for one thing are not the same", async () => {
  for (const name of NAMES) {
    const keys = LABEL_KEYS[name];
    const [value, other] = VALUES[name];
    const warned = async (first: string, second: string): Promise<boolean> => {
      const { warnings } = await read(withComment(
        `${keys[0]}=${first} ${keys.at(-1)}=${second} ${CELL}`,
      ));
      return warnings.some((text) =>
        text.includes(`${keys[0]} and ${keys.at(-1)} are not the same ${name}`)
      );
    };
    assertEquals(await warned(value, other), true);
    assertEquals(await warned(value, value), false);
    assertEquals(await warned(value, value.replace("5", "5.000000001")), false);
    assertEquals(await warned(value, value.replace("5", "5.001")), true);
    // Numbers are compared, not texts, and only finite ones.
    assertEquals(await warned(value, value.replace("5", "5.0e0")), false);
    for (const none of ["nan", "none", '"1 2"']) {
      assertEquals(await warned(value, none), false);
    }
    const zero = name === "energy" ? "0" : '"0 0 0 0 0 0"';
    assertEquals(
      await warned(zero, name === "energy" ? "1e-9" : '"0 0 0 0 0 1e-9"'),
      true,
    );
  }
  // Compared as 3×3.
  const same = await read(withComment(
    `REF_stress="1 2 3 4 5 6" stress="1 6 5 6 2 4 5 4 3"`,
  ));
  assertEquals(same.warnings, []);
  const forces = async (...values: readonly string[]): Promise<boolean> => {
    const { warnings } = await read(
      withComment(
        "Properties=species:S:1:pos:R:3:forces:R:3:REF_forces:R:3",
        ...values.map((value) => `Si 0 0 0 ${value}`),
      ),
    );
    return warnings.some((text) => /REF_forces and forces/.test(text));
  };
  assertEquals(await forces("1 2 3 1 2 3", "1 2 3.0 1 2 3"), false);
  assertEquals(await forces("1 2 3 1 2 3", "1 2 3 1 2 4"), true);
  assertEquals(await forces("1 2 3 1 2 3", "1 nan 3 1 2 4"), false);
  assertEquals(await forces("1 2 3 1 2 3", "1 none 3 1 2 4"), false);
});

Deno.test("ExtxyzFile warns of nothing else in a file that is as it should be", async () => {
  const { warnings } = await read(
    withComment(
      `energy=-1 ${CELL} config_type=bulk energy_weight=100 config_weight=2 ` +
        `flag energy_sigma=0.1 stress="1 2 3 4 5 6" note="a=b c" pbc="T T T"`,
    ).repeat(2),
  );
  assertEquals(warnings, []);
});

Deno.test("ExtxyzFile warns of labels that some lack, of none, and of what is not clear", async () => {
  for (
    const [content, warning] of [
      [
        withComment("energy=1") + withComment(""),
        /1 of 2 structures have energy/,
      ],
      [withComment(""), /no energy, forces or stress/],
      [withComment("E_total=-4"), /--energy-key E_total/],
      [withComment("energy=1 energy=2"), /energy is given twice/],
      [withComment('energy=1 note="x'), /" does not close/],
    ] as const
  ) assertMatch((await read(content)).warnings.join("\n"), warning);
});

Deno.test("ExtxyzFile reads config_type as it stands, a JSON string unpacked", async () => {
  const type = async (value: string): Promise<string | undefined> =>
    (await structureOf(`config_type=${value}`)).configType;
  assertEquals(await type('"bulk fcc, 300 K"'), "bulk fcc, 300 K");
  assertEquals(await type("bulk"), "bulk");
  assertEquals(await type("5"), "5");
  assertEquals(await type('{_JSON "a b"}'), "a b");
  assertEquals(await type("{_JSON [1]}"), "_JSON [1]");
  assertEquals(await type(""), "");
  assertEquals(
    (await structureOf("Config_type=a config_type")).configType,
    undefined,
  );
});

Deno.test("ExtxyzFile reads weights as MACE does, and they are never an error", async () => {
  const weights = async (comment: string): Promise<number[]> =>
    Object.values((await structureOf(comment)).weights);
  assertEquals(await weights("energy_weight=7"), [1, 1, 1]);
  assertEquals(
    await weights(
      "config_weight=2 config_energy_weight=3 config_forces_weight=0",
    ),
    [6, 0, 2],
  );
  assertEquals(await weights("config_stress_weight=much"), [1, 1, NaN]);
});

Deno.test("LABEL_KEYS are all known once", () => {
  for (
    const name of ["energy", "forces", "stress", "virial"] satisfies LabelName[]
  ) {
    assertEquals(new Set(LABEL_KEYS[name]).size, LABEL_KEYS[name].length);
  }
});
