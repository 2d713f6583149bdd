/**
 * The launchers of a job on several hosts, which start and end its attempts
 * together. That of host 0 serves a store on the job's port, as torchrun's does;
 * the replicas' own is on a port behind it.
 */
import { StoreClient } from "../distributed/store_client.ts";
import { StoreServer } from "../distributed/store_server.ts";
import { LaunchError, RendezvousError } from "../errors.ts";
import type { Failure } from "./attempt.ts";

/** Time for all launchers to be started, in ms. */
const MEETING_TIME = 15 * 60_000;

/** Time for all to come to the next attempt: none has more to do than to end its replicas. */
const NEXT_TIME = 15_000;

/** Time between two looks for a failure of other hosts, in ms. */
const LOOK_TIME = 200;

/** Time that host 0 gives the others to leave, in ms. */
const LEAVING_TIME = 5_000;

/** What a launcher has to know to find the others. */
export interface Meeting {
  readonly nodeRank: number;
  readonly nnodes: number;
  readonly masterAddr: string;
  readonly masterPort: number;
  readonly secret: string;
  /** What has to be the same on all hosts. */
  readonly agreed: Readonly<Record<string, number>>;
}

const encode = (value: unknown): Uint8Array<ArrayBuffer> =>
  new TextEncoder().encode(JSON.stringify(value));
const decode = (bytes: Uint8Array): unknown =>
  JSON.parse(new TextDecoder().decode(bytes));

/** What is asked of host 0's store, or the failure that it has gone. */
async function orGone(
  ask: () => Promise<Failure | undefined>,
): Promise<Failure | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof RendezvousError)) throw error;
    const reason = "the launcher of node rank 0 has gone, or hangs";
    return { code: 1, reason, isFinal: true };
  }
}

/** This launcher's connection to the others. */
export class Hosts {
  readonly #meeting: Meeting;
  readonly #server: StoreServer | undefined;
  /** For requests, and for those that wait until something fails. */
  readonly #asker: StoreClient;
  readonly #listener: StoreClient;

  private constructor(
    meeting: Meeting,
    server: StoreServer | undefined,
    asker: StoreClient,
    listener: StoreClient,
  ) {
    this.#meeting = meeting;
    this.#server = server;
    this.#asker = asker;
    this.#listener = listener;
  }

  /**
   * Finds the launcher of host 0.
   *
   * @throws {RendezvousError} if it is not there in time.
   * @throws {LaunchError} if launchers contradict each other.
   */
  static async meet(meeting: Meeting): Promise<Hosts> {
    const { nodeRank, masterAddr, masterPort, secret, agreed } = meeting;
    const key = JSON.stringify(["launchers", secret]);
    const ports = [masterPort];
    const server = nodeRank === 0
      ? await StoreServer.listen(masterAddr, ports, key)
      : undefined;
    const deadline = performance.now() + MEETING_TIME;
    const connect = (): Promise<StoreClient> =>
      StoreClient.connect(masterAddr, ports, key, deadline, Infinity);
    const clients: StoreClient[] = [];
    try {
      clients.push(await connect(), await connect());
      const [asker, listener] = clients;
      const hosts = new Hosts(meeting, server, asker!, listener!);
      await hosts.#set("agreed", agreed, "was started with other options");
      const id = crypto.randomUUID();
      await hosts.#set(`host/${nodeRank}`, id, "has been started already");
      return hosts;
    } catch (error) {
      for (const client of clients) client.close();
      await server?.close();
      throw error;
    }
  }

  /** Sets what has to be the same wherever it is set. */
  async #set(key: string, value: unknown, otherwise: string): Promise<void> {
    const first = await this.#asker.set(key, encode(value));
    if (JSON.stringify(decode(first)) === JSON.stringify(value)) return;
    throw new LaunchError(
      `a launcher of node rank ${this.#meeting.nodeRank} ${otherwise}: ${
        JSON.stringify(decode(first))
      }`,
    );
  }

  /** Waits for a key of every host; the hosts that have not set it in time. */
  async #missing(name: string, time: number): Promise<number[]> {
    const deadline = performance.now() + time;
    const missing: number[] = [];
    for (let host = 0; host < this.#meeting.nnodes; host++) {
      const values = await this.#asker.get([`${name}/${host}`], deadline);
      if (values.length === 0) missing.push(host);
    }
    return missing;
  }

  /**
   * Waits until all hosts are ready for an attempt.
   *
   * @throws {RendezvousError} if some do not come; names them.
   */
  async begin(attempt: number): Promise<void> {
    const { nodeRank } = this.#meeting;
    await this.#asker.set(`begin/${attempt}/${nodeRank}`, encode(true));
    const time = attempt === 0 ? MEETING_TIME : NEXT_TIME;
    const missing = await this.#missing(`begin/${attempt}`, time);
    if (missing.length === 0) return;
    throw new RendezvousError(
      `attempt ${attempt} cannot start: the launcher of node rank ${
        missing.join(", ")
      } did not come within ${time / 1e3} s`,
    );
  }

  /** Resolves when an attempt has failed on some host, with why. */
  failed(attempt: number): Promise<Failure | undefined> {
    return orGone(async () => {
      const [value] = await this.#listener.get([`failed/${attempt}`], Infinity);
      return decode(value!) as Failure;
    });
  }

  /**
   * Tells the others how an attempt has ended here, and waits for them.
   *
   * @param failed The failure of another host, once there is one.
   * @returns Why it failed on the host where it failed first, if it did.
   */
  conclude(
    attempt: number,
    failure: Failure | undefined,
    failed: () => Failure | undefined,
  ): Promise<Failure | undefined> {
    const { nodeRank, nnodes } = this.#meeting;
    return orGone(async () => {
      if (failure !== undefined) {
        const key = `failed/${attempt}`;
        return decode(await this.#asker.set(key, encode(failure))) as Failure;
      }
      await this.#asker.set(`done/${attempt}/${nodeRank}`, encode(true));
      for (let host = 0; host < nnodes && failed() === undefined;) {
        const soon = performance.now() + LOOK_TIME;
        const done = await this.#asker.get([`done/${attempt}/${host}`], soon);
        host += done.length;
      }
      return failed();
    });
  }

  /** Leaves; host 0 waits a while for the others, who still read what it serves. */
  async leave(): Promise<void> {
    try {
      const { nodeRank } = this.#meeting;
      await this.#asker.set(`left/${nodeRank}`, encode(true));
      if (this.#server) await this.#missing("left", LEAVING_TIME);
    } catch (error) {
      if (!(error instanceof RendezvousError)) throw error;
      // Host 0 has left already.
    }
    await this.close();
  }

  /** Ends the connections at once. Safe to call again. */
  async close(): Promise<void> {
    this.#asker.close();
    this.#listener.close();
    await this.#server?.close();
  }
}
