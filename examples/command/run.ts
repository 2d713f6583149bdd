/**
 * How a command ends: what can go wrong is said in a line, the rest is a bug.
 *
 * @module
 */

import { AtomlossError, InternalError } from "../../errors.ts";
import { OptionError } from "./arguments.ts";

/** Exit code of a command line that is wrong. */
const USAGE = 2;

/**
 * Runs a command, and ends with 1 where it fails, with 2 where its command line
 * is wrong.
 */
export async function runCommand(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    if (!(error instanceof AtomlossError) || error instanceof InternalError) {
      throw error;
    }
    console.error(error.message);
    Deno.exit(error instanceof OptionError ? USAGE : 1);
  }
}
