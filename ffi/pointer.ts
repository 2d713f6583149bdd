/** Addresses that users pass in, and text that native code writes. */
import { ArgumentError } from "../errors.ts";

/** The address of a pointer object; 0n of null. Throws for anything else. */
export function addressFrom(pointer: Deno.PointerValue, what: string): bigint {
  if (pointer === null) return 0n;
  try {
    return Deno.UnsafePointer.value(pointer);
  } catch (cause) {
    // Without the permission Deno's own error says best what to do.
    if (!(cause instanceof TypeError)) throw cause;
    throw new ArgumentError(
      `${what} is of type ${typeof pointer}, expected a Deno.PointerObject, ` +
        "as Deno.UnsafePointer.of(array) gives for a typed array",
      { cause },
    );
  }
}

/** Text up to the first NUL. */
export function decodeText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(bytes.subarray(0, end < 0 ? undefined : end));
}
