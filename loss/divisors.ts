/** al_divisor of kernels/atomloss.h: what the sums of a loss's tasks are divided by, from the numbers of their samples. */

/** What a task is divided by. */
export interface Division {
  /** Weights of the groups whose means are averaged; null: the task has no groups. */
  readonly groupWeights: readonly number[] | null;
  /** Whether the samples are a sum of weights, of any size. */
  readonly ofWeights: boolean;
}

/** Bytes of the struct. */
const STRUCT_BYTES = 16;

/** The numbers that tasks are divided by, one after another: one each, or one per group. */
export class Divisors {
  /** How many there are. */
  readonly count: number;
  /** Fewer samples over all replicas count as so many. */
  readonly minimum: number;
  /** Where those of each task begin. */
  readonly first: readonly number[];
  /** As the native library takes them; null: all are plain counts. */
  readonly table: Uint8Array<ArrayBuffer> | null;
  readonly #tasks: readonly Division[];

  constructor(tasks: readonly Division[], minimum: number) {
    const sizes = tasks.map(({ groupWeights }) => groupWeights?.length ?? 1);
    const first: number[] = [];
    let count = 0;
    for (const size of sizes) {
      first.push(count);
      count += size;
    }
    this.#tasks = tasks;
    this.count = count;
    this.first = first;
    this.minimum = minimum;
    this.table = tasks.every(isPlain) ? null : tableOf(tasks, count);
  }

  /** Whether a task has groups, whose factors the device computes. */
  hasGroups(task: number): boolean {
    return this.#tasks[task]!.groupWeights !== null;
  }

  /** Whether any task has. */
  get anyGroups(): boolean {
    return this.#tasks.some(({ groupWeights }) => groupWeights !== null);
  }

  /** Whether the samples of a task are a number of something. */
  isCount(task: number): boolean {
    return !this.#tasks[task]!.ofWeights;
  }

  /** The factor of a task without groups. */
  factor(task: number, samples: number): number {
    if (this.#tasks[task]!.ofWeights) return samples === 0 ? 0 : 1 / samples;
    return 1 / Math.max(samples, this.minimum);
  }

  /** The samples of each task, from those of all: a list where it has groups. */
  split(samples: readonly number[]): (number | number[])[] {
    return this.#tasks.map(({ groupWeights }, i) => {
      const at = this.first[i]!;
      return groupWeights === null
        ? samples[at]!
        : samples.slice(at, at + groupWeights.length);
    });
  }
}

function isPlain({ groupWeights, ofWeights }: Division): boolean {
  return groupWeights === null && !ofWeights;
}

function tableOf(
  tasks: readonly Division[],
  count: number,
): Uint8Array<ArrayBuffer> {
  const buffer = new ArrayBuffer(count * STRUCT_BYTES);
  const view = new DataView(buffer);
  let at = 0;
  for (const { groupWeights, ofWeights } of tasks) {
    (groupWeights ?? [1]).forEach((weight, i) => {
      const groups = groupWeights === null
        ? 0
        : i === 0
        ? groupWeights.length
        : -1;
      view.setFloat64(at, weight, true);
      view.setInt32(at + 8, groups, true);
      view.setInt32(at + 12, Number(ofWeights), true);
      at += STRUCT_BYTES;
    });
  }
  return new Uint8Array(buffer);
}
