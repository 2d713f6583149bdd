/**
 * How far predictions are from the labels, where there are labels.
 *
 * @module
 */

import {
  type Device,
  Metrics,
  type ProcessGroup,
  type Tensor,
} from "../../mod.ts";
import { SYMBOLS } from "../extxyz/elements.ts";
import { hasNaN } from "../extxyz/labels.ts";
import type { Prediction } from "./descriptors.ts";
import type { Structure } from "./structure.ts";

/** Errors over structures; NaN where there is nothing to compare. */
export interface Errors {
  /** Mean absolute error of the energies, eV per atom. */
  readonly energyMAE: number;
  /** Mean absolute error of the forces, eV/Å per component. */
  readonly forceMAE: number;
  /** Root of the mean square of the same. */
  readonly forceRMSE: number;
  /** The force MAE for forces predicted to be zero. */
  readonly baselineForceMAE: number;
  /** Mean cosine of the angle between predicted and reference force. */
  readonly forceCosine: number;
  /** Mean absolute error of the stresses, eV/Å³ per component xx … xy. */
  readonly stressMAE: number;
  /** Root of the mean square of the same. */
  readonly stressRMSE: number;
  /** Fraction of structures within 0.02 eV and 0.03 eV/Å, of those with both. */
  readonly energyForcesWithinThreshold: number;
  /** What was compared: structures, atoms, structures. */
  readonly labels: {
    readonly energy: number;
    readonly forces: number;
    readonly stress: number;
  };
}

/** Errors of the forces on the atoms of one element. */
export type ElementErrors =
  & Pick<
    Errors,
    "forceMAE" | "forceRMSE" | "baselineForceMAE" | "forceCosine"
  >
  & {
    /** Atoms with a force. */
    readonly atoms: number;
  };

/** Errors over all structures, and over parts of them. */
export interface ErrorReport extends Errors {
  /** Those of the structures of each `config_type`, "" for those of none. */
  readonly byConfigType: Readonly<Record<string, Errors>>;
  /** By symbol. */
  readonly byElement: Readonly<Record<string, ElementErrors>>;
}

/** A structure and what was predicted for it; maybe no stress. */
export type Predicted = readonly [
  structure: Structure,
  prediction: Omit<Prediction, "stress"> & Partial<Pick<Prediction, "stress">>,
];

/**
 * Adds up the errors of predictions, each replica those of its own. A label that
 * is missing, or an atom without one, does not count.
 */
export class ErrorSums implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #device: Device;
  readonly #group: ProcessGroup | undefined;
  readonly #all: StructureSums;
  readonly #byConfigType = new Map<string, StructureSums>();
  readonly #byElement = new Map<number, ForceSums>();

  /**
   * @param group The replicas, if there are more than one.
   * @param structures With a group: all that the replicas will add, so that each
   * knows of all config types and elements.
   */
  constructor(
    device: Device,
    group?: ProcessGroup,
    structures: readonly Structure[] = [],
  ) {
    this.#device = device;
    this.#group = group;
    this.#all = this.#owned.use(new StructureSums(device, group));
    for (const structure of structures) this.#prepare(structure);
  }

  /** Adds some structures. */
  add(predicted: readonly Predicted[]): void {
    for (const [structure] of predicted) this.#prepare(structure);
    this.#all.add(predicted);
    for (const [type, sums] of this.#byConfigType) {
      sums.add(predicted.filter(([one]) => typeOf(one) === type));
    }
    for (const [z, sums] of this.#byElement) sums.add(predicted, z);
  }

  /** The errors of what all replicas have added. Every replica has to ask. */
  async result(): Promise<ErrorReport> {
    const types: [string, Errors][] = [];
    for (const [type, sums] of this.#byConfigType) {
      types.push([type, await sums.result()]);
    }
    const elements: [string, ElementErrors][] = [];
    for (const [z, sums] of [...this.#byElement].sort(([a], [b]) => a - b)) {
      elements.push([SYMBOLS[z]!, await sums.result()]);
    }
    return {
      ...await this.#all.result(),
      byConfigType: Object.fromEntries(types),
      byElement: Object.fromEntries(elements),
    };
  }

  /** Frees the device memory. */
  [Symbol.dispose](): void {
    this.#owned.dispose();
  }

  /** Makes the sums that a structure needs. */
  #prepare(structure: Structure): void {
    const type = typeOf(structure);
    if (!this.#byConfigType.has(type)) {
      const sums = new StructureSums(this.#device, this.#group);
      this.#byConfigType.set(type, this.#owned.use(sums));
    }
    for (const z of structure.numbers) {
      if (this.#byElement.has(z)) continue;
      const sums = new ForceSums(this.#device, this.#group);
      this.#byElement.set(z, this.#owned.use(sums));
    }
  }
}

/** Sums over the labels of some structures. */
class StructureSums implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #device: Device;
  readonly #energies: Metrics;
  readonly #forces: ForceSums;
  /** Of structures that have both. */
  readonly #both: Metrics;
  readonly #stresses: Metrics;

  constructor(device: Device, group: ProcessGroup | undefined) {
    const metrics = (): Metrics =>
      this.#owned.use(new Metrics(device, group && { group }));
    this.#device = device;
    this.#energies = metrics();
    this.#forces = this.#owned.use(new ForceSums(device, group));
    this.#both = metrics();
    this.#stresses = metrics();
  }

  add(predicted: readonly Predicted[]): void {
    this.#addEnergies(predicted);
    this.#forces.add(predicted);
    this.#addBoth(predicted);
    this.#addStresses(predicted);
  }

  async result(): Promise<Errors> {
    const energies = await this.#energies.result();
    const forces = await this.#forces.result();
    const both = await this.#both.result();
    const stresses = await this.#stresses.result();
    return {
      energyMAE: energies.energyPerAtomMAE,
      forceMAE: forces.forceMAE,
      forceRMSE: forces.forceRMSE,
      baselineForceMAE: forces.baselineForceMAE,
      forceCosine: forces.forceCosine,
      stressMAE: stresses.forcesMAE,
      stressRMSE: stresses.forcesRMSE,
      energyForcesWithinThreshold: both.energyForcesWithinThreshold,
      labels: {
        energy: energies.structures,
        forces: forces.atoms,
        stress: stresses.structures,
      },
    };
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }

  #addEnergies(predicted: readonly Predicted[]): void {
    const own = predicted.filter(hasEnergy);
    if (own.length === 0) return;
    using natoms = this.#device.tensor(Int32Array.from(own, atoms));
    using energy = energiesOf(own, this.#device);
    this.#energies.add({ natoms, energy });
  }

  #addBoth(predicted: readonly Predicted[]): void {
    const own = predicted.filter((one) => hasEnergy(one) && hasForces(one));
    if (own.length === 0) return;
    using natoms = this.#device.tensor(Int32Array.from(own, atoms));
    using energy = energiesOf(own, this.#device);
    using forces = new Forces(this.#device, own);
    this.#both.add({ natoms, energy, forces });
  }

  /** The six components of a stress are two rows to Metrics, which knows of forces only. */
  #addStresses(predicted: readonly Predicted[]): void {
    const own = predicted.filter(([{ stress, periodic }, prediction]) =>
      prediction.stress !== undefined && periodic.every(Boolean) &&
      !Number.isNaN(stress[0]!)
    );
    if (own.length === 0) return;
    using natoms = this.#device.tensor(new Int32Array(own.length).fill(2));
    using forces = new Compared(
      this.#device,
      own.map(([, { stress }]) => stress!),
      own.map(([{ stress }]) => stress),
      3,
    );
    this.#stresses.add({ natoms, forces });
  }
}

/** Sums over forces, and over what they were if none were predicted. */
class ForceSums implements Disposable {
  readonly #device: Device;
  readonly #forces: Metrics;
  readonly #zero: Metrics;

  constructor(device: Device, group: ProcessGroup | undefined) {
    this.#device = device;
    this.#forces = new Metrics(device, group && { group });
    this.#zero = new Metrics(device, group && { group });
  }

  /** @param element Of whose atoms alone. */
  add(predicted: readonly Predicted[], element?: number): void {
    const own = predicted.filter((one) => hasForces(one, element));
    if (own.length === 0) return;
    using natoms = this.#device.tensor(Int32Array.from(own, atoms));
    using forces = new Forces(this.#device, own, element);
    const { target, mask } = forces;
    using input = this.#device.zeros(target.shape, target.dtype);
    this.#forces.add({ natoms, forces });
    this.#zero.add({ natoms, forces: { input, target, mask } });
  }

  async result(): Promise<ElementErrors> {
    const forces = await this.#forces.result();
    return {
      forceMAE: forces.forcesMAE,
      forceRMSE: forces.forcesRMSE,
      baselineForceMAE: (await this.#zero.result()).forcesMAE,
      forceCosine: forces.forcesCosineSimilarity,
      atoms: forces.atoms,
    };
  }

  [Symbol.dispose](): void {
    this.#forces[Symbol.dispose]();
    this.#zero[Symbol.dispose]();
  }
}

/** Predictions and labels on the device, `[rows, columns]`. */
class Compared implements Disposable {
  readonly input: Tensor;
  readonly target: Tensor;

  constructor(
    device: Device,
    input: readonly Float64Array[],
    target: readonly Float64Array[],
    columns: number,
  ) {
    this.input = matrix(device, input, columns);
    this.target = matrix(device, target, columns);
  }

  [Symbol.dispose](): void {
    this.input.dispose();
    this.target.dispose();
  }
}

/** Forces, with those of atoms that have none, or are of another element, masked. */
class Forces extends Compared {
  readonly mask: Tensor;

  constructor(
    device: Device,
    predicted: readonly Predicted[],
    element?: number,
  ) {
    super(
      device,
      predicted.map(([, { forces }]) => forces),
      predicted.map(([{ forces }]) => forces),
      3,
    );
    const marks = predicted.flatMap(([structure]) =>
      Array.from(
        structure.numbers,
        (_, i) => Number(hasForce(structure, i, element)),
      )
    );
    this.mask = device.tensor(Uint8Array.from(marks), [marks.length], "bool");
  }

  override [Symbol.dispose](): void {
    super[Symbol.dispose]();
    this.mask.dispose();
  }
}

function energiesOf(predicted: readonly Predicted[], device: Device): Compared {
  return new Compared(
    device,
    predicted.map(([, { energy }]) => Float64Array.of(energy)),
    predicted.map(([{ energy }]) => Float64Array.of(energy)),
    1,
  );
}

function matrix(
  device: Device,
  parts: readonly Float64Array[],
  columns: number,
): Tensor {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const data = new Float64Array(length);
  let at = 0;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  return device.tensor(data, [length / columns, columns]);
}

function typeOf({ configType = "" }: Structure): string {
  return configType;
}

function atoms([{ numbers }]: Predicted): number {
  return numbers.length;
}

function hasEnergy([{ energy }]: Predicted): boolean {
  return !Number.isNaN(energy);
}

/** Whether an atom of it, of this element, has a force. */
function hasForces([structure]: Predicted, element?: number): boolean {
  return structure.numbers.some((_, i) => hasForce(structure, i, element));
}

function hasForce(
  { numbers, forces }: Structure,
  i: number,
  element?: number,
): boolean {
  return (element === undefined || numbers[i] === element) &&
    !hasNaN(forces.subarray(3 * i, 3 * i + 3));
}
