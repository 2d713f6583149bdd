/** What a process holds of the system. */
export interface Held {
  /** Open files, sockets and pipes. */
  readonly handles: number;
  /** Threads that are not Deno's own, whose numbers follow its work. */
  readonly threads: number;
  /** Resident memory. */
  readonly megabytes: number;
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
    megabytes: Deno.memoryUsage().rss / 2 ** 20,
  };
}
