/** How the replicas of a job find each other: everybody publishes, everybody reads. */
import { RendezvousError } from "../errors.ts";
import { interfaceAddress } from "./addresses.ts";
import type { Place } from "./environment.ts";
import { StoreClient } from "./store_client.ts";
import { StoreServer } from "./store_server.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** Least time that rank 0 gives the others to leave, in ms. */
const LEAVING_TIME = 4_000;

/** Whether only this host can reach the address. */
function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "::1" ||
    /^127(\.\d{1,3}){3}$/.test(hostname);
}

/**
 * Checks that a job has a secret where it needs one.
 *
 * @throws {RendezvousError} if it has none, and other hosts can reach rank 0.
 */
export function checkSecret(place: Place, secret: string | undefined): void {
  if (secret || isLoopback(place.masterAddr)) return;
  throw new RendezvousError(
    `MASTER_ADDR is ${place.masterAddr}, which other hosts can reach: set ATOMLOSS_SECRET to the same ` +
      "secret on all replicas",
  );
}

/** `2, 5 and 7`, or a count if there are many. */
function formatRanks(ranks: readonly number[]): string {
  if (ranks.length > 16) return `${ranks.length} of them, from ${ranks[0]} on,`;
  return ranks.length === 1
    ? `${ranks[0]}`
    : `${ranks.slice(0, -1).join(", ")} and ${ranks.at(-1)}`;
}

/** What rank 0 tells the others when it gives up. */
function failedOnRank0(error: unknown): string {
  return `the rendezvous failed on rank 0: ${(error as Error).message}`;
}

/** The meeting of a job's replicas, while it lasts. */
export class Rendezvous {
  readonly #place: Place;
  readonly #client: StoreClient;
  readonly #server: StoreServer | undefined;
  readonly #deadline: number;
  readonly #timeout: number;

  private constructor(
    place: Place,
    client: StoreClient,
    server: StoreServer | undefined,
    deadline: number,
    timeout: number,
  ) {
    this.#place = place;
    this.#client = client;
    this.#server = server;
    this.#deadline = deadline;
    this.#timeout = timeout;
  }

  /**
   * Joins the job; rank 0 also serves the store.
   *
   * @param secret The job's secret; undefined is allowed on loopback alone.
   * @param timeout Time for the whole rendezvous, in ms.
   * @throws {RendezvousError} if that fails; says which ranks are missing.
   */
  static async join(
    place: Place,
    secret: string | undefined,
    timeout: number,
  ): Promise<Rendezvous> {
    checkSecret(place, secret);
    // Jobs that share a host and a secret, or have none, must not mix.
    const key = JSON.stringify([secret ?? "", place.job]);
    const deadline = performance.now() + timeout;
    const server = place.rank === 0
      ? await StoreServer.listen(place.masterAddr, place.storePorts, key)
      : undefined;
    let client: StoreClient | undefined;
    try {
      const ports = server === undefined ? place.storePorts : [server.port];
      client = await StoreClient.connect(
        place.masterAddr,
        ports,
        key,
        deadline,
      );
      const rendezvous = new Rendezvous(
        place,
        client,
        server,
        deadline,
        timeout,
      );
      await rendezvous.#enter();
      return rendezvous;
    } catch (error) {
      client?.close();
      await server?.close(failedOnRank0(error));
      throw error;
    }
  }

  /**
   * Address of this host that the other replicas can reach: that of the
   * interface which ATOMLOSS_INTERFACE names, or the end of the way to rank 0.
   *
   * @throws {LaunchError} if there is no such interface.
   */
  get localAddress(): string {
    const { localAddress } = this.#client;
    const name = Deno.env.get("ATOMLOSS_INTERFACE");
    return name ? interfaceAddress(name, localAddress) : localAddress;
  }

  /** Says who this is, so that contradictions come out. */
  async #enter(): Promise<void> {
    const { rank, worldSize } = this.#place;
    const size = new TextEncoder().encode(String(worldSize));
    const others = await this.#client.set("world size", size);
    if (new TextDecoder().decode(others) !== String(worldSize)) {
      throw new RendezvousError(
        `rank ${rank} was started for a world size of ${worldSize}, others for ${
          new TextDecoder().decode(others)
        }`,
      );
    }
    const id = crypto.getRandomValues(new Uint8Array(16));
    const holder = await this.#client.set(`entered/${rank}`, id);
    if (holder.toHex() !== id.toHex()) {
      throw new RendezvousError(
        `another process has joined the job as rank ${rank} already`,
      );
    }
    await this.#gather("entered");
  }

  /** The values that all ranks have published under a name, in rank order. */
  async #gather(
    name: string,
    deadline = this.#deadline,
    verb = "come",
  ): Promise<Bytes[]> {
    const { worldSize } = this.#place;
    const values: Bytes[] = [];
    const missing: number[] = [];
    for (let rank = 0; rank < worldSize;) {
      // Once the deadline has passed, this only looks.
      const some = await this.#client.gather(name, rank, worldSize, deadline);
      if (some.length === 0) missing.push(rank);
      values.push(...some);
      rank += some.length || 1;
    }
    if (missing.length > 0) {
      throw new RendezvousError(
        `rank ${this.#place.rank} of ${this.#place.worldSize} waited ${this.#timeout} ms for the others: ` +
          `rank ${formatRanks(missing)} did not ${verb}${this.#hint()}`,
      );
    }
    return values;
  }

  /** Why replicas of other hosts cannot come, if rank 0 knows. */
  #hint(): string {
    const { masterAddr } = this.#place;
    const addresses = this.#server?.addresses ?? [masterAddr];
    // Debian calls a host 127.0.1.1 in its own /etc/hosts.
    return addresses.every(isLoopback) && !isLoopback(masterAddr)
      ? ` (MASTER_ADDR ${masterAddr} is ${
        addresses[0]
      } on this host, which no other can reach: give its address in the network)`
      : "";
  }

  /** Publishes a value and waits for those of all ranks, in rank order. */
  async allGather(name: string, value: Bytes): Promise<Bytes[]> {
    await this.#client.set(`${name}/${this.#place.rank}`, value);
    return await this.#gather(name);
  }

  /**
   * Leaves. Rank 0 waits until the others have left, since they still read
   * from its store, but not much beyond the deadline.
   */
  async leave(): Promise<void> {
    const { rank } = this.#place;
    try {
      await this.#client.set(`left/${rank}`, new Uint8Array(1));
      if (this.#server !== undefined) {
        const soon = performance.now() + LEAVING_TIME;
        await this.#gather("left", Math.max(this.#deadline, soon), "connect");
      }
    } catch (error) {
      await this.close(error);
      throw error;
    }
    await this.close();
  }

  /** Ends it at once; rank 0 tells the others why. Safe to call again. */
  async close(error?: unknown): Promise<void> {
    this.#client.close();
    if (error === undefined) await this.#server?.close();
    else await this.#server?.close(failedOnRank0(error));
  }
}
