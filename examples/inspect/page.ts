/**
 * What is in a data set, as a page for people.
 *
 * @module
 */

import type { Details, Table } from "./table.ts";

/** Values so many times the usual distance from the median are far from the others. */
const FAR = 8;
/** No more of them, and of copies, are listed. */
const MAX_LISTED = 5;

/** The page of one file. */
export function pageOf(path: string, table: Table, details: Details): string {
  const { structures, atoms, periodic, keys, labels, configTypes } = table;
  const sizes = range(details.atomCounts, 0);
  const missing = (["energy", "forces", "stress"] as const)
    .filter((name) => labels[name] < structures)
    .map((name) => `${structures - labels[name]} without ${name}`);
  const stressKey = [
    keys.stress,
    keys.virial === null ? null : `−${keys.virial}/volume`,
  ].filter((key) => key !== null).join(", else ");
  const rows: (readonly [string, string])[] = [
    ["structures", `${structures} of ${sizes} atoms, ${atoms} in all`],
    ["elements", counts(table.elements)],
    [
      "periodic",
      [
        [periodic.all, "in 3 directions"],
        [periodic.some, "in 1 or 2"],
        [periodic.none, "in none"],
      ].filter(([count]) => count !== 0).map((part) => part.join(" "))
        .join(", "),
    ],
    ["energy", label(keys.energy, labels.energy, structures)],
    ["forces", label(keys.forces, labels.forces, structures)],
    ["stress", label(stressKey || null, labels.stress, structures)],
    ["missing", missing.join(", ") || "nothing"],
    ["config types", counts(configTypes) || "none"],
  ];
  const perAtom = (values: readonly (number | null)[]): (number | null)[] =>
    values.map((x, i) => x === null ? null : x / details.atomCounts[i]!);
  for (
    const [name, unit, values] of [
      ["energy", "eV/atom", perAtom(table.energies)],
      ["largest force", "eV/Å", details.largestForces],
      ["stress norm", "eV/Å³", table.stressNorm],
      ["volume", "Å³/atom", perAtom(table.volumes)],
    ] as const
  ) {
    const own = values.filter((x) => x !== null);
    if (own.length === 0) continue;
    rows.push([name, `${range(own)} ${unit}`]);
    const far = farFromOthers(values);
    for (const i of far.slice(0, MAX_LISTED)) {
      rows.push([
        "",
        `far off: ${values[i]!.toPrecision(6)} at ${details.sources[i]}`,
      ]);
    }
    if (far.length > MAX_LISTED) {
      rows.push(["", `and ${far.length - MAX_LISTED} more far off`]);
    }
  }
  const copies = [...details.copies];
  rows.push([
    "copies",
    copies.length === 0 ? "none" : `${copies.length} structures`,
  ]);
  for (const [copy, first] of copies.slice(0, MAX_LISTED)) {
    rows.push([
      "",
      `${details.sources[copy]} is ${details.sources[first]} again`,
    ]);
  }
  return [
    path,
    ...rows.map(([name, text]) => `  ${name.padEnd(13)}  ${text}`),
  ].join("\n");
}

function label(key: string | null, count: number, all: number): string {
  return key === null ? "none" : `${count} of ${all}, by ${key}`;
}

function counts(record: Readonly<Record<string, number>>): string {
  return Object.entries(record).map(([name, n]) => `${name} ${n}`).join(", ");
}

/** From the least to the largest. */
function range(values: readonly number[], digits?: number): string {
  let [least, largest] = [Infinity, -Infinity];
  for (const x of values) {
    least = Math.min(least, x);
    largest = Math.max(largest, x);
  }
  const [low, high] = [least, largest].map((x) =>
    digits === undefined ? x.toPrecision(6) : x.toFixed(digits)
  );
  return low === high ? low! : `${low} to ${high}`;
}

/** Which values are far from the others, the farthest first. */
function farFromOthers(values: readonly (number | null)[]): number[] {
  const own = values.filter((x) => x !== null);
  const center = median(own);
  const usual = 1.4826 * median(own.map((x) => Math.abs(x - center)));
  if (!(usual > 0)) return [];
  const distance = (i: number): number => Math.abs(values[i]! - center);
  return values
    .flatMap((x, i) => x !== null && distance(i) > FAR * usual ? [i] : [])
    .sort((a, b) => distance(b) - distance(a));
}

function median(values: readonly number[]): number {
  const sorted = Float64Array.from(values).sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? sorted[half]!
    : (sorted[half - 1]! + sorted[half]!) / 2;
}
