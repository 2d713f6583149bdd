/**
 * Writes structures as extended XYZ, as ASE reads them: every number comes back
 * to the bit.
 *
 * @module
 */

import type { Prediction } from "../potential/descriptors.ts";
import type { Structure } from "../potential/structure.ts";
import { SYMBOLS } from "./elements.ts";

/**
 * The text of a structure, with an energy, forces and, where it has one, a
 * stress under the names that ASE has for results of a calculator.
 */
export function formatStructure(
  { numbers, lattice, periodic, positions, configType }: Pick<
    Structure,
    "numbers" | "lattice" | "periodic" | "positions" | "configType"
  >,
  { energy, forces, stress }: Prediction,
): string {
  const pairs: [string, string | number][] = [];
  if (lattice.some((x) => x !== 0)) pairs.push(["Lattice", lattice.join(" ")]);
  pairs.push(["Properties", "species:S:1:pos:R:3:forces:R:3"]);
  if (configType !== undefined) pairs.push(["config_type", configType]);
  pairs.push(["energy", energy]);
  if (!Number.isNaN(stress[0]!)) {
    const [xx, yy, zz, yz, xz, xy] = stress;
    pairs.push(["stress", [xx, xy, xz, xy, yy, yz, xz, yz, zz].join(" ")]);
  }
  pairs.push(["pbc", periodic.map((flag) => flag ? "T" : "F").join(" ")]);

  const lines = [
    String(numbers.length),
    pairs.map(([key, value]) => `${key}=${quoted(value)}`).join(" "),
  ];
  numbers.forEach((z, i) => {
    const [from, to] = [3 * i, 3 * i + 3];
    lines.push(
      [
        SYMBOLS[z],
        ...positions.subarray(from, to),
        ...forces.subarray(from, to),
      ].join(" "),
    );
  });
  return lines.join("\n") + "\n";
}

/** A value in quotes unless it is a number; as JSON where it does not fit a line. */
function quoted(value: string | number): string {
  if (typeof value === "number") return String(value);
  const text = /^_JSON |[\r\n]/.test(value)
    ? `_JSON ${JSON.stringify(value)}`
    : value;
  return `"${text.replaceAll(/["\\]/g, "\\$&")}"`;
}
