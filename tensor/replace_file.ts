/** Files that are there whole or not at all. */

/** Of a process and a call, so that two never write into each other's. */
let calls = 0;

/**
 * Puts a file in the place of another: whole, also if the power fails. What was
 * there stays until then, and if this throws.
 */
export async function replaceFile(
  path: string,
  bytes: Uint8Array<ArrayBuffer>,
): Promise<void> {
  const slash = path.lastIndexOf("/") + 1;
  const directory = path.slice(0, slash);
  const name = path.slice(slash);
  const temporary = `${directory}.${name}.${Deno.pid}.${calls++}`;
  try {
    {
      using file = await Deno.open(temporary, {
        write: true,
        create: true,
        truncate: true,
      });
      for (let at = 0; at < bytes.length;) {
        at += await file.write(bytes.subarray(at));
      }
      await file.sync();
    }
    await Deno.rename(temporary, path);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {}); // it may not be there
    throw error;
  }
  // The new name is in the folder, which has to reach the disk too.
  using folder = await Deno.open(directory || ".");
  await folder.sync();
}
