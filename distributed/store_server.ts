/** The key-value store that rank 0 serves while the replicas find each other. */
import { RendezvousError } from "../errors.ts";
import { addressesOf } from "./addresses.ts";
import {
  closeQuietly,
  FrameConnection,
  MAX_PAYLOAD,
  ProtocolError,
} from "./frames.ts";
import type { Reply, Request } from "./store_client.ts";
import { Turns } from "./turns.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** Connections that may be open at once before they have shown the secret: the others queue. */
const MAX_STRANGERS = 64;

/** Time that the oldest of so many has before it makes room, in ms. */
const STRANGER_TIME = 250;

/** Time for a new connection's first request, in ms. */
const FIRST_REQUEST_TIME = 5_000;

/** Time in which replies that are under way must be sent when it closes, in ms. */
const CLOSING_TIME = 1_000;

/** Answers of up to a megabyte that are sent at a time: all replicas ask for the same at once. */
const ANSWERS_AT_A_TIME = 16;

/** Most characters that keys and values may have together. */
const MAX_STORED = 256 << 20;

/** A request as it was received. Who sends it knows the secret, but may be of another version. */
function parseRequest(payload: Uint8Array): Request {
  const { op, key, keys, value, wait, name, first, all } = JSON.parse(
    new TextDecoder().decode(payload),
  );
  const isText = (text: unknown): boolean => typeof text === "string";
  const isCount = (n: unknown): boolean =>
    Number.isSafeInteger(n) && Number(n) >= 0;
  if (op === "set" && isText(key) && isText(value)) return { op, key, value };
  if (op === "get" && Array.isArray(keys) && keys.every(isText)) {
    if (keys.length > 0 && Number.isFinite(wait)) return { op, keys, wait };
  }
  if (op === "gather" && isText(name) && isCount(first) && isCount(all)) {
    if (Number.isFinite(wait)) return { op, name, first, all, wait };
  }
  throw new ProtocolError("a request is malformed");
}

function encode(reply: Reply): Bytes {
  return new TextEncoder().encode(JSON.stringify(reply));
}

/** Those that are asked for. */
function* numberedKeys(
  { name, first, all }: { name: string; first: number; all: number },
): Generator<string> {
  for (let i = first; i < all; i++) yield `${name}/${i}`;
}

/**
 * Listens on a port of all the addresses that are this host's; undefined if
 * another program has it.
 */
function listenOn(
  hostnames: readonly string[],
  port: number,
): Deno.TcpListener[] | undefined {
  const listeners: Deno.TcpListener[] = [];
  let failure: unknown;
  for (const hostname of hostnames) {
    if (listeners.some(({ addr }) => addr.hostname === hostname)) continue;
    const options = { hostname, port: listeners[0]?.addr.port ?? port };
    try {
      listeners.push(Deno.listen(options));
    } catch (error) {
      failure ??= error;
      if (!(error instanceof Deno.errors.AddrInUse)) continue;
      for (const listener of listeners) listener.close();
      return undefined;
    }
  }
  if (listeners.length > 0) return listeners;
  if (failure instanceof Deno.errors.NotCapable) throw failure;
  throw new RendezvousError(
    `rank 0 cannot listen on ${hostnames[0]}:${port}: ${
      (failure as Error).message
    }; MASTER_ADDR must be an address of its host`,
    { cause: failure },
  );
}

/**
 * A write-once key-value store on a port of this host.
 *
 * A connection with the wrong secret, with garbage, with an oversized, half,
 * slow or repeated frame is dropped; the others are not disturbed.
 */
export class StoreServer {
  /** The addresses and the port it listens on. */
  readonly addresses: readonly string[];
  readonly port: number;
  readonly #listeners: readonly Deno.TcpListener[];
  readonly #secret: string;
  readonly #values = new Map<string, string>();
  /** How many keys there are of each name: of `name/0`, `name/1`, …. */
  readonly #counts = new Map<string, number>();
  /** By the key that they wait for, or the name and the number of its keys. */
  readonly #waiting = new Map<string, Set<() => void>>();
  readonly #connections = new Set<Deno.Conn>();
  readonly #served: Promise<unknown>;
  /** Those that have not shown the secret, with the time of their coming, the oldest first. */
  readonly #strangers = new Map<Deno.Conn, number>();
  #strangerLeft = Promise.withResolvers<void>();
  #stored = 0;
  readonly #turns = new Turns(ANSWERS_AT_A_TIME);
  /** The last answer to a gather of all. */
  #gather: { what: string; payload: Bytes } | undefined;
  /** Connections that have shown the secret, with the answer that is under way. */
  readonly #replicas = new Map<FrameConnection, Promise<void> | undefined>();
  #closed = false;
  /** Why it was closed, if the job cannot go on. */
  #failure: string | undefined;

  private constructor(listeners: readonly Deno.TcpListener[], secret: string) {
    this.#listeners = listeners;
    this.#secret = secret;
    this.addresses = listeners.map(({ addr }) => addr.hostname);
    this.port = listeners[0]!.addr.port;
    this.#served = Promise.all(listeners.map((each) => this.#accept(each)));
  }

  /**
   * Listens on the first of the ports that is free.
   *
   * @param hostname Address to listen on, and no other; of a name all that are this host's.
   * @param ports Ports in the order of preference; 0 takes any.
   * @param secret The job's secret.
   * @throws {RendezvousError} if every port is taken, or the address is not this host's.
   */
  static async listen(
    hostname: string,
    ports: readonly number[],
    secret: string,
  ): Promise<StoreServer> {
    const hostnames = await addressesOf(hostname);
    for (const port of ports) {
      const listeners = listenOn(hostnames, port);
      if (listeners !== undefined) return new StoreServer(listeners, secret);
    }
    throw new RendezvousError(
      `rank 0 cannot listen on ${hostname}, port ${
        ports.join(" or ")
      }: taken by another program; set MASTER_PORT to a free port`,
    );
  }

  async #accept(listener: Deno.TcpListener): Promise<void> {
    while (!this.#closed) {
      await this.#makeRoom();
      let conn: Deno.Conn;
      try {
        conn = await listener.accept();
      } catch {
        // Closed, or a connection that was gone before it was accepted.
        if (!this.#closed) {
          await new Promise((next) => setTimeout(next, 10));
        }
        continue;
      }
      this.#serve(conn);
    }
  }

  /**
   * Waits until a stranger may come. Replicas show the secret at once, however
   * many start together; whoever connects and is silent goes first.
   */
  async #makeRoom(): Promise<void> {
    while (this.#strangers.size >= MAX_STRANGERS && !this.#closed) {
      const [oldest, since] = this.#strangers.entries().next().value!;
      const left = since + STRANGER_TIME - performance.now();
      if (left <= 0) {
        this.#leave(oldest);
        closeQuietly(oldest); // a replica tries again
        return;
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, left);
      await Promise.race([this.#strangerLeft.promise, promise]);
      clearTimeout(timer);
    }
  }

  /** A connection that is no stranger any more. */
  #leave(conn: Deno.Conn): void {
    if (!this.#strangers.delete(conn)) return;
    this.#strangerLeft.resolve();
    this.#strangerLeft = Promise.withResolvers();
  }

  /** Answers one connection until it ends or misbehaves. */
  async #serve(conn: Deno.Conn): Promise<void> {
    this.#connections.add(conn);
    this.#strangers.set(conn, performance.now());
    let frames: FrameConnection | undefined;
    try {
      frames = await FrameConnection.handshake(conn, this.#secret, true);
      let payload = await frames.receive(FIRST_REQUEST_TIME);
      this.#leave(conn);
      while (payload !== undefined) {
        const answer = this.#respond(frames, payload);
        this.#replicas.set(frames, answer);
        await answer;
        payload = await frames.receive();
      }
    } catch {
      // Whatever it is, it concerns this connection alone: it is dropped.
    } finally {
      this.#leave(conn);
      if (frames !== undefined) this.#replicas.delete(frames);
      this.#connections.delete(conn);
      closeQuietly(conn);
    }
  }

  async #respond(frames: FrameConnection, payload: Uint8Array): Promise<void> {
    if (this.#closed) return; // close() tells it
    const request = parseRequest(payload);
    await this.#isReady(request);
    if (request.op === "gather") {
      await this.#turns.take(() => frames.send(this.#gathered(request)));
    } else {
      await this.#send(frames, this.#answer(request));
    }
    // Closed meanwhile: what was just sent may not have said so.
    if (this.#failure !== undefined) {
      await this.#send(frames, { closed: this.#failure });
    }
    this.#replicas.set(frames, undefined);
  }

  async #send(frames: FrameConnection, reply: Reply): Promise<void> {
    await frames.send(encode(reply));
  }

  /** The answer to a gather: all replicas get the same, which is encoded once. */
  #gathered(request: Request & { op: "gather" }): Bytes {
    const { name, first, all } = request;
    const what = `${name}/${first}#${all}`;
    if (this.#gather?.what === what) return this.#gather.payload;
    const payload = encode(this.#answer(request));
    // While some are missing, the next answer may be another.
    const isWhole = (this.#counts.get(name) ?? 0) >= all;
    if (isWhole) this.#gather = { what, payload };
    return payload;
  }

  /** Resolves when what is asked for is there, or its time is over. */
  async #isReady(request: Request): Promise<void> {
    if (request.op === "get" && !this.#values.has(request.keys[0]!)) {
      await this.#wait(request.keys[0]!, request.wait);
    }
    if (request.op === "gather") {
      const { name, all, wait } = request;
      const count = this.#counts.get(name) ?? 0;
      if (count < all) await this.#wait(`${name}#${all}`, wait);
    }
  }

  #answer(request: Request): Reply {
    if (request.op === "set") return this.#set(request.key, request.value);
    const values = this.#first(
      request.op === "get" ? request.keys : numberedKeys(request),
    );
    return values.length > 0 || this.#failure === undefined
      ? { values }
      : { closed: this.#failure };
  }

  /** The values of the first keys, as many as are set and fit into an answer. */
  #first(keys: Iterable<string>): string[] {
    const values: string[] = [];
    let characters = 0;
    for (const key of keys) {
      const value = this.#values.get(key);
      if (value === undefined) break;
      characters += value.length + '"",'.length;
      // One always fits: it came in a request.
      if (values.length > 0 && characters > MAX_PAYLOAD / 2) break;
      values.push(value);
    }
    return values;
  }

  /** Sets a key, or answers with the value that it has already. */
  #set(key: string, value: string): Reply {
    const before = this.#values.get(key);
    if (before !== undefined) return { values: [before] };
    const stored = this.#stored + key.length + value.length;
    if (stored > MAX_STORED) throw new ProtocolError("the store is full");
    this.#stored = stored;
    this.#values.set(key, value);
    const name = key.slice(0, key.lastIndexOf("/"));
    const count = (this.#counts.get(name) ?? 0) + 1;
    this.#counts.set(name, count);
    for (const what of [key, `${name}#${count}`]) {
      for (const wake of [...this.#waiting.get(what) ?? []]) wake();
    }
    return { values: [value] };
  }

  /** Resolves when that is there, after ms, or when the store closes. */
  #wait(key: string, ms: number): Promise<void> {
    if (ms <= 0 || this.#closed) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    let waiting = this.#waiting.get(key);
    if (waiting === undefined) {
      waiting = new Set();
      this.#waiting.set(key, waiting);
    }
    const all = waiting;
    const wake = (): void => {
      clearTimeout(timer);
      all.delete(wake);
      if (all.size === 0) this.#waiting.delete(key);
      resolve();
    };
    const timer = setTimeout(wake, ms);
    all.add(wake);
    return promise;
  }

  /**
   * Stops listening and ends every connection. Safe to call again.
   *
   * @param failure Why the job cannot go on: the replicas are told.
   */
  async close(failure?: string): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure = failure;
    for (const listener of this.#listeners) listener.close();
    this.#strangerLeft.resolve();
    for (const wakes of [...this.#waiting.values()]) {
      for (const wake of [...wakes]) wake();
    }
    // A reply that is cut off would look like a failure to who waits for it.
    const last = [...this.#replicas].map(([frames, answer]) =>
      answer ??
        (failure === undefined
          ? undefined
          : this.#send(frames, { closed: failure }))
    );
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, CLOSING_TIME);
    await Promise.race([Promise.allSettled(last), late]);
    clearTimeout(timer);
    for (const conn of this.#connections) closeQuietly(conn);
    await this.#served;
  }
}
