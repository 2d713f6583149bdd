import { assertEquals, assertThrows } from "@std/assert";
import { addressesOf, interfaceAddress } from "../distributed/addresses.ts";
import { LaunchError } from "../mod.ts";

Deno.test("addressesOf() leaves addresses as they are, and names that nobody knows", async () => {
  for (
    const hostname of ["10.0.0.1", "::1", "[::1]", "fe80::1%eth0", "no.invalid"]
  ) {
    assertEquals(await addressesOf(hostname), [hostname]);
  }
});

Deno.test("interfaceAddress() takes the family of the way to rank 0, and names the interfaces", () => {
  assertEquals(interfaceAddress("lo", "10.0.0.1"), "127.0.0.1");
  const addresses = Deno.networkInterfaces().filter(({ name }) =>
    name === "lo"
  );
  if (addresses.some(({ family }) => family === "IPv6")) {
    assertEquals(interfaceAddress("lo", "fd00::1"), "::1");
  }
  assertThrows(
    () => interfaceAddress("ib7", "10.0.0.1"),
    LaunchError,
    "ATOMLOSS_INTERFACE is 'ib7', which has no address or is not there: expected one of lo",
  );
});
