/**
 * How long the rendezvous takes for many replicas, and what it costs rank 0:
 *
 *   deno run -A bench/rendezvous.ts 100 300 1000
 *
 * Real sockets over loopback: rank 0 in a process of its own, the others in
 * some more. Each publishes as many bytes as NCCL's replicas do. Prints a table of
 * the time from the first to the last who has all of them, what rank 0's process
 * has grown by, and what it sends, per replica.
 */
import { Rendezvous } from "../distributed/rendezvous.ts";

/** An id of NCCL's and an address for the roll call. */
const BLOB_BYTES = 192;
const TIMEOUT = 60_000;
/** More in a process would measure what its collector does with their values. */
const PROCESS_REPLICAS = 500;
const SECRET = "of this measurement alone";

/** Some replicas of a job, in this process. */
async function meet(
  ranks: readonly number[],
  worldSize: number,
  port: number,
): Promise<void> {
  const place = {
    worldSize,
    localRank: 0,
    masterAddr: "127.0.0.1",
    storePorts: [port],
    job: "measurement",
  };
  await Promise.all(ranks.map(async (rank) => {
    const replica = await Rendezvous.join({ ...place, rank }, SECRET, TIMEOUT);
    const blob = crypto.getRandomValues(new Uint8Array(BLOB_BYTES));
    const all = await replica.allGather("blob", blob);
    if (all.length !== worldSize) throw new Error("some are missing");
    await replica.leave();
  }));
}

/** Bytes that have gone over loopback. */
async function loopbackBytes(): Promise<number> {
  const file = "/sys/class/net/lo/statistics/tx_bytes";
  return Number(await Deno.readTextFile(file));
}

function start(first: number, n: number, port: number): Deno.ChildProcess {
  const numbers = [first, n, port].map(String);
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", import.meta.filename!, "--first", ...numbers],
    stdout: "piped",
  }).spawn();
}

async function measure(n: number): Promise<void> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const before = await loopbackBytes();
  const begin = performance.now();
  const firsts = [0];
  for (let rank = 1; rank < n; rank += PROCESS_REPLICAS) firsts.push(rank);
  const outputs = await Promise.all(
    firsts.map((first) => start(first, n, port).output()),
  );
  if (!outputs.every(({ success }) => success)) {
    throw new Error(`${n} did not meet`);
  }
  const seconds = (performance.now() - begin) / 1e3;
  const megabytes = Number(new TextDecoder().decode(outputs[0]!.stdout));
  const kilobytes = (await loopbackBytes() - before) / 1e3 / n;
  console.log(
    `| ${n} | ${seconds.toFixed(1)} | ${megabytes.toFixed(0)} | ${
      kilobytes.toFixed(0)
    } |`,
  );
}

if (Deno.args[0] === "--first") {
  const [first, n, port] = Deno.args.slice(1).map(Number);
  const count = first === 0 ? 1 : Math.min(PROCESS_REPLICAS, n! - first!);
  const before = Deno.memoryUsage().rss;
  await meet(Array.from({ length: count }, (_, i) => first! + i), n!, port!);
  console.log((Deno.memoryUsage().rss - before) / 1e6);
} else {
  console.log("| replicas | time, s | memory of rank 0, MB | kB per replica |");
  console.log("| --- | --- | --- | --- |");
  for (const n of Deno.args.map(Number)) await measure(n);
}
