/**
 * What is worth to be told of a file, once for each kind: where it is first, and
 * how often.
 *
 * @module
 */
export class Warnings {
  readonly #path: string;
  readonly #kinds = new Map<string, { first: string; count: number }>();

  constructor(path: string) {
    this.#path = path;
  }

  /**
   * @param kind Of what it is one.
   * @param text What it is.
   * @param line Where; without, it is of the file.
   */
  add(kind: string, text: string, line?: number): void {
    const known = this.#kinds.get(kind);
    if (known !== undefined) known.count++;
    else {
      const place = line === undefined ? "" : `:${line}`;
      this.#kinds.set(kind, {
        first: `${this.#path}${place}: ${text}`,
        count: 1,
      });
    }
  }

  /** One text for each kind. */
  get texts(): string[] {
    return [...this.#kinds.values()].map(({ first, count }) =>
      count === 1 ? first : `${first} (and ${count - 1} more like it)`
    );
  }
}
