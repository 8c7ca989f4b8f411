/** Which way bytes go: `up` to the target, `down` to the client. */
export type Direction = "up" | "down";

/** When a connection ends that gets no answer: as it is accepted, or once the first byte of a request has come. */
export type EndsAt = "accept" | "request";

/**
 * What an exchange meets on its way through the proxy. `direction` left out means `down`; counts of bytes are of that
 * direction and begin anew with each exchange.
 */
export type Fault =
  | { readonly kind: "pass" }
  /** Accepted and read, never answered, never passed on. */
  | { readonly kind: "black_hole" }
  /** RST before any answer; `request` is the default. */
  | { readonly kind: "reset"; readonly at?: EndsAt }
  /** FIN without a byte; `request` is the default. */
  | { readonly kind: "empty"; readonly at?: EndsAt }
  /** Bytes that are no HTTP, then FIN; left out: `garbage`. */
  | { readonly kind: "garbage"; readonly base64?: string }
  /** Plain text in answer to a TLS client's first bytes, then FIN: its handshake fails. */
  | { readonly kind: "no_tls" }
  /** An answer of the proxy's own, then FIN; the target hears nothing. */
  | {
      readonly kind: "answer";
      readonly status: number;
      readonly headers?: readonly (readonly [string, string])[];
      readonly body?: string;
    }
  /** RST to both sides after this many bytes. */
  | { readonly kind: "reset_after"; readonly bytes: number; readonly direction?: Direction }
  /** FIN after this many bytes, to the side they went to. */
  | { readonly kind: "cut"; readonly bytes: number; readonly direction?: Direction }
  /** Nothing more after this many bytes; both connections stay open. */
  | { readonly kind: "silence"; readonly bytes: number; readonly direction?: Direction }
  /** Bytes per second, kept by real timers. */
  | { readonly kind: "bandwidth"; readonly bytesPerSecond: number; readonly direction?: Direction }
  /** Each piece that arrives waits `ms`, and up to `jitterMs` more by the seeded random, on a real timer. */
  | { readonly kind: "latency"; readonly ms: number; readonly jitterMs?: number; readonly direction?: Direction }
  /** Pieces of this many bytes, each through the gate of that name. */
  | { readonly kind: "slice"; readonly bytes: number; readonly gate: string; readonly direction?: Direction }
  /** After this many good chunks of a chunked body (default none), a chunk begins with a size that is none. */
  | { readonly kind: "bad_chunk"; readonly goodChunks?: number; readonly direction?: Direction };

/** A fault, and the share of exchanges that meet it by the proxy's seeded random; left out: all. */
export type ExchangeMode = Fault & { readonly share?: number };

/** What a proxy is set to; `refuse` closes the port, as when no process is there, and ends every connection. */
export type ProxyMode = ExchangeMode | { readonly kind: "refuse" };

/** Bytes of no protocol, with what a log must not be made to show: terminal controls, line breaks, great length. */
export const garbage: Uint8Array = Buffer.from(`\u001b[31mGARBAGE\r\n\u0000\u0007${"\u0080noise ".repeat(600)}\r\n`);

/** What a server that knows no TLS says to a client's hello. */
const plainRefusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/** The bytes that a fault puts in the place of the target's answer; null when it puts none. */
export function ownAnswer(fault: Fault): Uint8Array | null {
  switch (fault.kind) {
    case "garbage":
      return fault.base64 === undefined ? garbage : Buffer.from(fault.base64, "base64");
    case "no_tls":
      return Buffer.from(plainRefusal);
    case "answer": {
      const body = Buffer.from(fault.body ?? "");
      const headers = [...(fault.headers ?? []), ["Content-Length", String(body.length)], ["Connection", "close"]];
      const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join("");
      return Buffer.concat([Buffer.from(`HTTP/1.1 ${fault.status} Answer\r\n${lines}\r\n`), body]);
    }
    case "pass":
    case "black_hole":
    case "reset":
    case "empty":
    case "reset_after":
    case "cut":
    case "silence":
    case "bandwidth":
    case "latency":
    case "slice":
    case "bad_chunk":
      return null;
  }
}
