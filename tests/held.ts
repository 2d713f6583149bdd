/** What a process holds of the system. */
export interface Held {
  /** Open files, sockets and pipes. */
  readonly handles: number;
  /** Threads that are not Deno's own, whose numbers follow its work. */
  readonly threads: number;
}

/** What this process holds. */
export async function held(): Promise<Held> {
  // What has been closed on other threads is gone a little later.
  await new Promise((resolve) => setTimeout(resolve, 500));
  const names = [...Deno.readDirSync("/proc/self/task")].map(({ name }) =>
    Deno.readTextFileSync(`/proc/self/task/${name}/comm`)
  );
  return {
    handles: [...Deno.readDirSync("/proc/self/fd")].length,
    threads: names.filter((name) => !/^(tokio|V8|notify)/.test(name)).length,
  };
}

/** Into how many parts work is divided. */
const WINDOWS = 5;

/**
 * By how many megabytes resident memory grew in that fifth of `n` times the work
 * in which it grew least. What leaks grows in every one; the engine's own heap
 * comes and goes by 40 MB.
 */
export async function leaked(
  work: (n: number) => Promise<void>,
  n: number,
): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < WINDOWS; i++) {
    const before = Deno.memoryUsage().rss;
    await work(n / WINDOWS);
    least = Math.min(least, Deno.memoryUsage().rss - before);
  }
  return least / 2 ** 20;
}
