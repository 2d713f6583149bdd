/**
 * The comment line of a structure: `key=value` pairs, and bare words, which say
 * nothing.
 *
 * Blanks separate, and only spaces and tabs are blanks; they may stand on both
 * sides of `=`. Quotes and brackets hold blanks together wherever in a word they
 * open, and go; an apostrophe does so only where a word begins. Brackets of one
 * kind nest, and a text in double quotes inside them hides them. A backslash
 * goes, and what is after it stays as it is.
 *
 * @module
 */

/** The pairs of a comment line. */
export interface Comment {
  /** The text of every key; of one that is given twice, the last. */
  readonly pairs: ReadonlyMap<string, string>;
  /** Keys that are given twice. */
  readonly repeated: readonly string[];
  /** The quote or bracket that does not close, and so ends with the line. */
  readonly unclosed: string | undefined;
}

/** Reads a comment line; there is none that is wrong. */
export function parseComment(line: string): Comment {
  const pairs = new Map<string, string>();
  const repeated: string[] = [];
  const add = (key: string, value: string): void => {
    if (pairs.has(key)) repeated.push(key);
    pairs.set(key, value);
  };

  const scanner = new Scanner(line);
  for (scanner.skipBlanks(); !scanner.isAtEnd; scanner.skipBlanks()) {
    if (scanner.skipEquals()) continue; // no key is before it
    const key = scanner.word("=");
    scanner.skipBlanks();
    if (!scanner.skipEquals()) continue; // a flag
    // Behind blanks, a word that is a pair itself is no value.
    add(key, scanner.skipBlanks() && scanner.isAtPair() ? "" : scanner.word());
  }
  return { pairs, repeated, unclosed: scanner.unclosed };
}

/**
 * The value of a key in any case of ASCII; its exact spelling wins over others.
 *
 * @param key Spelled as it usually is.
 */
export function valueInAnyCase(
  { pairs }: Comment,
  key: string,
): string | undefined {
  const exact = pairs.get(key);
  if (exact !== undefined) return exact;
  let found: string | undefined;
  for (const [other, value] of pairs) {
    // No u flag: without it only ASCII letters have two cases that are ASCII.
    if (other.length === key.length && lower(other) === lower(key)) {
      found = value;
    }
  }
  return found;
}

/** With the letters of ASCII small, and all others as they are. */
export function lower(text: string): string {
  return text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}

type Opening = "[" | "{";
const CLOSING = { "[": "]", "{": "}" } as const;

/** Where a bracket closes: in the nesting, and, if that does not close, at the first closing one. */
interface Closes {
  nested?: number;
  first?: number;
}

/** What is nothing but itself in a word: at once, since most is. */
const PLAIN = /[^ \t"'[{\\]+/y;
const PLAIN_OF_KEY = /[^ \t"'[{\\=]+/y;

class Scanner {
  unclosed: string | undefined;
  #at = 0;
  readonly #line: string;
  readonly #closes = {
    "[": new Map<number, Closes>(),
    "{": new Map<number, Closes>(),
  };

  constructor(line: string) {
    this.#line = line;
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#line.length;
  }

  /** Whether there were blanks. */
  skipBlanks(): boolean {
    const start = this.#at;
    while (isBlank(this.#line[this.#at])) this.#at++;
    return this.#at > start;
  }

  skipEquals(): boolean {
    const isThere = this.#line[this.#at] === "=";
    if (isThere) this.#at++;
    return isThere;
  }

  /** Whether a word comes here that `=` follows. */
  isAtPair(): boolean {
    const start = this.#at;
    const isEmpty = this.word("=") === "" && this.#at === start;
    this.skipBlanks();
    const isPair = !isEmpty && this.#line[this.#at] === "=";
    this.#at = start;
    return isPair;
  }

  /** Reads up to the next blank, or this character, outside of quotes and brackets. */
  word(stop?: "="): string {
    const line = this.#line;
    const start = this.#at;
    const plain = stop === undefined ? PLAIN : PLAIN_OF_KEY;
    let text = "";
    while (this.#at < line.length) {
      plain.lastIndex = this.#at;
      if (plain.test(line)) {
        text += line.slice(this.#at, plain.lastIndex);
        this.#at = plain.lastIndex;
        continue;
      }
      const character = line[this.#at]!;
      if (isBlank(character) || character === stop) break;
      const isQuote = character === '"' ||
        character === "'" && this.#at === start;
      if (isQuote) {
        text += this.#enclosed(this.#closingQuote(character));
      } else if (character === "[" || character === "{") {
        text += this.#enclosed(this.#closingBracket(character));
      } else {
        if (character === "\\") this.#at++;
        text += line[this.#at] ?? "";
        this.#at++;
      }
    }
    return text;
  }

  /** The text from behind the quote or bracket that is here to the one that closes it. */
  #enclosed(close: number | undefined): string {
    const line = this.#line;
    if (close === undefined) this.unclosed ??= line[this.#at];
    const text = line.slice(this.#at + 1, close ?? line.length);
    this.#at = (close ?? line.length) + 1;
    return text.includes("\\") ? text.replaceAll(/\\([^])?/gu, "$1") : text;
  }

  #closingQuote(quote: string): number | undefined {
    const line = this.#line;
    for (let at = this.#at + 1; at < line.length; at++) {
      if (line[at] === "\\") at++;
      else if (line[at] === quote) return at;
    }
    return undefined;
  }

  #closingBracket(open: Opening): number | undefined {
    const closes = this.#closes[open];
    if (!closes.has(this.#at)) this.#match(open);
    const { nested, first } = closes.get(this.#at)!;
    return nested ?? first;
  }

  /**
   * Finds where the bracket that is here closes, and with it all behind it that
   * no quotes hide from here: so a line of brackets is not read once for each.
   */
  #match(open: Opening): void {
    const line = this.#line;
    const closes = this.#closes[open];
    const lastQuote = this.#lastQuote();
    const nesting: Closes[] = [];
    let waiting: Closes[] = []; // for the first closing one
    let isHidden = false;
    for (let at = this.#at; at < line.length; at++) {
      const character = line[at];
      if (character === "\\") at++;
      // One that no other is behind hides nothing.
      else if (character === '"' && (isHidden || at < lastQuote)) {
        isHidden = !isHidden;
      } else if (isHidden) continue;
      else if (character === open) {
        const one: Closes = {};
        closes.set(at, one);
        nesting.push(one);
        waiting.push(one);
      } else if (character === CLOSING[open]) {
        const one = nesting.pop();
        if (one !== undefined) one.nested = at;
        for (const other of waiting) other.first = at;
        waiting = [];
      }
    }
  }

  /** Where the last `"` of the line is that no backslash takes. */
  #lastQuote(): number {
    let last = -1;
    for (let at = this.#at; at < this.#line.length; at++) {
      if (this.#line[at] === "\\") at++;
      else if (this.#line[at] === '"') last = at;
    }
    return last;
  }
}

function isBlank(character: string | undefined): boolean {
  return character === " " || character === "\t";
}
