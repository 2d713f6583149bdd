/** Hosts on one machine, joined by a virtual switch: network namespaces, for root with `ip`. */

async function ip(line: string): Promise<void> {
  const { success, stderr } = await new Deno.Command("ip", {
    args: line.split(" "),
  }).output();
  if (!success) {
    throw new Error(`ip ${line}: ${new TextDecoder().decode(stderr)}`);
  }
}

/** Some hosts that reach each other and nothing else. */
export class BridgedHosts implements AsyncDisposable {
  readonly #names: readonly string[];
  readonly #bridge: string;

  private constructor(names: readonly string[], bridge: string) {
    this.#names = names;
    this.#bridge = bridge;
  }

  /**
   * Makes them.
   *
   * @param id A letter or two that tells them from others of this process.
   */
  static async make(count: number, id: string): Promise<BridgedHosts> {
    const tag = `${id}${Deno.pid}`;
    const names = Array.from({ length: count }, (_, i) => `al${i}${tag}`);
    const hosts = new BridgedHosts(names, `albr${tag}`);
    await hosts[Symbol.asyncDispose](); // of a run that was killed
    try {
      await ip(`link add ${hosts.#bridge} type bridge`);
      await ip(`link set ${hosts.#bridge} up`);
      for (const [i, name] of names.entries()) {
        await ip(`netns add ${name}`);
        await ip(`link add ${name} type veth peer name eth0 netns ${name}`);
        await ip(`link set ${name} master ${hosts.#bridge} up`);
        await ip(`-n ${name} addr add ${hosts.address(i)}/24 dev eth0`);
        await ip(`-n ${name} link set eth0 up`);
        await ip(`-n ${name} link set lo up`);
      }
    } catch (error) {
      await hosts[Symbol.asyncDispose]();
      throw error;
    }
    return hosts;
  }

  /** Whether this user may not. */
  static async cannot(): Promise<boolean> {
    try {
      await using _hosts = await BridgedHosts.make(1, "x");
      return false;
    } catch {
      return true;
    }
  }

  address(host: number): string {
    return `10.202.9.${host + 1}`;
  }

  /** The command that runs another one there. */
  command(host: number): readonly string[] {
    return ["ip", "netns", "exec", this.#names[host]!];
  }

  /** Pulls the cable. */
  async cut(host: number): Promise<void> {
    await ip(`link set ${this.#names[host]} down`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of this.#names) {
      await ip(`netns del ${name}`).catch(() => {});
    }
    await ip(`link del ${this.#bridge}`).catch(() => {});
  }
}
