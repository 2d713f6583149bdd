/**
 * What is in a data set, structure by structure.
 *
 * @module
 */

import { volumeOf } from "../extxyz/cell.ts";
import { SYMBOLS } from "../extxyz/elements.ts";
import type { LabelKeys } from "../extxyz/label_keys.ts";
import { hasNaN, norm, stressNorm } from "../extxyz/labels.ts";
import type { ExtxyzFile } from "../extxyz/read.ts";
import type { Structure } from "../potential/structure.ts";

/** The table of a file; of lists, one entry a structure, null where it has none. */
export interface Table {
  structures: number;
  atoms: number;
  /** Atoms of each element. */
  elements: Record<string, number>;
  /** Structures that repeat in 3, in 1 or 2, in 0 directions. */
  periodic: { all: number; some: number; none: number };
  keys: LabelKeys;
  /** Structures that have the label. */
  labels: { energy: number; forces: number; stress: number };
  /** eV */
  energies: (number | null)[];
  /** √Σf² over atoms and components, eV/Å. */
  forcesNorm: (number | null)[];
  /** Frobenius norm of the 3×3, eV/Å³. */
  stressNorm: (number | null)[];
  /** Å³, of structures periodic in three directions. */
  volumes: (number | null)[];
  /** xx yy zz yz xz xy, eV/Å³. */
  stresses: (readonly number[] | null)[];
  /** Σ i·Z·(x + 2y + 3z) over the atoms i from 1, to know them in their order. */
  positionsSum: number[];
  forcesSum: (number | null)[];
  /** Structures of each `config_type`. */
  configTypes: Record<string, number>;
  /** How many there are; their texts are told elsewhere. */
  warnings: number;
}

/** What people want to see beside the table, structure by structure. */
export interface Details {
  /** FILE:LINE */
  readonly sources: string[];
  readonly atomCounts: number[];
  /** The largest force on an atom, eV/Å; null where none has one. */
  readonly largestForces: (number | null)[];
  /** Of which earlier structure it is a copy. */
  readonly copies: Map<number, number>;
}

/** Reads a file and makes its table. */
export async function tabulate(
  file: ExtxyzFile,
): Promise<{ table: Table; details: Details }> {
  const elements = new Map<number, number>();
  const configTypes = new Map<string, number>();
  const table: Table = {
    structures: 0,
    atoms: 0,
    elements: {},
    periodic: { all: 0, some: 0, none: 0 },
    keys: file.keys,
    labels: { energy: 0, forces: 0, stress: 0 },
    energies: [],
    forcesNorm: [],
    stressNorm: [],
    volumes: [],
    stresses: [],
    positionsSum: [],
    forcesSum: [],
    configTypes: {},
    warnings: 0,
  };
  const details: Details = {
    sources: [],
    atomCounts: [],
    largestForces: [],
    copies: new Map(),
  };
  const known = new Map<bigint, number>();

  for await (const structure of file.structures()) {
    const { numbers, lattice, periodic, positions, configType } = structure;
    const { energy, forces, stress } = structure;
    const directions = periodic.filter(Boolean).length;
    table.periodic[
      directions === 3 ? "all" : directions === 0 ? "none" : "some"
    ]++;
    for (const z of numbers) elements.set(z, (elements.get(z) ?? 0) + 1);
    if (configType !== undefined) {
      configTypes.set(configType, (configTypes.get(configType) ?? 0) + 1);
    }

    const hasEnergy = !Number.isNaN(energy);
    const hasForces = !hasNaN(forces);
    const hasStress = !Number.isNaN(stress[0]!);
    table.labels.energy += Number(hasEnergy);
    table.labels.forces += Number(hasForces);
    table.labels.stress += Number(hasStress);
    table.energies.push(hasEnergy ? energy : null);
    table.forcesNorm.push(hasForces ? norm(forces) : null);
    table.stressNorm.push(hasStress ? stressNorm(stress) : null);
    table.volumes.push(directions === 3 ? volumeOf(lattice) : null);
    table.stresses.push(hasStress ? [...stress] : null);
    table.positionsSum.push(weightedSum(numbers, positions));
    table.forcesSum.push(hasForces ? weightedSum(numbers, forces) : null);

    details.sources.push(structure.source);
    details.atomCounts.push(numbers.length);
    details.largestForces.push(largestForce(forces));
    const print = fingerprint(structure);
    const first = known.get(print);
    if (first === undefined) known.set(print, table.structures);
    else details.copies.set(table.structures, first);
    table.structures++;
    table.atoms += numbers.length;
  }

  const inOrder = [...elements].sort(([a], [b]) => a - b);
  table.elements = Object.fromEntries(
    inOrder.map(([z, count]) => [SYMBOLS[z]!, count]),
  );
  table.configTypes = Object.fromEntries(configTypes);
  table.warnings = file.warnings.length;
  return { table, details };
}

function weightedSum(numbers: Uint8Array, vectors: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < numbers.length; i++) {
    sum += (i + 1) * numbers[i]! *
      (vectors[3 * i]! + 2 * vectors[3 * i + 1]! + 3 * vectors[3 * i + 2]!);
  }
  return sum;
}

function largestForce(forces: Float64Array): number | null {
  let largest: number | null = null;
  for (let k = 0; k < forces.length; k += 3) {
    const [x, y, z] = [forces[k]!, forces[k + 1]!, forces[k + 2]!];
    const force = Math.sqrt(x * x + y * y + z * z);
    if (!Number.isNaN(force) && force >= (largest ?? 0)) largest = force;
  }
  return largest;
}

/**
 * A number of 64 bits, the same for structures of the same atoms in the same
 * places, whatever their labels.
 */
function fingerprint(
  { numbers, lattice, periodic, positions }: Structure,
): bigint {
  let [low, high] = [numbers.length, 1];
  const mix = (word: number): void => {
    low = Math.imul(low ^ word, 0x85ebca6b);
    low ^= low >>> 15;
    high = Math.imul(high ^ word, 0xc2b2ae35) + low | 0;
    high ^= high >>> 13;
  };
  for (const flag of periodic) mix(Number(flag));
  for (const z of numbers) mix(z);
  for (const vectors of [lattice, positions]) {
    const words = new Uint32Array(
      vectors.buffer,
      vectors.byteOffset,
      2 * vectors.length,
    );
    for (let k = 0; k < words.length; k++) mix(words[k]!);
  }
  return BigInt(low >>> 0) << 32n | BigInt(high >>> 0);
}
