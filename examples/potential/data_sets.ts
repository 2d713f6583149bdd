/**
 * The structures of a training: those of the files that are named, or silicon
 * made here.
 *
 * @module
 */

import { findFiles } from "../command/files.ts";
import { SYMBOLS } from "../extxyz/elements.ts";
import { describeKeys, type KeyOptions } from "../extxyz/label_keys.ts";
import { ExtxyzFile } from "../extxyz/read.ts";
import { isFreeAtom } from "./free_atoms.ts";
import { withoutHalfLabels } from "./labels.ts";
import type { Options } from "./options.ts";
import { Random } from "./random.ts";
import { siliconStructures } from "./silicon.ts";
import { DataSetError, elementsOf, type Structure } from "./structure.ts";

/** Sizes of the data sets that are made when no file is given. */
const SILICON_TRAIN = 80;
const SILICON_TEST = 20;

/** What to train and to test on. */
export interface DataSets {
  readonly trainSet: Structure[];
  readonly testSet: Structure[];
  /** Lines that say where they are from. */
  readonly notes: readonly string[];
  readonly warnings: readonly string[];
}

/**
 * Reads the structures.
 *
 * @throws {ExtxyzError} where a file breaks the format.
 * @throws {DataSetError} where the test set has an element that is not trained on.
 */
export async function loadDataSets(
  options:
    & Pick<Options, "train" | "test" | "testFraction" | "seed">
    & KeyOptions,
): Promise<DataSets> {
  const { train, test, testFraction, seed } = options;
  if (train.length === 0) {
    return {
      trainSet: siliconStructures(SILICON_TRAIN, seed),
      testSet: siliconStructures(SILICON_TEST, seed + 1),
      notes: [],
      warnings: [],
    };
  }
  const reading = new Reading(options);
  let trainSet = await reading.read("train", train);
  let testSet: Structure[];
  if (test.length > 0) testSet = await reading.read("test", test);
  else {
    const named = trainSet.length;
    [trainSet, testSet] = holdOut(trainSet, testFraction, seed);
    reading.notes.push(
      `test: ${testSet.length} of these ${named} structures, held out`,
    );
  }
  checkElements(trainSet, testSet);
  const { notes, warnings } = reading;
  return { trainSet, testSet, notes, warnings };
}

/**
 * Draws structures to test on, so many that they are the fraction, of those that
 * are not needed otherwise: free atoms say where energies are counted from, and
 * every element has to stay among the others.
 *
 * @returns The structures that stay, and those that are drawn, in their order.
 */
export function holdOut(
  structures: readonly Structure[],
  fraction: number,
  seed: number,
): [stay: Structure[], drawn: Structure[]] {
  const elements = structures.map((structure) => elementsOf([structure]));
  const left = new Map<number, number>(); // structures that stay, by element
  for (const z of elements.flat()) left.set(z, (left.get(z) ?? 0) + 1);
  const wanted = Math.round(fraction * structures.length);
  const drawn = new Set<number>();
  for (const s of new Random(seed).permutation(structures.length)) {
    if (drawn.size === wanted) break;
    if (isFreeAtom(structures[s]!)) continue;
    if (elements[s]!.some((z) => left.get(z) === 1)) continue;
    for (const z of elements[s]!) left.set(z, left.get(z)! - 1);
    drawn.add(s);
  }
  return [
    structures.filter((_, s) => !drawn.has(s)),
    structures.filter((_, s) => drawn.has(s)),
  ];
}

/** Files that are read one after the other, and what is told of them. */
class Reading {
  readonly notes: string[] = [];
  readonly warnings: string[] = [];
  readonly #options: KeyOptions;
  /** The key of the energies of the first file that has some, and the file. */
  #energyKey: readonly [key: string, path: string] | undefined;

  constructor(options: KeyOptions) {
    this.#options = options;
  }

  async read(set: string, names: readonly string[]): Promise<Structure[]> {
    const structures: Structure[] = [];
    for (const path of await findFiles(names)) {
      const file = await ExtxyzFile.open(path, this.#options);
      const before = structures.length;
      for await (const structure of file.structures()) {
        structures.push(withoutHalfLabels(structure));
      }
      const count = structures.length - before;
      this.notes.push(
        `${set}: ${count} structures of ${path}, ${describeKeys(file.keys)}`,
      );
      this.warnings.push(...file.warnings);
      this.#compareKeys(path, file.keys.energy);
    }
    return structures;
  }

  #compareKeys(path: string, key: string | null): void {
    if (key === null) return;
    this.#energyKey ??= [key, path];
    const [firstKey, first] = this.#energyKey;
    if (key === firstKey) return;
    this.warnings.push(
      `${path} has its energies by ${key}, ${first} by ${firstKey}: are they ` +
        `of one method?`,
    );
  }
}

function checkElements(
  trainSet: readonly Structure[],
  testSet: readonly Structure[],
): void {
  const known = new Set(elementsOf(trainSet));
  for (const { source, numbers } of testSet) {
    const other = numbers.find((z) => !known.has(z));
    if (other === undefined) continue;
    throw new DataSetError(
      `${source}: has ${SYMBOLS[other]}, but there is none in the structures ` +
        `to train on`,
    );
  }
}
