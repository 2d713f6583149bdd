/**
 * How far predictions are from the labels, where there are labels.
 *
 * @module
 */

import {
  type Compared,
  type Device,
  Metrics,
  type ProcessGroup,
  type Tensor,
} from "../../mod.ts";
import { SYMBOLS } from "../extxyz/elements.ts";
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
  readonly #all: Sums;
  readonly #byConfigType = new Map<string, Sums>();
  readonly #byElement = new Map<number, Sums>();

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
    this.#all = this.#owned.use(new Sums(device, group));
    for (const structure of structures) this.#prepare(structure);
  }

  /** Adds some structures. */
  add(predicted: readonly Predicted[]): void {
    if (predicted.length === 0) return;
    const structures = predicted.map(([structure]) => structure);
    structures.forEach((structure) => this.#prepare(structure));
    using batch = new Comparison(this.#device, predicted);
    this.#all.add(batch);
    for (const [type, sums] of this.#byConfigType) {
      const isOfIt = structures.map((structure) => typeOf(structure) === type);
      if (!isOfIt.includes(true)) continue;
      sums.add(
        batch,
        structures.flatMap(({ numbers }, s) =>
          Array(numbers.length).fill(isOfIt[s])
        ),
        isOfIt,
      );
    }
    for (const [element, sums] of this.#byElement) {
      if (!structures.some(({ numbers }) => numbers.includes(element))) {
        continue;
      }
      sums.add(
        batch,
        structures.flatMap(({ numbers }) =>
          Array.from(numbers, (z) => z === element)
        ),
      );
    }
  }

  /** The errors of what all replicas have added. Every replica has to ask. */
  async result(): Promise<ErrorReport> {
    const types: [string, Errors][] = [];
    for (const [type, sums] of this.#byConfigType) {
      types.push([type, await sums.result()]);
    }
    const elements: [string, ElementErrors][] = [];
    for (const [z, sums] of [...this.#byElement].sort(([a], [b]) => a - b)) {
      const errors = await sums.result();
      const { forceMAE, forceRMSE, baselineForceMAE, forceCosine } = errors;
      const atoms = errors.labels.forces;
      elements.push([
        SYMBOLS[z]!,
        { forceMAE, forceRMSE, baselineForceMAE, forceCosine, atoms },
      ]);
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
    const make = (): Sums =>
      this.#owned.use(new Sums(this.#device, this.#group));
    const type = typeOf(structure);
    if (!this.#byConfigType.has(type)) this.#byConfigType.set(type, make());
    for (const z of structure.numbers) {
      if (!this.#byElement.has(z)) this.#byElement.set(z, make());
    }
  }
}

/** Sums over some structures or atoms, and over forces if none were predicted. */
class Sums implements Disposable {
  readonly #device: Device;
  readonly #metrics: Metrics;
  readonly #zero: Metrics;

  constructor(device: Device, group: ProcessGroup | undefined) {
    const options = { ignoreNaN: true, ...group && { group } };
    this.#device = device;
    this.#metrics = new Metrics(device, options);
    this.#zero = new Metrics(device, options);
  }

  /**
   * @param atoms Whose forces count; default: of all.
   * @param structures Whose energies and stresses count; default: of all.
   */
  add(
    { natoms, energy, forces, stress, zero }: Comparison,
    atoms?: readonly boolean[],
    structures?: readonly boolean[],
  ): void {
    using owned = new DisposableStack();
    const maskOf = (
      marks: readonly boolean[] | undefined,
    ): { mask?: Tensor } => {
      if (marks === undefined) return {};
      const bytes = Uint8Array.from(marks, Number);
      return {
        mask: owned.use(this.#device.tensor(bytes, [bytes.length], "bool")),
      };
    };
    const [ofAtoms, ofStructures] = [maskOf(atoms), maskOf(structures)];
    this.#metrics.add({
      natoms,
      energy: { ...energy, ...ofStructures },
      forces: { ...forces, ...ofAtoms },
      stress: { ...stress, ...ofStructures },
    });
    const { target } = forces;
    this.#zero.add({ natoms, forces: { input: zero, target, ...ofAtoms } });
  }

  async result(): Promise<Errors> {
    const report = await this.#metrics.result();
    return {
      energyMAE: report.energyPerAtomMAE,
      forceMAE: report.forcesMAE,
      forceRMSE: report.forcesRMSE,
      baselineForceMAE: (await this.#zero.result()).forcesMAE,
      forceCosine: report.forcesCosineSimilarity,
      stressMAE: report.stressMAE,
      stressRMSE: report.stressRMSE,
      energyForcesWithinThreshold: report.energyForcesWithinThreshold,
      labels: {
        energy: report.energies,
        forces: report.atoms,
        stress: report.stresses / 6,
      },
    };
  }

  [Symbol.dispose](): void {
    this.#metrics[Symbol.dispose]();
    this.#zero[Symbol.dispose]();
  }
}

/** Predictions and labels on the device, NaN where a label is missing. */
class Comparison implements Disposable {
  readonly natoms: Tensor;
  readonly energy: Compared;
  readonly forces: Compared;
  readonly stress: Compared;
  /** Forces if none were predicted. */
  readonly zero: Tensor;
  readonly #owned = new DisposableStack();

  constructor(device: Device, predicted: readonly Predicted[]) {
    const own = (tensor: Tensor): Tensor => this.#owned.use(tensor);
    const compared = (
      columns: number,
      pairs: readonly (readonly [Float64Array, Float64Array])[],
    ): Compared => ({
      input: own(matrix(device, pairs.map(([input]) => input), columns)),
      target: own(matrix(device, pairs.map(([, target]) => target), columns)),
    });
    this.natoms = own(
      device.tensor(
        Int32Array.from(predicted, ([{ numbers }]) => numbers.length),
      ),
    );
    this.energy = compared(
      1,
      predicted.map(([{ energy }, prediction]) => [
        Float64Array.of(prediction.energy),
        Float64Array.of(energy),
      ]),
    );
    this.forces = compared(
      3,
      predicted.map(([{ forces }, prediction]) => [prediction.forces, forces]),
    );
    // Where there is no volume there is no stress, whatever a file says.
    const none = [new Float64Array(6), new Float64Array(6).fill(NaN)] as const;
    this.stress = compared(
      6,
      predicted.map(([{ stress, periodic }, prediction]) =>
        prediction.stress !== undefined && periodic.every(Boolean)
          ? [prediction.stress, stress]
          : none
      ),
    );
    const { shape, dtype } = this.forces.input;
    this.zero = own(device.zeros(shape, dtype));
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
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
