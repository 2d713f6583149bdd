/** The job that this process is a replica of, and the network that it is in. */
import { findPlace, LAUNCHER_VARIABLES } from "../distributed/environment.ts";
import { checkSecret } from "../distributed/rendezvous.ts";

/** Its place, by the variables of launchers. Throws if they contradict each other. */
export function describePlace(): string {
  const get = (name: string): string | undefined => Deno.env.get(name);
  const place = findPlace(get);
  const set = LAUNCHER_VARIABLES.filter((name) => get(name) !== undefined);
  const from = set.length === 0
    ? "no launcher's variables are set"
    : set.map((name) => `${name}=${get(name)}`).join(" ");
  if (place.worldSize === 1) return `alone: ${from}`;
  checkSecret(place, get("ATOMLOSS_SECRET"));
  const { rank, worldSize, masterAddr, storePorts } = place;
  return `rank ${rank} of ${worldSize}, rank 0 at ${masterAddr} port ${
    storePorts.join(" or ")
  }: ${from}`;
}

/** Addresses of this host. */
export function describeInterfaces(): string {
  return Deno.networkInterfaces()
    .map(({ name, address }) => `${name} ${address}`).join(", ");
}
