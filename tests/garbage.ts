/** Makes the garbage collector run, and finalizers after it. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
const gc: () => void = runInNewContext("gc");

/**
 * Collects what nothing holds. Between two tasks: a WeakRef that was read holds
 * its target until the task ends, and finalizers run in a task of their own.
 */
export async function collectGarbage(): Promise<void> {
  for (let i = 0; i < 2; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    gc();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
