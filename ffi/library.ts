/** A native library that is loaded: its functions, and the one place where a status becomes an error. */
import {
  ArgumentError,
  type AtomlossError,
  BuildError,
  CollectiveError,
  DeviceError,
  InternalError,
  OutOfMemoryError,
} from "../errors.ts";
import { buildLibrary, buildUserLoss, rebuildAdvice } from "./build.ts";
import type { LossSource } from "./loss_source.ts";
import { decodeText } from "./pointer.ts";
import { type Symbols, symbols } from "./symbols.ts";

/** The two native libraries. */
export type Backend = "cpu" | "cuda";

/** AL_ABI_VERSION of kernels/atomloss.h that the symbol table was written for. */
const ABI_VERSION = 9;

/** al_status_code of kernels/atomloss.h, in its order. */
const ERROR_CLASSES: readonly (new (message: string) => AtomlossError)[] = [
  InternalError, // AL_OK never gets here
  ArgumentError,
  OutOfMemoryError,
  DeviceError,
  DeviceError,
  CollectiveError,
  CollectiveError,
  InternalError,
];

/** What the library of a loss that a user defines has: see kernels/defined/register_losses.h. */
const REGISTER = {
  al_register_losses: { parameters: [], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

const MESSAGE_CAPACITY = 4096;

/**
 * Deno.dlopen with this package's error.
 *
 * @param advice What to do if it cannot be loaded.
 */
function open<T extends Deno.ForeignLibraryInterface>(
  path: string,
  table: T,
  advice = "",
): Deno.DynamicLibrary<T> {
  try {
    return Deno.dlopen(path, table);
  } catch (cause) {
    // Without the permission Deno's own error says best what to do.
    if (!(cause instanceof Error) || cause.name === "NotCapable") throw cause;
    throw new BuildError(
      `cannot load the native library ${path}: ${cause.message}${
        advice && `: ${advice}`
      }`,
      { cause },
    );
  }
}

/** A loaded native library. One per backend and process. */
export class Library {
  readonly backend: Backend;
  readonly path: string;
  readonly symbols: Symbols;
  /** Those of the losses that users have defined that it has. */
  readonly #defined = new Set<LossSource>();

  private constructor(backend: Backend, path: string, opened: Symbols) {
    this.backend = backend;
    this.path = path;
    this.symbols = opened;
  }

  static readonly #open = new Map<Backend, Promise<Library>>();
  /** The losses that users have defined so far. */
  static #losses: readonly LossSource[] = [];

  /** The library of a backend, built if need be and loaded once. */
  static get(backend: Backend): Promise<Library> {
    let library = this.#open.get(backend);
    if (library === undefined) {
      library = this.#load(backend);
      this.#open.set(backend, library);
      // A failed build is tried again at the next call.
      library.catch(() => this.#open.delete(backend));
    }
    return library;
  }

  static async #load(backend: Backend): Promise<Library> {
    const path = await buildLibrary(backend);
    const advice = rebuildAdvice(backend);
    // The version first: another version may lack functions of this one.
    const { al_abi_version } = symbols;
    const probe = open(path, { al_abi_version }, advice);
    const version = probe.symbols.al_abi_version();
    probe.close();
    if (version !== ABI_VERSION) {
      throw new BuildError(
        `${path} has ABI version ${version}, this package needs ${ABI_VERSION}: ${advice}`,
      );
    }
    const opened = open(path, symbols, advice);
    const library = new Library(backend, path, opened.symbols);
    await library.#compileDefined();
    return library;
  }

  /** Adds a loss to every library: now to those that are loaded, later to the others. */
  static async defineLoss(loss: LossSource): Promise<void> {
    Library.#losses = [...Library.#losses, loss];
    try {
      for (const opening of [...Library.#open.values()]) {
        // One that cannot be loaded is the business of who opens it.
        const library = await opening.catch(() => undefined);
        if (library !== undefined) await library.#compileDefined();
      }
    } catch (error) {
      Library.#losses = Library.#losses.filter((other) => other !== loss);
      throw error;
    }
  }

  async #compileDefined(): Promise<void> {
    // Others may be defined, or taken back, while one is compiled.
    for (;;) {
      const next = Library.#losses.find((loss) => !this.#defined.has(loss));
      if (next === undefined) return;
      // One that failed elsewhere may be here from before, and come again.
      const others = [...this.#defined]
        .filter(({ name }) => name !== next.name);
      const losses = [...others, next];
      const path = await buildUserLoss(this.backend, losses, {
        path: this.path,
        sources: this.#text(this.symbols.al_sources),
      });
      // Never closed: its kernels are in use from now on.
      const plugin = open(path, REGISTER);
      this.check(plugin.symbols.al_register_losses());
      this.#defined.add(next);
    }
  }

  /** Throws the typed error of a status that is not 0. */
  check(status: number): void {
    if (status !== 0) throw this.#error(status);
  }

  #error(status: number): AtomlossError {
    const text = new Uint8Array(MESSAGE_CAPACITY);
    this.symbols.al_take_error(status, text, BigInt(MESSAGE_CAPACITY));
    const ErrorClass = ERROR_CLASSES[status & 0xff] ?? InternalError;
    return new ErrorClass(decodeText(text));
  }

  /** The libraries that this one is linked with, and their versions. */
  versions(): Record<string, string> {
    return JSON.parse(this.#text(this.symbols.al_versions));
  }

  /** The text that a function of the library writes. */
  #text(write: Symbols["al_versions"]): string {
    const text = new Uint8Array(MESSAGE_CAPACITY);
    this.check(write(text, BigInt(MESSAGE_CAPACITY)));
    return decodeText(text);
  }
}
