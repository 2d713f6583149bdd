/** A copy of this package in which faults are planted, and its CUDA library. */
import type { Recipe } from "../../ffi/recipe.ts";
import type { Fault } from "./faults.ts";

const ROOT = new URL("../../", import.meta.url).pathname;

async function run(
  folder: string,
  [program, ...args]: readonly string[],
): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program!, {
    args,
    cwd: folder,
    stdin: "null",
  }).output();
  const [out, err] = [stdout, stderr].map((b) => new TextDecoder().decode(b));
  if (!success) throw new Error(`${program} ${args.join(" ")}:\n${err}`);
  return out!;
}

/** Copies the files of the repository that git does not ignore. */
async function copyPackage(to: string): Promise<void> {
  const listed = await run(
    ROOT,
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
  );
  for (const file of listed.split("\0").slice(0, -1)) {
    const target = `${to}/${file}`;
    await Deno.mkdir(target.slice(0, target.lastIndexOf("/")), {
      recursive: true,
    });
    try {
      await Deno.copyFile(ROOT + file, target);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // removed
    }
  }
}

async function hashOf(texts: readonly string[]): Promise<string> {
  const bytes = new TextEncoder().encode(JSON.stringify(texts));
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return new Uint8Array(digest).toHex().slice(0, 16);
}

export class Workshop implements Disposable {
  /** The copy: always the same place, so that what was compiled is found. */
  readonly folder: string;
  readonly #lock: Deno.FsFile;
  readonly #recipe: Recipe;

  private constructor(folder: string, lock: Deno.FsFile, recipe: Recipe) {
    this.folder = folder;
    this.#lock = lock;
    this.#recipe = recipe;
  }

  static async open(): Promise<Workshop> {
    const cache = Deno.env.get("XDG_CACHE_HOME") ||
      `${Deno.env.get("HOME")}/.cache`;
    const work = `${cache}/atomloss-planted`;
    const folder = `${work}/package`;
    await Deno.mkdir(`${work}/objects`, { recursive: true });
    const lock = await Deno.open(`${work}/lock`, { create: true, write: true });
    await lock.lock(true);
    await run(work, ["rm", "-rf", folder]);
    await copyPackage(folder);
    const module = (path: string): string => `file://${folder}/${path}`;
    // Of the copy, whose toolkit the tests there use too.
    const { buildToolkit, environmentOf } = await import(
      module("tests/cuda_platform/toolkit.ts")
    );
    const home: string = await buildToolkit();
    for (const [name, value] of Object.entries(environmentOf(home))) {
      Deno.env.set(name, value as string);
    }
    const { cudaRecipe } = await import(module("ffi/cuda_toolchain.ts"));
    const recipe: Recipe = await cudaRecipe();
    for (const [name, text] of Object.entries(recipe.files ?? {})) {
      await Deno.writeTextFile(`${folder}/kernels/${name}`, text);
    }
    return new Workshop(folder, lock, recipe);
  }

  [Symbol.dispose](): void {
    this.#lock.close();
  }

  /** The path and the text of the file of a fault, which must have it once. */
  async find({ name, file, text }: Fault): Promise<[string, string]> {
    const path = `${this.folder}/${file}`;
    const whole = await Deno.readTextFile(path);
    const times = whole.split(text).length - 1;
    if (times === 1) return [path, whole];
    throw new Error(
      `fault '${name}': its text is ${times} times in ${file}, expected once:\n${text}`,
    );
  }

  /** Calls a function with the library as it is when a fault is planted. */
  async withPlanted<T>(
    fault: Fault,
    body: (library: string) => Promise<T>,
  ): Promise<T> {
    const objects = await this.#objects();
    const [path, whole] = await this.find(fault);
    try {
      await Deno.writeTextFile(
        path,
        whole.replace(fault.text, () => fault.becomes),
      );
      const { source } = fault;
      if (source === undefined) return await body(await this.library());
      objects.set(source, await this.#compile(source));
      return await body(await this.#link(objects));
    } finally {
      await Deno.writeTextFile(path, whole);
    }
  }

  /** Path of the library as the package is now. */
  async library(): Promise<string> {
    return await this.#link(await this.#objects());
  }

  async #objects(): Promise<Map<string, string>> {
    const objects = new Map<string, string>();
    for (const source of this.#recipe.sources) {
      objects.set(source, await this.#compile(source));
    }
    return objects;
  }

  /** Path of the object of a source, whose name is a hash of what is in it. */
  async #compile(source: string): Promise<string> {
    const texts = new Map<string, string>();
    await this.#read(source, texts);
    const hash = await hashOf([
      this.#recipe.identity,
      ...[...texts].flat(),
    ]);
    const object = `${this.folder}/../objects/${hash}.o`;
    try {
      await Deno.stat(object);
    } catch {
      const unfinished = `${object}.unfinished`;
      await run(
        `${this.folder}/kernels`,
        this.#recipe.compile(source, unfinished),
      );
      await Deno.rename(unfinished, object);
    }
    return object;
  }

  /** Reads a file of kernels/ and what it includes. */
  async #read(file: string, texts: Map<string, string>): Promise<void> {
    if (texts.has(file)) return;
    const kernels = `${this.folder}/kernels`;
    const text = await Deno.readTextFile(`${kernels}/${file}`);
    texts.set(file, text);
    for (const [, name] of text.matchAll(/^#include "(.+)"/gm)) {
      const beside = file.slice(0, file.lastIndexOf("/") + 1) + name;
      const isBeside = await Deno.stat(`${kernels}/${beside}`)
        .then(() => true, () => false);
      await this.#read(isBeside ? beside : name!, texts);
    }
  }

  async #link(objects: ReadonlyMap<string, string>): Promise<string> {
    const library = `${this.folder}/library.so`;
    const command = this.#recipe.link([...objects.values()], library);
    await run(`${this.folder}/kernels`, command);
    return library;
  }
}
