/** What the doctor finds. */
import { AtomlossError } from "../errors.ts";

/** One thing that was looked at. */
export interface Finding {
  /** What it is about. */
  readonly name: string;
  /**
   * `"ok"`; `"note"`: not there, or not looked at, and training can do without;
   * `"failed"`: training would fail here.
   */
  readonly state: "ok" | "note" | "failed";
  /** What was found, or what is wrong and what to do about it. */
  readonly text: string;
}

/**
 * The finding of something that is tried: its text, or that of the error, which
 * is of this package or tells of a permission that is missing.
 */
export async function find(
  name: string,
  look: () => Promise<string> | string,
  otherwise: "note" | "failed" = "failed",
): Promise<Finding> {
  try {
    return { name, state: "ok", text: await look() };
  } catch (error) {
    const isKnown = error instanceof AtomlossError ||
      error instanceof Deno.errors.NotCapable;
    if (!isKnown) throw error;
    return { name, state: otherwise, text: error.message };
  }
}
