/** A replica's connection to the store of rank 0. */
import { RendezvousError } from "../errors.ts";
import { addressesOf, localAddressOf } from "./addresses.ts";
import { closeQuietly, FrameConnection } from "./frames.ts";

/** What a replica asks. Values are base64. */
export type Request =
  | { op: "set"; key: string; value: string }
  | { op: "get"; keys: readonly string[]; wait: number }
  | { op: "gather"; name: string; first: number; all: number; wait: number };

/**
 * What the store answers: the values of the first keys, as many as are set and
 * fit into an answer, or why it closes. "gather" is for the keys `name/first` to
 * `name/(all - 1)`, and waits until all from `name/0` on are set: replicas that
 * were woken by each other's coming would be so many squared.
 */
export interface Reply {
  readonly values?: readonly string[];
  readonly closed?: string;
}

/** Pause between two attempts to connect, in ms: doubled each time, up to the second. */
const FIRST_PAUSE = 20;
const LONGEST_PAUSE = 500;

/** Longest time that one request waits in the store, in ms. */
const LONGEST_WAIT = 60_000;

/** Time that an attempt to connect has even at the deadline, in ms. */
const SHORTEST_ATTEMPT = 100;

/** How much longer than it asked to wait an answer may take, in ms. */
const ANSWER_TIME = 10_000;

/** How much of that may lie behind the deadline, in ms. */
const TIME_BEHIND_DEADLINE = 2_000;

type Bytes = Uint8Array<ArrayBuffer>;

/** A connection to the store; requests go one after the other. */
export class StoreClient {
  /** Address of this host on the way to rank 0: where its peers reach it too. */
  readonly localAddress: string;
  readonly #frames: FrameConnection;
  readonly #deadline: number;

  private constructor(
    frames: FrameConnection,
    deadline: number,
    hostname: string,
  ) {
    this.#frames = frames;
    this.#deadline = deadline;
    this.localAddress = localAddressOf(frames.conn, hostname);
  }

  /**
   * Connects to the first of the host's addresses and of the ports where a store
   * answers with the secret, trying again until the deadline: rank 0 may start
   * later, and its name be known later.
   *
   * @param deadline Time by performance.now().
   * @param lasting The same for its requests.
   * @throws {RendezvousError} if there is none until then.
   */
  static async connect(
    hostname: string,
    ports: readonly number[],
    secret: string,
    deadline: number,
    lasting = deadline,
  ): Promise<StoreClient> {
    let reason = "";
    for (let pause = FIRST_PAUSE;; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
      let listens = false;
      const addresses = await addressesOf(hostname);
      for (const address of addresses) {
        for (const port of ports) {
          const result = await StoreClient.#attempt(
            address,
            port,
            secret,
            deadline,
            lasting,
          );
          if (result instanceof StoreClient) return result;
          // What something that listens did tells more than that others do not.
          if (result.listens || !listens) {
            const at = addresses.length > 1 ? `${address} ` : "";
            reason = `${at}port ${port}: ${result.reason}`;
          }
          listens ||= result.listens;
        }
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
    deadline: number,
    lasting: number,
  ): Promise<StoreClient | { listens: boolean; reason: string }> {
    const left = (): number =>
      Math.max(deadline - performance.now(), SHORTEST_ATTEMPT);
    let conn: Deno.Conn;
    // A host that does not answer at all would hold connect() for minutes.
    const abort = new AbortController();
    const timer = setTimeout(
      () => abort.abort(),
      Math.min(left(), ANSWER_TIME),
    );
    try {
      const { signal } = abort;
      conn = await Deno.connect({ hostname, port, signal });
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) throw error;
      const reason = abort.signal.aborted
        ? "no answer"
        : (error as Error).message;
      return { listens: false, reason };
    } finally {
      clearTimeout(timer);
    }
    try {
      const client = new StoreClient(
        await FrameConnection.handshake(conn, secret, false, left()),
        lasting,
        hostname,
      );
      // The store shows that it knows the secret by answering.
      await client.#request({ op: "get", keys: [""], wait: 0 }, deadline);
      return client;
    } catch {
      closeQuietly(conn);
      return {
        listens: true,
        reason: "what listens there dropped the connection or sent something " +
          "else: is it another job's, or ATOMLOSS_SECRET not the same on all replicas?",
      };
    }
  }

  async #request(request: Request, deadline = this.#deadline): Promise<Reply> {
    const payload = new TextEncoder().encode(JSON.stringify(request));
    await this.#frames.send(payload);
    const wait = request.op === "set" ? 0 : request.wait;
    const left = Math.max(0, deadline - performance.now());
    const idle = Math.min(wait + ANSWER_TIME, left + TIME_BEHIND_DEADLINE);
    const answer = await this.#frames.receive(idle);
    if (answer === undefined) {
      throw new Error("the store ended the connection");
    }
    const reply: Reply = JSON.parse(new TextDecoder().decode(answer));
    if (reply.closed !== undefined) throw new RendezvousError(reply.closed);
    return reply;
  }

  /** The same with the error that callers expect. */
  async #ask(request: Request, deadline?: number): Promise<Reply> {
    try {
      return await this.#request(request, deadline);
    } catch (cause) {
      if (cause instanceof RendezvousError) throw cause;
      throw new RendezvousError(
        `rank 0 has gone, or hangs, while the replicas were finding each other: ${
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
    const { values = [""] } = await this.#ask({
      op: "set",
      key,
      value: value.toBase64(),
    });
    return Uint8Array.fromBase64(values[0]!);
  }

  /**
   * The values of keys, waiting for the first until the deadline (by
   * performance.now()).
   *
   * @returns The values of the first keys that are set: at least one, unless
   * nobody has set the first key until then.
   */
  get(keys: readonly string[], deadline: number): Promise<Bytes[]> {
    return this.#patiently({ op: "get", keys, wait: 0 }, deadline);
  }

  /**
   * The values of `name/first` to `name/(all - 1)`, when there are those from
   * `name/0` on, or at the deadline.
   *
   * @returns The first of them, as many as are set and fit into an answer.
   */
  gather(
    name: string,
    first: number,
    all: number,
    deadline: number,
  ): Promise<Bytes[]> {
    const request = { op: "gather", name, first, all, wait: 0 } as const;
    return this.#patiently(request, deadline);
  }

  /** Asks until there is something, or the deadline has come. */
  async #patiently(
    request: Exclude<Request, { op: "set" }>,
    deadline: number,
  ): Promise<Bytes[]> {
    for (;;) {
      const left = Math.max(0, deadline - performance.now());
      const wait = Math.min(left, LONGEST_WAIT);
      const { values = [] } = await this.#ask({ ...request, wait }, deadline);
      if (values.length > 0 || left <= LONGEST_WAIT) {
        return values.map((value) => Uint8Array.fromBase64(value));
      }
    }
  }

  /** Ends the connection. Safe to call again. */
  close(): void {
    this.#frames.close();
  }
}
