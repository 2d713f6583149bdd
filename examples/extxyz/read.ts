/**
 * Reads extended-XYZ files: structure after structure a line with the number of
 * atoms, a line of `key=value` pairs, and one line an atom with the columns that
 * `Properties` names. What ASE's `ase.io.read` says, but where ASE is silently
 * wrong this refuses, and it reads some ways of writing that ASE does not know.
 *
 * @module
 */

import type { Structure } from "../potential/structure.ts";
import { AtomReader } from "./atoms.ts";
import { parseCell, volumeOf } from "./cell.ts";
import { parseColumns } from "./columns.ts";
import { type Comment, valueInAnyCase } from "./comment.ts";
import { ExtxyzError } from "./error.ts";
import {
  keyLists,
  type KeyOptions,
  type LabelKeys,
  type LabelName,
} from "./label_keys.ts";
import {
  differ,
  hasNaN,
  norm,
  parseEnergy,
  parseStress,
  stressNorm,
} from "./labels.ts";
import { Lines } from "./lines.ts";
import { parseNumbers } from "./numbers.ts";
import { nextComment, nextCount, type Survey, survey } from "./survey.ts";
import { Warnings } from "./warnings.ts";

/**
 * A file to read, whose labels are chosen.
 *
 * ```ts ignore
 * const file = await ExtxyzFile.open("data.xyz");
 * for await (const { energy } of file.structures()) console.log(energy);
 * console.error(file.warnings.join("\n"));
 * ```
 */
export class ExtxyzFile {
  /** Its name. */
  readonly path: string;
  /** The keys of its labels. */
  readonly keys: LabelKeys;

  readonly #lists: Readonly<Record<LabelName, readonly string[]>>;
  readonly #isStressGiven: boolean;
  readonly #likeEnergy: readonly string[];
  #warnings: Warnings;
  /** What reads the columns that `Properties` gave last. */
  #columns: { text: string | undefined; reader: AtomReader } | undefined;

  private constructor(path: string, found: Survey, options: KeyOptions) {
    this.path = path;
    this.keys = found.keys;
    this.#likeEnergy = found.likeEnergy;
    this.#lists = keyLists(options);
    this.#isStressGiven = options.stressKey !== undefined;
    this.#warnings = new Warnings(path);
  }

  /**
   * Looks through a file and chooses the keys of its labels.
   *
   * @throws {ExtxyzError} where it cannot be read, or no structure of it has a
   * key that the options name.
   */
  static async open(
    path: string,
    options: KeyOptions = {},
  ): Promise<ExtxyzFile> {
    return new ExtxyzFile(path, await survey(path, options), options);
  }

  /** What is worth to be told, of what has been read. */
  get warnings(): readonly string[] {
    return this.#warnings.texts;
  }

  /**
   * Reads the structures, of which one is in memory at a time.
   *
   * @throws {ExtxyzError} where the file breaks the format.
   */
  async *structures(): AsyncGenerator<Structure, void> {
    this.#warnings = new Warnings(this.path);
    const has = { energy: 0, forces: 0, stress: 0 };
    let structures = 0;
    using lines = await Lines.open(this.path);
    for (let count; (count = await nextCount(lines)) !== undefined;) {
      const structure = await this.#readStructure(lines, count);
      structures++;
      if (!Number.isNaN(structure.energy)) has.energy++;
      if (!hasNaN(structure.forces)) has.forces++;
      if (!Number.isNaN(structure.stress[0]!)) has.stress++;
      yield structure;
    }
    if (structures === 0) {
      throw new ExtxyzError(`${this.path}: holds no structure`);
    }
    for (const [name, count] of Object.entries(has)) {
      if (count > 0 && count < structures) {
        this.#warnings.add(
          `missing ${name}`,
          `${count} of ${structures} structures have ${name}, the others not`,
        );
      }
    }
    const { energy, forces } = this.keys;
    if (energy === null && this.#likeEnergy.length > 0) {
      this.#warnings.add(
        "no label",
        `no energy is known by its key, maybe one of --energy-key ` +
          this.#likeEnergy.join(", "),
      );
    } else if (energy === null && forces === null && has.stress === 0) {
      this.#warnings.add("no label", "no energy, forces or stress");
    }
  }

  async #readStructure(lines: Lines, count: number): Promise<Structure> {
    const source = `${this.path}:${lines.number}`;
    const comment = await nextComment(lines);
    const line = lines.number;
    const fail = (problem: string): never => {
      throw lines.error(problem, line);
    };
    const { pairs, repeated, unclosed } = comment;
    if (unclosed !== undefined) {
      this.#warnings.add("unclosed", `${unclosed} does not close`, line);
    }
    for (const key of repeated) {
      this.#warnings.add(
        `repeated ${key}`,
        `${key} is given twice: the last one holds`,
        line,
      );
    }

    const { lattice, periodic } = parseCell(comment, fail);
    const energy = this.#energy(comment, line, fail);
    const stress = this.#stress(comment, "stress", line, fail);
    const virial = this.#stress(comment, "virial", line, fail);
    if (
      Number.isNaN(stress[0]!) && !this.#isStressGiven &&
      periodic.every(Boolean)
    ) {
      const volume = volumeOf(lattice);
      virial.forEach((x, k) => stress[k] = -x / volume);
    }

    const atoms = await this.#atomReader(comment, fail).read(lines, count);
    const { numbers, positions } = atoms;
    for (const [key, other] of atoms.others) {
      if (atoms.forces === undefined) break;
      this.#compare("forces", key, atoms.forces, other, norm, line);
    }
    // One that is not finite is missing as well.
    if (atoms.forces !== undefined) dropInfinities(atoms.forces);
    return {
      source,
      numbers,
      lattice,
      periodic,
      positions,
      energy,
      forces: atoms.forces ?? new Float64Array(3 * count).fill(NaN),
      stress,
      configType: configType(pairs.get("config_type")),
      weights: {
        energy: weight(pairs, "config_energy_weight"),
        forces: weight(pairs, "config_forces_weight"),
        stress: weight(pairs, "config_stress_weight"),
      },
    };
  }

  /** Most structures have the columns of the one before. */
  #atomReader(
    comment: Comment,
    fail: (problem: string) => never,
  ): AtomReader {
    const text = valueInAnyCase(comment, "Properties");
    const before = this.#columns;
    if (before !== undefined && before.text === text) return before.reader;
    const others = this.#others("forces");
    const columns = parseColumns(text, fail);
    const reader = new AtomReader(columns, this.keys.forces, others, fail);
    this.#columns = { text, reader };
    return reader;
  }

  /** The keys that would have been chosen as well. */
  #others(name: LabelName): string[] {
    return this.#lists[name].filter((key) => key !== this.keys[name]);
  }

  #energy(
    { pairs }: Comment,
    line: number,
    fail: (problem: string) => never,
  ): number {
    const key = this.keys.energy;
    const value = key === null ? undefined : pairs.get(key);
    if (value === undefined) return NaN;
    const energy = parseEnergy(key!, value, fail);
    for (const other of this.#others("energy")) {
      const text = pairs.get(other);
      const numbers = text === undefined ? undefined : parseNumbers(text);
      if (numbers?.length !== 1) continue;
      this.#compare(
        "energy",
        other,
        Float64Array.of(energy),
        Float64Array.from(numbers),
        norm,
        line,
      );
    }
    return energy;
  }

  /** A stress, or a virial, as six numbers. */
  #stress(
    { pairs }: Comment,
    name: "stress" | "virial",
    line: number,
    fail: (problem: string) => never,
  ): Float64Array<ArrayBuffer> {
    const key = this.keys[name];
    const value = key === null ? undefined : pairs.get(key);
    if (value === undefined) return new Float64Array(6).fill(NaN);
    const label = parseStress(key!, value, fail);
    for (const other of this.#others(name)) {
      const text = pairs.get(other);
      const length = text === undefined ? 0 : parseNumbers(text)?.length;
      if (length !== 6 && length !== 9) continue;
      const numbers = parseStress(other, text!, fail);
      this.#compare(name, other, label, numbers, stressNorm, line);
    }
    return label;
  }

  /** Warns where two labels for one thing, both finite, are not the same. */
  #compare(
    name: LabelName,
    otherKey: string,
    chosen: Float64Array,
    other: Float64Array,
    norm: (label: Float64Array) => number,
    line: number,
  ): void {
    if (!chosen.every(Number.isFinite) || !other.every(Number.isFinite)) return;
    if (!differ(chosen, other, norm)) return;
    const key = this.keys[name];
    this.#warnings.add(
      `${name} ${otherKey}`,
      `${key} and ${otherKey} are not the same ${name}: ${key} was taken`,
      line,
    );
  }
}

/** The text as it stands, a JSON string unpacked. */
function configType(value: string | undefined): string | undefined {
  if (!value?.startsWith("_JSON ")) return value;
  try {
    const content: unknown = JSON.parse(value.slice("_JSON ".length));
    return typeof content === "string" ? content : value;
  } catch {
    return value;
  }
}

/** A weight as MACE reads it, with that of the whole structure; NaN if it is none. */
function weight(pairs: ReadonlyMap<string, string>, key: string): number {
  let product = 1;
  for (const value of [pairs.get("config_weight"), pairs.get(key)]) {
    if (value === undefined) continue;
    const numbers = parseNumbers(value);
    product *= numbers?.length === 1 ? numbers[0]! : NaN;
  }
  return product;
}

function dropInfinities(numbers: Float64Array): void {
  for (let k = 0; k < numbers.length; k++) {
    if (!Number.isFinite(numbers[k])) numbers[k] = NaN;
  }
}
