/**
 * A trained potential, for a script to import:
 *
 *     const potential = await Potential.load("model.safetensors");
 *     const [{ energy, forces, stress }] = potential.predict([structure]);
 *
 * @module
 */

import { AtomlossError } from "../../errors.ts";
import { replaceFile } from "../../tensor/replace_file.ts";
import {
  decodeSafetensors,
  encodeSafetensors,
  SafetensorsError,
} from "../../tensor/safetensors.ts";
import { SYMBOLS } from "../extxyz/elements.ts";
import { type Basis, makeBasis } from "./basis.ts";
import { Descriptors, type Prediction } from "./descriptors.ts";
import type { Geometry } from "./structure.ts";
import { type Whitening, withoutWhitening } from "./whitening.ts";

/** A file is no potential, or cannot be read or written. */
export class PotentialError extends AtomlossError {}

/** Changes whenever the same parameters would mean another potential. */
const FORMAT = "atomloss linear potential 1; eV, Å";

/** Energies, forces and stresses of structures. */
export class Potential {
  /** Atomic numbers of the elements that it knows. */
  readonly elements: readonly number[];
  /** Distance in Å beyond which atoms do not see each other. */
  readonly cutoff: number;
  readonly #parameters: Float64Array<ArrayBuffer>;
  readonly #descriptors: Descriptors;

  private constructor(basis: Basis, parameters: Float64Array<ArrayBuffer>) {
    this.elements = basis.elements;
    this.cutoff = basis.cutoff;
    this.#parameters = parameters;
    this.#descriptors = new Descriptors(basis);
  }

  /** The potential of a training, from the parameters of the whitened functions. */
  static of(
    basis: Basis,
    whitening: Whitening,
    parameters: readonly number[],
  ): Potential {
    const plain = withoutWhitening(parameters, whitening, basis);
    return new Potential(basis, plain);
  }

  /**
   * Reads what {@linkcode save} wrote.
   *
   * @throws {PotentialError} if the file cannot be read, is not whole, or is
   * something else than a potential of this version.
   */
  static async load(path: string): Promise<Potential> {
    let arrays, metadata;
    try {
      ({ arrays, metadata } = decodeSafetensors(
        await Deno.readFile(path),
        path,
      ));
    } catch (error) {
      if (error instanceof SafetensorsError) {
        throw new PotentialError(error.message);
      }
      throw failure(path, "cannot be read", error);
    }
    if (metadata.format !== FORMAT) {
      throw new PotentialError(
        `${path}: its format is ${JSON.stringify(metadata.format)}, ` +
          `expected ${JSON.stringify(FORMAT)}`,
      );
    }
    const { elements, cutoff, parameters } = arrays;
    const numbers = elements?.data instanceof Int32Array
      ? [...elements.data]
      : [];
    const isKnown = numbers.length > 0 &&
      numbers.every((z, k) => SYMBOLS[z] && z > (numbers[k - 1] ?? 0));
    const radius = cutoff?.data instanceof Float64Array
      ? cutoff.data[0] ?? NaN
      : NaN;
    if (!isKnown || !(radius > 0 && radius < Infinity)) {
      throw new PotentialError(`${path}: has no elements or no cutoff`);
    }
    const basis = makeBasis(numbers, radius);
    const data = parameters?.data;
    if (
      !(data instanceof Float64Array) || data.length !== basis.size ||
      !data.every(Number.isFinite)
    ) {
      throw new PotentialError(
        `${path}: expected ${basis.size} finite parameters of float64`,
      );
    }
    return new Potential(basis, Float64Array.from(data));
  }

  /**
   * Writes the potential: its elements, the cutoff, and the parameters of the
   * functions, the energies of free atoms among them.
   *
   * @throws {PotentialError} if the file cannot be written.
   */
  async save(path: string): Promise<void> {
    const bytes = encodeSafetensors({
      arrays: {
        parameters: {
          dtype: "float64",
          shape: [this.#parameters.length],
          data: this.#parameters,
        },
        cutoff: {
          dtype: "float64",
          shape: [],
          data: Float64Array.of(this.cutoff),
        },
        elements: {
          dtype: "int32",
          shape: [this.elements.length],
          data: Int32Array.from(this.elements),
        },
      },
      metadata: { format: FORMAT },
    });
    try {
      await replaceFile(path, bytes);
    } catch (error) {
      throw failure(path, "cannot be written", error);
    }
  }

  /**
   * Energy in eV, forces in eV/Å and stress in eV/Å³ of each structure.
   *
   * @throws {DataSetError} where one has an element that is not known.
   * @throws {GeometryError} where its geometry makes no sense.
   */
  predict(structures: readonly Geometry[]): Prediction[] {
    return structures.map((structure) =>
      this.#descriptors.predict(structure, this.#parameters)
    );
  }
}

function failure(path: string, what: string, error: unknown): PotentialError {
  const reason = error instanceof Error ? error.message : String(error);
  return new PotentialError(`${path}: ${what}: ${reason}`);
}
