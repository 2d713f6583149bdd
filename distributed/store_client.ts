/** A replica's connection to the store of rank 0. */
import { RendezvousError } from "../errors.ts";
import { closeQuietly, FrameConnection } from "./frames.ts";

/** What a replica asks. Values are base64. */
export type Request =
  | { op: "set"; key: string; value: string }
  | { op: "get"; key: string; wait: number };

/** What the store answers: the key's value, if it has one. */
export interface Reply {
  readonly value?: string;
}

/** Pause between two attempts to connect, in ms: doubled each time, up to the second. */
const FIRST_PAUSE = 20;
const LONGEST_PAUSE = 500;

/** Longest time that one request waits in the store, in ms. */
const LONGEST_WAIT = 60_000;

/** How much longer than it asked to wait an answer may take, in ms. */
const ANSWER_TIME = 10_000;

type Bytes = Uint8Array<ArrayBuffer>;

/** A connection to the store; requests go one after the other. */
export class StoreClient {
  /** Address of this host on the way to rank 0: where its peers reach it too. */
  readonly localAddress: string;
  readonly #frames: FrameConnection;

  private constructor(frames: FrameConnection) {
    this.#frames = frames;
    this.localAddress = (frames.conn.localAddr as Deno.NetAddr).hostname;
  }

  /**
   * Connects to the first of the ports where a store answers with the secret,
   * trying again until the deadline: rank 0 may start later.
   *
   * @param deadline Time by performance.now().
   * @throws {RendezvousError} if there is none until then.
   */
  static async connect(
    hostname: string,
    ports: readonly number[],
    secret: string,
    deadline: number,
  ): Promise<StoreClient> {
    let reason = "";
    for (let pause = FIRST_PAUSE;; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
      for (const port of ports) {
        const result = await StoreClient.#attempt(hostname, port, secret);
        if (result instanceof StoreClient) return result;
        reason = `port ${port}: ${result}`;
      }
      if (performance.now() + pause >= deadline) break;
      await new Promise((next) => setTimeout(next, pause));
    }
    throw new RendezvousError(
      `rank 0 is missing: no rendezvous store answers on ${hostname}, ${reason}`,
    );
  }

  /** A client, or why there is none. */
  static async #attempt(
    hostname: string,
    port: number,
    secret: string,
  ): Promise<StoreClient | string> {
    let conn: Deno.Conn;
    try {
      conn = await Deno.connect({ hostname, port });
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) throw error;
      return (error as Error).message;
    }
    try {
      const client = new StoreClient(
        await FrameConnection.handshake(conn, secret, false),
      );
      // The store shows that it knows the secret by answering.
      await client.#request({ op: "get", key: "", wait: 0 });
      return client;
    } catch {
      closeQuietly(conn);
      return "what listens there dropped the connection or sent something else; is ATOMLOSS_SECRET the same on all replicas?";
    }
  }

  async #request(request: Request): Promise<Reply> {
    const payload = new TextEncoder().encode(JSON.stringify(request));
    await this.#frames.send(payload);
    const wait = request.op === "get" ? request.wait : 0;
    const reply = await this.#frames.receive(wait + ANSWER_TIME);
    if (reply === undefined) throw new Error("the store ended the connection");
    return JSON.parse(new TextDecoder().decode(reply));
  }

  /** The same with the error that callers expect. */
  async #ask(request: Request): Promise<Reply> {
    try {
      return await this.#request(request);
    } catch (cause) {
      throw new RendezvousError(
        `rank 0 has gone while the replicas were finding each other: ${
          (cause as Error).message
        }`,
        { cause },
      );
    }
  }

  /**
   * Sets a key that has no value yet. Values are never overwritten.
   *
   * @returns The value that the key has now: another one if it was set before.
   */
  async set(key: string, value: Bytes): Promise<Bytes> {
    const reply = await this.#ask({ op: "set", key, value: value.toBase64() });
    return Uint8Array.fromBase64(reply.value ?? "");
  }

  /**
   * The value of a key, waiting for it until the deadline (by performance.now()).
   *
   * @returns undefined if nobody has set it until then.
   */
  async get(key: string, deadline: number): Promise<Bytes | undefined> {
    for (;;) {
      const left = Math.max(0, deadline - performance.now());
      const wait = Math.min(left, LONGEST_WAIT);
      const { value } = await this.#ask({ op: "get", key, wait });
      if (value !== undefined) return Uint8Array.fromBase64(value);
      if (left <= LONGEST_WAIT) return undefined;
    }
  }

  /** Ends the connection. Safe to call again. */
  close(): void {
    this.#frames.close();
  }
}
