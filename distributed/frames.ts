/**
 * Authenticated frames over a TCP connection.
 *
 * Both sides send 32 random bytes. From these and the job's secret both derive
 * the key of this connection; every frame carries an HMAC-SHA-256 under it over
 * the direction, the number of the frame and the payload. So a frame of another
 * connection, of the other direction, or sent twice does not pass, and nothing
 * that is sent helps to find the secret.
 *
 * A frame: length of the payload (4 bytes, big endian), HMAC (32), payload.
 */

const NONCE_BYTES = 32;
const MAC_BYTES = 32;

/** The largest payload. */
export const MAX_PAYLOAD = 1 << 20;

/** The largest first payload: before it, nothing is known of the sender. */
const MAX_FIRST_PAYLOAD = 1 << 10;

/** Time for what a stranger began (a handshake, the first frame) to be completed, in ms. */
const COMPLETION_TIME = 5_000;

/** The same for a frame of whoever has shown the secret: thousands may share the way. */
const FRAME_TIME = 30_000;

/** The peer does not follow the protocol: wrong secret, garbage, or too slow. */
export class ProtocolError extends Error {}

type Bytes = Uint8Array<ArrayBuffer>;

const encoder = new TextEncoder();

/** Reads exactly so many bytes; undefined if the connection ends before the first. */
async function readExactly(
  conn: Deno.Conn,
  length: number,
): Promise<Bytes | undefined> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const read = await conn.read(bytes.subarray(at));
    if (read === null) {
      if (at === 0) return undefined;
      throw new ProtocolError("the connection ended within a frame");
    }
    at += read;
  }
  return bytes;
}

async function writeAll(conn: Deno.Conn, bytes: Bytes): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await conn.write(bytes.subarray(at));
  }
}

function hmacKey(bytes: Bytes): Promise<CryptoKey> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  return crypto.subtle.importKey("raw", bytes, algorithm, false, [
    "sign",
    "verify",
  ]);
}

function concat(...parts: Bytes[]): Bytes {
  const whole = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A connection whose handshake is done. */
export class FrameConnection {
  readonly conn: Deno.Conn;
  readonly #key: CryptoKey;
  readonly #isServer: boolean;
  #sent = 0;
  #received = 0;

  private constructor(conn: Deno.Conn, key: CryptoKey, isServer: boolean) {
    this.conn = conn;
    this.#key = key;
    this.#isServer = isServer;
  }

  /**
   * Exchanges nonces and derives the key.
   *
   * @param time Time for it, in ms, if less than the usual 5 s.
   * @throws {ProtocolError} if the peer ends the connection or is too slow.
   */
  static async handshake(
    conn: Deno.Conn,
    secret: string,
    isServer: boolean,
    time: number = COMPLETION_TIME,
  ): Promise<FrameConnection> {
    const mine = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
    using _deadline = closeAfter(conn, Math.min(time, COMPLETION_TIME));
    await writeAll(conn, mine);
    const theirs = await readExactly(conn, NONCE_BYTES);
    if (theirs === undefined) {
      throw new ProtocolError("the connection ended within the handshake");
    }
    const [server, client] = isServer ? [mine, theirs] : [theirs, mine];
    const secretKey = await hmacKey(encoder.encode(`atomloss:${secret}`));
    const derived = await crypto.subtle.sign(
      "HMAC",
      secretKey,
      concat(server, client),
    );
    return new FrameConnection(
      conn,
      await hmacKey(new Uint8Array(derived)),
      isServer,
    );
  }

  /** What the HMAC of a frame covers. */
  #covered(fromServer: boolean, number: number, payload: Bytes): Bytes {
    const head = new Uint8Array(9);
    const view = new DataView(head.buffer);
    view.setUint8(0, fromServer ? 1 : 0);
    view.setBigUint64(1, BigInt(number));
    return concat(head, payload);
  }

  /** Sends one frame. */
  async send(payload: Bytes): Promise<void> {
    if (payload.length > MAX_PAYLOAD) {
      throw new ProtocolError(
        `a frame of ${payload.length} bytes is too large`,
      );
    }
    const covered = this.#covered(this.#isServer, this.#sent++, payload);
    const mac = await crypto.subtle.sign("HMAC", this.#key, covered);
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, payload.length);
    await writeAll(this.conn, concat(length, new Uint8Array(mac), payload));
  }

  /**
   * Receives one frame; undefined if the peer has ended the connection.
   *
   * @param idle How long to wait for it to begin, in ms; default: for ever.
   * @throws {ProtocolError} if it is oversized, incomplete, slow or not authentic.
   */
  async receive(idle?: number): Promise<Bytes | undefined> {
    const idleDeadline = idle === undefined
      ? undefined
      : closeAfter(this.conn, idle);
    let length: Bytes | undefined;
    try {
      const first = await readExactly(this.conn, 1);
      if (first === undefined) return undefined;
      length = first;
    } finally {
      idleDeadline?.[Symbol.dispose]();
    }
    using _deadline = closeAfter(
      this.conn,
      this.#received === 0 ? COMPLETION_TIME : FRAME_TIME,
    );
    const rest = await readExactly(this.conn, 3);
    if (rest === undefined) {
      throw new ProtocolError("the connection ended within a frame");
    }
    const size = new DataView(concat(length, rest).buffer).getUint32(0);
    const largest = this.#received === 0 ? MAX_FIRST_PAYLOAD : MAX_PAYLOAD;
    if (size > largest) throw new ProtocolError("a frame is too large");
    const body = await readExactly(this.conn, MAC_BYTES + size);
    if (body === undefined) {
      throw new ProtocolError("the connection ended within a frame");
    }
    const payload = body.slice(MAC_BYTES);
    const covered = this.#covered(!this.#isServer, this.#received++, payload);
    const mac = body.slice(0, MAC_BYTES);
    // verify() compares in constant time.
    if (!await crypto.subtle.verify("HMAC", this.#key, mac, covered)) {
      throw new ProtocolError("a frame is not authentic");
    }
    return payload;
  }

  /** Ends the connection. Safe to call again. */
  close(): void {
    closeQuietly(this.conn);
  }
}

/** Closes a connection that may be closed already. */
export function closeQuietly(conn: Deno.Conn): void {
  try {
    conn.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

/** Closes the connection after a time, unless disposed before: pending reads then fail. */
function closeAfter(conn: Deno.Conn, ms: number): Disposable {
  const timer = setTimeout(() => closeQuietly(conn), ms);
  return { [Symbol.dispose]: (): void => clearTimeout(timer) };
}
