import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { Gate } from "./lm-studio/gates.ts";
import { createWatch } from "./watch.ts";

/** What came back over a raw connection: one whole answer, or its end before there was one. */
export type RawAnswer = { status: number; headers: Record<string, string>; body: string } | "closed";

/** A connection that sends what it is told to, whether or not that is HTTP. */
export type RawClient = Disposable & {
  /** Resolves once the bytes have left this process, or the other side has gone. */
  send(bytes: string | Uint8Array): Promise<void>;
  /** Sends pieces of `size` bytes, each after `gate` lets it through. */
  dribble(bytes: string | Uint8Array, size: number, gate: Gate): Promise<void>;
  /** The next whole answer; informational ones (1xx) are passed over. */
  answer(): Promise<RawAnswer>;
  /** Ends the connection: `destroy` as a client's process that goes away, `rst` by reset, `fin` only our half of it. */
  leave(how?: "destroy" | "rst" | "fin"): void;
  /** Resolves once the connection is gone. */
  closed(): Promise<void>;
  /** Every byte that came. */
  received(): Buffer;
  /** Bytes that have left this process. */
  sent(): number;
};

/** How a request says how long it is: rightly, by these `Content-Length` lines, not at all, or in chunks. */
export type Framing =
  | { readonly kind: "right" }
  | { readonly kind: "lengths"; readonly values: readonly string[] }
  | { readonly kind: "absent" }
  | { readonly kind: "chunked"; readonly size?: number }
  /** Chunks with `Content-Length` lines beside them. */
  | { readonly kind: "both"; readonly values: readonly string[] };

/** A request as bytes; headers stand as given, the same name may stand twice. */
export type RawRequest = {
  method?: string;
  /** Path and query. */
  target: string;
  headers?: readonly (readonly [string, string])[];
  body?: string | Uint8Array;
  framing?: Framing;
};

/** Opens a connection to a loopback URL's port. */
export async function openRaw(url: string): Promise<RawClient> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port), noDelay: true });
  await once(socket, "connect");
  const parts: Buffer[] = [];
  const { changed, until } = createWatch();
  let read = 0;
  let ended = false;
  const over = (): void => {
    ended = true;
    changed();
  };
  socket.on("data", (part) => {
    parts.push(part);
    changed();
  });
  socket.on("error", () => undefined);
  socket.once("end", over).once("close", over);
  const send = (bytes: string | Uint8Array): Promise<void> =>
    // A write that fails says nothing a test could not read from what came back.
    new Promise((resolve) => {
      socket.write(bytes, () => resolve());
    });
  return {
    send,
    async dribble(bytes, size, gate) {
      const left = Buffer.from(bytes);
      for (let at = 0; at < left.length && !socket.destroyed; at += size) {
        await gate.pass();
        await send(left.subarray(at, at + size));
      }
    },
    async answer() {
      const look = (): Parsed | null => parseAnswer(Buffer.concat(parts).subarray(read), ended);
      await until(() => ended || look() !== null);
      const found = look();
      read += found?.length ?? 0;
      return found?.answer ?? "closed";
    },
    leave(how = "destroy") {
      // After its FIN a socket cannot be reset any more.
      if (how === "rst" && !socket.writableEnded) socket.resetAndDestroy();
      else if (how === "fin") socket.end();
      else socket.destroy();
    },
    closed: () =>
      // Not by `once` of node:events: a reset is an end like any other here, not an error of the wait.
      new Promise((resolve) => {
        if (socket.closed) resolve();
        else socket.once("close", () => resolve());
      }),
    received: () => Buffer.concat(parts),
    sent: () => written(socket),
    [Symbol.dispose]: () => void socket.destroy(),
  };
}

/** A request's head, and its body framed; the two stand apart so that a test can wait between them. */
export function rawRequest(request: RawRequest): { head: string; body: Buffer } {
  const body = Buffer.from(request.body ?? "");
  const framing = request.framing ?? { kind: "right" };
  const headers = [["Host", "localhost"], ...(request.headers ?? []), ...framingHeaders(framing, body.length)];
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  return {
    head: `${request.method ?? "POST"} ${request.target} HTTP/1.1\r\n${lines}\r\n`,
    body: framing.kind === "chunked" || framing.kind === "both" ? inChunks(body, framing) : body,
  };
}

/** Sends one whole request over a connection of its own and gives what comes back. */
export async function sendRaw(url: string, request: RawRequest): Promise<RawAnswer> {
  using client = await openRaw(url);
  const { head, body } = rawRequest(request);
  const sending = client.send(head).then(() => client.send(body));
  const answer = await client.answer();
  client.leave();
  await sending;
  return answer;
}

function framingHeaders(framing: Framing, length: number): [string, string][] {
  const lengths = (values: readonly string[]): [string, string][] => values.map((value) => ["Content-Length", value]);
  switch (framing.kind) {
    case "right":
      return lengths([String(length)]);
    case "lengths":
      return lengths(framing.values);
    case "absent":
      return [];
    case "chunked":
      return [["Transfer-Encoding", "chunked"]];
    case "both":
      return [...lengths(framing.values), ["Transfer-Encoding", "chunked"]];
  }
}

function inChunks(body: Buffer, framing: Extract<Framing, { kind: "chunked" | "both" }>): Buffer {
  const size = framing.kind === "chunked" ? (framing.size ?? 16_384) : 16_384;
  const parts: Buffer[] = [];
  for (let at = 0; at < body.length; at += size) {
    const part = body.subarray(at, at + size);
    parts.push(Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from("\r\n"));
  }
  return Buffer.concat([...parts, Buffer.from("0\r\n\r\n")]);
}

type Parsed = { answer: Exclude<RawAnswer, "closed">; length: number };

/** The first whole answer in some bytes, and how many of them it takes; null when there is none yet. */
function parseAnswer(bytes: Buffer, ended: boolean): Parsed | null {
  const split = bytes.indexOf("\r\n\r\n");
  if (split < 0) return null;
  const [first = "", ...lines] = bytes.subarray(0, split).toString("latin1").split("\r\n");
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(first)?.[1] ?? 0);
  const from = split + 4;
  if (status >= 100 && status < 200) {
    const next = parseAnswer(bytes.subarray(from), ended);
    return next === null ? null : { ...next, length: from + next.length };
  }
  const headers = Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  const body = readBody(bytes.subarray(from), headers, ended);
  return body === null ? null : { answer: { status, headers, body: body.text }, length: from + body.length };
}

function readBody(
  bytes: Buffer,
  headers: Readonly<Record<string, string>>,
  ended: boolean,
): { text: string; length: number } | null {
  if (/chunked/i.test(headers["transfer-encoding"] ?? "")) return readChunks(bytes);
  const given = headers["content-length"];
  if (given === undefined) return ended ? { text: bytes.toString("utf8"), length: bytes.length } : null;
  const length = Number(given);
  return bytes.length < length ? null : { text: bytes.subarray(0, length).toString("utf8"), length };
}

function readChunks(bytes: Buffer): { text: string; length: number } | null {
  const parts: Buffer[] = [];
  for (let at = 0; ;) {
    const line = bytes.indexOf("\r\n", at);
    if (line < 0) return null;
    const size = Number.parseInt(bytes.subarray(at, line).toString("latin1"), 16);
    const end = line + 2 + size + 2;
    if (Number.isNaN(size) || bytes.length < end) return null;
    if (size === 0) return { text: Buffer.concat(parts).toString("utf8"), length: end };
    parts.push(bytes.subarray(line + 2, end - 2));
    at = end;
  }
}

function written(socket: Socket): number {
  return socket.bytesWritten - socket.writableLength;
}
