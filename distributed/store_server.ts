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

/** Connections that may be open at once before they have shown the secret. */
const MAX_STRANGERS = 64;

/** Time for a new connection's first request, in ms. */
const FIRST_REQUEST_TIME = 5_000;

/** Time in which replies that are under way must be sent when it closes, in ms. */
const CLOSING_TIME = 1_000;

/** Most characters that keys and values may have together. */
const MAX_STORED = 256 << 20;

/** A request as it was received. Who sends it knows the secret, but may be of another version. */
function parseRequest(payload: Uint8Array): Request {
  const { op, key, keys, value, wait } = JSON.parse(
    new TextDecoder().decode(payload),
  );
  const isText = (text: unknown): boolean => typeof text === "string";
  if (op === "set" && isText(key) && isText(value)) return { op, key, value };
  if (op === "get" && Array.isArray(keys) && keys.every(isText)) {
    if (keys.length > 0 && Number.isFinite(wait)) return { op, keys, wait };
  }
  throw new ProtocolError("a request is malformed");
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
  readonly #waiting = new Map<string, Set<() => void>>();
  readonly #connections = new Set<Deno.Conn>();
  readonly #served: Promise<unknown>;
  #strangers = 0;
  #stored = 0;
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
      if (this.#strangers >= MAX_STRANGERS) {
        closeQuietly(conn); // a replica tries again
        continue;
      }
      this.#serve(conn);
    }
  }

  /** Answers one connection until it ends or misbehaves. */
  async #serve(conn: Deno.Conn): Promise<void> {
    this.#connections.add(conn);
    this.#strangers++;
    let stranger = true;
    let frames: FrameConnection | undefined;
    try {
      frames = await FrameConnection.handshake(conn, this.#secret, true);
      let payload = await frames.receive(FIRST_REQUEST_TIME);
      stranger = false;
      this.#strangers--;
      while (payload !== undefined) {
        const answer = this.#respond(frames, payload);
        this.#replicas.set(frames, answer);
        await answer;
        payload = await frames.receive();
      }
    } catch {
      // Whatever it is, it concerns this connection alone: it is dropped.
    } finally {
      if (stranger) this.#strangers--;
      if (frames !== undefined) this.#replicas.delete(frames);
      this.#connections.delete(conn);
      closeQuietly(conn);
    }
  }

  async #respond(frames: FrameConnection, payload: Uint8Array): Promise<void> {
    if (this.#closed) return; // close() tells it
    await this.#send(frames, await this.#answer(parseRequest(payload)));
    // Closed meanwhile: what was just sent may not have said so.
    if (this.#failure !== undefined) {
      await this.#send(frames, { closed: this.#failure });
    }
    this.#replicas.set(frames, undefined);
  }

  async #send(frames: FrameConnection, reply: Reply): Promise<void> {
    await frames.send(new TextEncoder().encode(JSON.stringify(reply)));
  }

  async #answer(request: Request): Promise<Reply> {
    if (request.op === "set") return this.#set(request.key, request.value);
    const { keys, wait } = request;
    if (!this.#values.has(keys[0]!) && wait > 0) {
      await this.#wait(keys[0]!, wait);
    }
    const values = this.#get(keys);
    return values.length > 0 || this.#failure === undefined
      ? { values }
      : { closed: this.#failure };
  }

  /** The values of the first keys, as many as are set and fit into an answer. */
  #get(keys: readonly string[]): string[] {
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
    for (const wake of this.#waiting.get(key) ?? []) wake();
    return { values: [value] };
  }

  /** Resolves when the key is set, after ms, or when the store closes. */
  #wait(key: string, ms: number): Promise<void> {
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
