import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { FrameConnection } from "../distributed/frames.ts";
import { Rendezvous } from "../distributed/rendezvous.ts";
import { StoreClient } from "../distributed/store_client.ts";
import { StoreServer } from "../distributed/store_server.ts";
import { RendezvousError } from "../mod.ts";
import { freePort } from "./system.ts";

const HOST = "127.0.0.1";
const SECRET = "correct horse battery staple";
const bytes = (text: string): Uint8Array<ArrayBuffer> =>
  new TextEncoder().encode(text);
const soon = (ms = 10_000): number => performance.now() + ms;

async function withStore(
  test: (server: StoreServer) => Promise<void>,
): Promise<void> {
  const server = await StoreServer.listen(HOST, [0], SECRET);
  try {
    await test(server);
  } finally {
    await server.close();
  }
}

function connect(
  server: StoreServer,
  secret = SECRET,
  deadline = soon(),
): Promise<StoreClient> {
  return StoreClient.connect(HOST, [server.port], secret, deadline);
}

/** Reads until the other side ends the connection; throws if it does not. */
async function untilClosed(conn: Deno.Conn, limit = 10_000): Promise<number> {
  let total = 0;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    conn.close();
  }, limit);
  const buffer = new Uint8Array(1 << 16);
  for (;;) {
    const read = await conn.read(buffer).catch(() => null);
    if (read === null) break;
    total += read;
  }
  clearTimeout(timer);
  assert(!late, `the connection was open for ${limit} ms`);
  return total;
}

Deno.test("a store keeps the first value of a key and wakes those who wait for it", () =>
  withStore(async (server) => {
    const a = await connect(server);
    const b = await connect(server);
    const waiting = b.get(["key"], soon());
    assertEquals(await a.set("key", bytes("one")), bytes("one"));
    assertEquals(await waiting, [bytes("one")]);
    assertEquals(await b.set("key", bytes("two")), bytes("one"));
    assertEquals(await a.get(["other"], soon(50)), []);
    assertEquals(await a.set("empty", bytes("")), bytes(""));
    assertEquals(await b.get(["empty"], soon()), [bytes("")]);
    assertEquals(await b.get(["key", "empty", "other", "key"], soon()), [
      bytes("one"),
      bytes(""),
    ]);
    a.close();
    b.close();
  }));

Deno.test("a client with another secret gets nothing, and the reason without the secret", () =>
  withStore(async (server) => {
    const good = await connect(server);
    await good.set("key", bytes("value"));
    const error = await assertRejects(
      () => connect(server, "wrong", soon(300)),
      RendezvousError,
      "ATOMLOSS_SECRET",
    );
    assert(!error.message.includes("wrong") && !error.message.includes(SECRET));
    assertEquals(await good.get(["key"], soon()), [bytes("value")]);
    good.close();
  }));

Deno.test("garbage, oversized, half and silent connections are dropped, and the job goes on", () =>
  withStore(async (server) => {
    const good = await connect(server);
    const attacks: Uint8Array<ArrayBuffer>[] = [
      bytes("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10)),
      new Uint8Array(1 << 16).fill(0xff),
      // After the nonce: frames that claim 4 GiB and 4 KiB, which is too much
      // before anything is known, and one of the right form.
      new Uint8Array([...new Uint8Array(32), 0xff, 0xff, 0xff, 0xff]),
      new Uint8Array([...new Uint8Array(32), 0, 0, 0x10, 0]),
      new Uint8Array([
        ...new Uint8Array(32),
        0,
        0,
        0,
        2,
        ...new Uint8Array(32),
        0x7b,
        0x7d,
      ]),
    ];
    for (const attack of attacks) {
      using conn = await Deno.connect({ hostname: HOST, port: server.port });
      await conn.write(attack);
      // The store's nonce is all that a stranger ever reads. At once: nothing
      // of this is waited for.
      assert(await untilClosed(conn, 2_000) <= 32);
    }
    // Half a frame, then the end; and nothing at all, then the end.
    for (const part of [new Uint8Array(40), new Uint8Array(0)]) {
      const conn = await Deno.connect({ hostname: HOST, port: server.port });
      await conn.write(part);
      conn.close();
    }
    await good.set("key", bytes("still there"));
    const late = await connect(server);
    assertEquals(await late.get(["key"], soon()), [bytes("still there")]);
    late.close();
    good.close();
  }));

Deno.test("a connection that drips is dropped after 5 s", () =>
  withStore(async (server) => {
    // In the nonce, and in a frame.
    await Promise.all([0, 32].map(async (atOnce) => {
      using conn = await Deno.connect({ hostname: HOST, port: server.port });
      await conn.write(new Uint8Array(atOnce));
      const start = performance.now();
      const closed = untilClosed(conn);
      const drip = setInterval(
        () => conn.write(new Uint8Array(1)).catch(() => {}),
        500,
      );
      try {
        await closed;
      } finally {
        clearInterval(drip);
      }
      const seconds = (performance.now() - start) / 1e3;
      assert(seconds > 3 && seconds < 9, `${seconds} s`);
    }));
  }));

Deno.test("a thousand silent connections do not keep a replica out, and few are held", () =>
  withStore(async (server) => {
    const handles = (): number => [...Deno.readDirSync("/proc/self/fd")].length;
    const before = handles();
    const silent: Deno.Conn[] = [];
    for (let i = 0; i < 1000; i++) {
      silent.push(await Deno.connect({ hostname: HOST, port: server.port }));
    }
    const held = handles() - before - silent.length;
    assert(held < 100, `the store holds ${held} of them`);
    const good = await connect(server, SECRET, soon(20_000));
    await good.set("key", bytes("value"));
    assertEquals(await good.get(["key"], soon()), [bytes("value")]);
    good.close();
    for (const conn of silent) conn.close();
  }));

Deno.test("a storm of connections that are silent, die half-way or send garbage stops no replica", async () => {
  const port = freePort();
  let storms = true;
  /** Connects again and again, a hundred at a time, and does what strangers do. */
  const thousand = Promise.withResolvers<void>();
  const storm = async (): Promise<void> => {
    let count = 0;
    while (storms) {
      const conns = await Promise.allSettled(
        Array.from(
          { length: 100 },
          () => Deno.connect({ hostname: HOST, port }),
        ),
      );
      for (const [i, result] of conns.entries()) {
        if (result.status === "rejected") continue;
        const conn = result.value;
        if (++count === 1000) thousand.resolve();
        const garbage = crypto.getRandomValues(new Uint8Array(10 * (i % 20)));
        if (i % 3 > 0) await conn.write(garbage).catch(() => {});
        if (i % 2 > 0) conn.close();
        else setTimeout(() => conn.close(), 3_000);
      }
      await new Promise((next) => setTimeout(next, 10));
    }
  };
  const first = join(0, 24, port, { timeout: 30_000 });
  await new Promise((next) => setTimeout(next, 50));
  const strangers = storm();
  await thousand.promise; // and it goes on
  const others = Array.from(
    { length: 23 },
    (_, i) => join(i + 1, 24, port, { timeout: 30_000 }),
  );
  const replicas = await Promise.all([first, ...others]);
  const gathered = await Promise.all(
    replicas.map((replica, rank) =>
      replica.allGather("blob", bytes(String(rank)))
    ),
  );
  for (const values of gathered) assertEquals(values.length, 24);
  storms = false;
  await strangers;
  await Promise.all(replicas.map((replica) => replica.leave()));
});

Deno.test("a frame that is sent twice, or on another connection, does not pass", () =>
  withStore(async (server) => {
    /** A connection that remembers what was written to it. */
    const record = async (): Promise<
      { conn: Deno.Conn; written: Uint8Array<ArrayBuffer>[] }
    > => {
      const inner = await Deno.connect({ hostname: HOST, port: server.port });
      const written: Uint8Array<ArrayBuffer>[] = [];
      const conn = new Proxy(inner, {
        get(target, name): unknown {
          if (name === "write") {
            return (data: Uint8Array<ArrayBuffer>): Promise<number> => {
              written.push(data.slice());
              return target.write(data);
            };
          }
          const value = Reflect.get(target, name, target);
          return typeof value === "function" ? value.bind(target) : value;
        },
      });
      return { conn, written };
    };
    const request = bytes(JSON.stringify({ op: "set", key: "k", value: "" }));
    const { conn, written } = await record();
    const frames = await FrameConnection.handshake(conn, SECRET, false);
    await frames.send(request);
    assert(await frames.receive(5000) !== undefined);
    const frame = written.at(-1)!;
    await conn.write(frame);
    assertEquals(await untilClosed(conn), 0);
    frames.close();

    using other = await Deno.connect({ hostname: HOST, port: server.port });
    await other.write(written[0]!); // the same nonce, too
    await other.write(frame);
    assert(await untilClosed(other) <= 32);
  }));

Deno.test("listen() says when the port is taken, and takes the next of several", () =>
  withStore(async (server) => {
    const error = await assertRejects(
      () => StoreServer.listen(HOST, [server.port], SECRET),
      RendezvousError,
      "taken by another program",
    );
    assertStringIncludes(error.message, `${HOST}, port ${server.port}`);
    const second = await StoreServer.listen(HOST, [server.port, 0], SECRET);
    assert(second.port !== server.port);
    // A client looks through the same ports for the store with its secret.
    const client = await StoreClient.connect(
      HOST,
      [1, second.port],
      SECRET,
      soon(),
    );
    client.close();
    await second.close();
  }));

function join(
  rank: number,
  worldSize: number,
  port: number,
  {
    timeout = 10_000,
    secret = SECRET as string | null,
    masterAddr = HOST,
    job = "",
  } = {},
): Promise<Rendezvous> {
  const place = {
    rank,
    worldSize,
    localRank: rank,
    masterAddr,
    storePorts: [port],
    job,
  };
  return Rendezvous.join(place, secret ?? undefined, timeout);
}

Deno.test("replicas exchange values in rank order, also without a secret on loopback", async () => {
  for (const secret of [SECRET, null]) {
    const port = freePort();
    const gathered = await Promise.all([2, 0, 1].map(async (rank) => {
      const rendezvous = await join(rank, 3, port, { secret });
      const values = await rendezvous.allGather("blob", bytes(`of ${rank}`));
      await rendezvous.leave();
      return values.map((v) => new TextDecoder().decode(v));
    }));
    assertEquals(gathered, new Array(3).fill(["of 0", "of 1", "of 2"]));
  }
});

Deno.test("the blobs of many replicas, several frames of them, arrive in rank order", async () => {
  const port = freePort();
  const worldSize = 60;
  // 60 blobs of 30 kB are 2.4 MB in base64; a frame has at most 1 MiB.
  const blob = (rank: number): Uint8Array<ArrayBuffer> =>
    new Uint8Array(30_000).fill(rank);
  await Promise.all(Array.from({ length: worldSize }, async (_, rank) => {
    const rendezvous = await join(rank, worldSize, port);
    const values = await rendezvous.allGather("blob", blob(rank));
    await rendezvous.leave();
    assertEquals(values.length, worldSize);
    values.forEach((value, i) => assertEquals(value, blob(i)));
  }));
});

Deno.test("replicas that wait in vain say which ranks are missing", async () => {
  const port = freePort();
  const errors = await Promise.all(
    [0, 2].map((rank) =>
      assertRejects(
        () => join(rank, 5, port, { timeout: 500 }),
        RendezvousError,
      )
    ),
  );
  for (const error of errors) {
    assertStringIncludes(error.message, "rank 1, 3 and 4 did not come");
  }
  const alone = await assertRejects(
    () => join(1, 2, freePort(), { timeout: 300 }),
    RendezvousError,
  );
  assertStringIncludes(alone.message, "rank 0 is missing");
});

Deno.test("replicas that contradict each other are told", async () => {
  const port = freePort();
  const first = join(0, 2, port, { timeout: 2_000 });
  const firstFails = assertRejects(
    () => first,
    RendezvousError,
    "rank 1 did not come",
  );
  await new Promise((resolve) => setTimeout(resolve, 300)); // it says 2 first
  const error = await assertRejects(
    () => join(1, 3, port),
    RendezvousError,
    "world size",
  );
  assertStringIncludes(error.message, "3");
  await firstFails;

  const port2 = freePort();
  const zero = join(0, 3, port2, { timeout: 1_000 });
  const one = join(1, 3, port2, { timeout: 1_000 });
  const outcomes = await Promise.allSettled([
    zero,
    one,
    join(1, 3, port2, { timeout: 1_000 }),
  ]);
  const reasons = outcomes.map((o) =>
    String((o as PromiseRejectedResult).reason)
  );
  assertEquals(
    reasons.filter((r) => r.includes("joined the job as rank 1 already"))
      .length,
    1,
    reasons.join("\n"),
  );
});

Deno.test("an address that other hosts reach needs a secret", async () => {
  await assertRejects(
    () => join(0, 2, 29500, { secret: null, masterAddr: "0.0.0.0" }),
    RendezvousError,
    "set ATOMLOSS_SECRET",
  );
});

Deno.test("replicas of two jobs with the same secret and port do not mix", async () => {
  const port = freePort();
  const mine = join(0, 2, port, { timeout: 1_000, job: "mine" });
  const other = assertRejects(
    () => join(1, 2, port, { timeout: 300, job: "another" }),
    RendezvousError,
    "is it another job's",
  );
  const fails = assertRejects(() => mine, RendezvousError, "rank 1 did not");
  await other;
  await fails;
});

Deno.test("a replica that is ahead waits for the store of the next group", async () => {
  const port = freePort();
  const options = (job: string): { job: string } => ({ job });
  const first = await Promise.all(
    [0, 1, 2].map((rank) => join(rank, 3, port, options("first"))),
  );
  const zeroLeaves = first[0]!.leave();
  await first[1]!.leave();
  const ahead = join(1, 3, port, options("second"));
  await first[2]!.leave();
  await zeroLeaves;
  const rest = [0, 2].map((rank) => join(rank, 3, port, options("second")));
  const second = await Promise.all([ahead, ...rest]);
  await Promise.all(second.map((rendezvous) => rendezvous.leave()));
});

Deno.test("replicas are told why rank 0 gave up, whether they wait for it or not", async () => {
  const port = freePort();
  const [zero, one, two] = await Promise.all(
    [0, 1, 2].map((rank) => join(rank, 3, port)),
  );
  const waits = assertRejects(
    () => one!.allGather("blob", bytes("1")),
    RendezvousError,
    "the rendezvous failed on rank 0: no network",
  );
  await new Promise((resolve) => setTimeout(resolve, 100)); // it waits now
  await zero!.close(new Error("no network"));
  await waits;
  await assertRejects(
    () => two!.allGather("blob", bytes("2")),
    RendezvousError,
    "the rendezvous failed on rank 0: no network",
  );
  await one!.close();
  await two!.close();
});

Deno.test("every reply that is under way is sent before a store closes", async () => {
  for (let i = 0; i < 20; i++) {
    const server = await StoreServer.listen(HOST, [0], SECRET);
    const clients = await Promise.all(
      Array.from({ length: 8 }, () => connect(server)),
    );
    const sets = clients.map((c, k) => c.set(`key ${k}`, bytes(`${k}`)));
    // As rank 0 does: closes as soon as it has seen every key.
    await Promise.all(
      clients.keys().map(async (k) => {
        const watcher = await connect(server);
        await watcher.get([`key ${k}`], soon());
        watcher.close();
      }),
    );
    await server.close();
    assertEquals(
      await Promise.all(sets),
      Array.from({ length: 8 }, (_, k) => bytes(`${k}`)),
    );
    for (const client of clients) client.close();
  }
});

Deno.test("connect() keeps to its deadline when what listens says nothing", async () => {
  using listener = Deno.listen({ hostname: HOST, port: 0 });
  const start = performance.now();
  await assertRejects(
    () => StoreClient.connect(HOST, [listener.addr.port], SECRET, soon(500)),
    RendezvousError,
    "rank 0 is missing",
  );
  assert(performance.now() - start < 2_000);
});

Deno.test("a malformed request ends the connection that sent it, although it is authentic", () =>
  withStore(async (server) => {
    const good = await connect(server);
    const requests = [
      "null",
      "{",
      "[]",
      '{"op":"set","key":{},"value":"x"}',
      '{"op":"set","key":"k"}',
      '{"op":"get","keys":["k"],"wait":"long"}',
      '{"op":"get","keys":[],"wait":0}',
      '{"op":"get","keys":["k",1],"wait":0}',
      '{"op":"get","keys":"k","wait":0}',
      '{"op":"delete","key":"k"}',
    ];
    for (const request of requests) {
      const conn = await Deno.connect({ hostname: HOST, port: server.port });
      const frames = await FrameConnection.handshake(
        conn,
        SECRET,
        false,
      );
      await frames.send(bytes(request));
      assertEquals(await frames.receive(2_000), undefined, request);
      frames.close();
    }
    assertEquals(await good.set("k", bytes("v")), bytes("v"));
    good.close();
  }));

Deno.test("10 000 garbage frames leave memory bounded and the store at work", () =>
  withStore(async (server) => {
    const garbage = crypto.getRandomValues(new Uint8Array(1 << 12));
    const before = Deno.memoryUsage().rss;
    for (let batch = 0; batch < 200; batch++) {
      await Promise.all(Array.from({ length: 50 }, async () => {
        using conn = await Deno.connect({ hostname: HOST, port: server.port });
        await conn.write(garbage).catch(() => {});
      }));
    }
    const grown = Deno.memoryUsage().rss - before;
    assert(grown < 100 << 20, `${grown} bytes more`);
    const good = await connect(server);
    assertEquals(await good.set("k", bytes("v")), bytes("v"));
    good.close();
  }));
