/** Addresses of hosts and of this host's interfaces. */
import { lookup } from "node:dns/promises";
import { LaunchError } from "../errors.ts";

/** Whether it is an address, not a name; IPv6 may have brackets and a scope. */
function isAddress(hostname: string): boolean {
  return hostname.includes(":") || /^\d{1,3}(\.\d{1,3}){3}$/.test(hostname);
}

/** Whether Deno lets this process; a permission for the name does not do. */
function mayReach(address: string): boolean {
  const host = address.includes(":") ? `[${address}]` : address;
  return Deno.permissions.querySync({ name: "net", host }).state === "granted";
}

/**
 * A name and all its addresses, an address alone. Deno tries the first address
 * of a name and no other, which need not be one that both hosts have.
 */
export async function addressesOf(hostname: string): Promise<string[]> {
  if (isAddress(hostname)) return [hostname];
  try {
    const found = await lookup(hostname, { all: true });
    const addresses = new Set(
      found.map(({ address }) => address).filter(mayReach),
    );
    return addresses.size > 1 ? [hostname, ...addresses] : [hostname];
  } catch {
    return [hostname]; // who uses it is told why
  }
}

/** Whether it is an address of IPv6 within one link, which means nothing without the link's name. */
function isOfLink(address: string): boolean {
  return /^fe[89ab]/i.test(address);
}

/** The scope of an address of a link, `%eth0`; otherwise nothing. */
function scopeOf(address: string): string {
  return /%[^\]]+/.exec(address)?.[0] ?? "";
}

/**
 * This host's end of a connection, as others on the way reach it: an address of
 * a link needs the link's name, which the system leaves out.
 */
export function localAddressOf(conn: Deno.Conn, remote: string): string {
  const { hostname } = conn.localAddr as Deno.NetAddr;
  return isOfLink(hostname) ? hostname + scopeOf(remote) : hostname;
}

/**
 * The address of an interface, of the same family as another address if it has
 * one: that of its network, not of the link, if it has both.
 *
 * @throws {LaunchError} if there is no such interface; names those there are.
 */
export function interfaceAddress(name: string, like: string): string {
  const all = Deno.networkInterfaces();
  const wanted = like.includes(":") ? "IPv6" : "IPv4";
  const own = all.filter((each) => each.name === name)
    .toSorted((a, b) =>
      Number(b.family === wanted) - Number(a.family === wanted) ||
      Number(isOfLink(a.address)) - Number(isOfLink(b.address))
    );
  const [first] = own;
  if (first !== undefined) {
    return isOfLink(first.address) ? `${first.address}%${name}` : first.address;
  }
  const names = [...new Set(all.map((each) => each.name))].join(", ");
  throw new LaunchError(
    `ATOMLOSS_INTERFACE is '${name}', which has no address or is not there: expected one of ${names}`,
  );
}
