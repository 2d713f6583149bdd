/** Which of Deno's permissions this process has. */

const KINDS = ["ffi", "run", "read", "write", "env", "net", "sys"] as const;

/** Says that it has all of them; throws for those that it has in part or not at all. */
export async function describePermissions(): Promise<string> {
  const states = await Promise.all(
    KINDS.map((name) => Deno.permissions.query({ name })),
  );
  const missing = KINDS.filter((_, i) => states[i]!.state !== "granted");
  if (missing.length === 0) return "all that is needed";
  throw new Deno.errors.NotCapable(
    `not granted, or in part: ${
      missing.map((name) => `--allow-${name}`).join(" ")
    } (docs/permissions.md has the least that training needs)`,
  );
}
