/**
 * A registry like JSR, on this host, that has this package as `deno publish`
 * would send it.
 */
import { ROOT } from "./launch_replicas.ts";

const { name, version, exports, imports } = JSON.parse(
  await Deno.readTextFile(`${ROOT}deno.json`),
) as {
  name: string;
  version: string;
  exports: Record<string, string>;
  imports: Record<string, string>;
};

/** The package by the name that users import. */
export const PACKAGE = `jsr:${name}@${version}`;

/** Files that `deno publish` says it would send. */
export async function publishedFiles(): Promise<string[]> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["publish", "--dry-run", "--allow-dirty", "--no-check"],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder().decode(stderr);
  if (!success) throw new Error(text);
  return [...text.matchAll(/^ +file:\/\/(\S+) \(\S+\)$/gm)]
    .map(([, path]) => path!.slice(ROOT.length));
}

/** What publishing makes of a module: bare names become what deno.json says. */
function unfurl(text: string): string {
  for (const [from, to] of Object.entries(imports)) {
    text = from.endsWith("/")
      ? text.replaceAll(`from "${from}`, `from "${to}`)
      : text.replaceAll(`from "${from}"`, `from "${to}"`);
  }
  return text;
}

async function published(file: string): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = await Deno.readFile(ROOT + file);
  if (!file.endsWith(".ts")) return bytes;
  return new TextEncoder().encode(unfurl(new TextDecoder().decode(bytes)));
}

async function manifestEntry(
  bytes: Uint8Array<ArrayBuffer>,
): Promise<{ size: number; checksum: string }> {
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  const checksum = `sha256-${new Uint8Array(digest).toHex()}`;
  return { size: bytes.length, checksum };
}

/** A registry that runs until it is disposed. */
export class Registry implements AsyncDisposable {
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  private constructor(answers: ReadonlyMap<string, Uint8Array<ArrayBuffer>>) {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen: (): void => {} },
      (request) => {
        const { pathname } = new URL(request.url);
        const body = answers.get(pathname);
        if (body === undefined) return new Response(null, { status: 404 });
        const type = pathname.endsWith(".ts")
          ? "application/typescript"
          : "text/plain";
        return new Response(body, { headers: { "content-type": type } });
      },
    );
  }

  /** Starts it. */
  static async start(): Promise<Registry> {
    const answers = new Map<string, Uint8Array<ArrayBuffer>>();
    const manifest: Record<string, unknown> = {};
    for (const file of await publishedFiles()) {
      const bytes = await published(file);
      manifest[`/${file}`] = await manifestEntry(bytes);
      answers.set(`/${name}/${version}/${file}`, bytes);
      answers.set(`/plain/${file}`, bytes);
    }
    const [scope, short] = name.slice(1).split("/");
    const about = {
      meta: {
        scope,
        name: short,
        latest: version,
        versions: { [version]: {} },
      },
      [`${version}_meta`]: { manifest, exports },
    };
    for (const [file, value] of Object.entries(about)) {
      const bytes = new TextEncoder().encode(JSON.stringify(value));
      answers.set(`/${name}/${file}.json`, bytes);
    }
    return new Registry(answers);
  }

  /** Its host and port. */
  get host(): string {
    return `127.0.0.1:${this.#server.addr.port}`;
  }

  /** For the environment of Deno. */
  get url(): string {
    return `http://${this.host}/`;
  }

  /** Address of a file of the package, where it is no registry's. */
  plain(file: string): string {
    return `${this.url}plain/${file}`;
  }

  /** Ends it. Safe to call again. */
  stop(): Promise<void> {
    return this.#server.shutdown();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}
