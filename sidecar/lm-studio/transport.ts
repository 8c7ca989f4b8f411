import { request, type IncomingMessage } from "node:http";
import { lmStudioError } from "../../shared/lm-studio-kinds.ts";
import type { PixelLLMError } from "../../shared/errors.ts";

/** Where LM Studio is, and how long opening a connection may take. */
export type Address = { host: string; port: number; token: string | null; connectMs: number };

/** One HTTP call. */
export type Call = {
  method: "GET" | "POST";
  path: string;
  /** JSON text; null = no body. */
  body: string | null;
  /** Ends the call at once, whatever it waits for. */
  signal: AbortSignal;
  /** Called once when the request has left this machine. */
  onSent?: () => void;
};

/**
 * Sends one call over a connection of its own and gives the response head.
 * LM Studio closes idle sockets after five seconds; a reused one fails with a reset that is nobody's fault.
 * Errors: kinds `refused`, `connect_timeout`, `unreachable`, `malformed`; an abort rejects with the signal's reason.
 */
export function send(address: Address, call: Call): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    if (call.signal.aborted) {
      reject(call.signal.reason as Error);
      return;
    }
    const outgoing = request({
      host: address.host,
      port: address.port,
      method: call.method,
      path: call.path,
      agent: false,
      headers: {
        connection: "close",
        accept: "application/json, text/event-stream",
        ...(call.body === null
          ? {}
          : { "content-type": "application/json", "content-length": Buffer.byteLength(call.body) }),
        ...(address.token === null ? {} : { authorization: `Bearer ${address.token}` }),
      },
    });
    const fail = (error: Error): void => {
      clearTimeout(timer);
      call.signal.removeEventListener("abort", leave);
      outgoing.destroy();
      reject(error);
    };
    const leave = (): void => fail(call.signal.reason as Error);
    const timer = setTimeout(() => fail(lmStudioError("connect_timeout")), address.connectMs);
    call.signal.addEventListener("abort", leave, { once: true });
    outgoing.on("socket", (socket) => {
      if (!socket.connecting) clearTimeout(timer);
      socket.once("connect", () => clearTimeout(timer));
    });
    outgoing.on("error", (error) => fail(readTransportError(error)));
    outgoing.once("finish", () => call.onSent?.());
    outgoing.once("response", (response) => {
      clearTimeout(timer);
      call.signal.removeEventListener("abort", leave);
      const stop = (): void => {
        response.destroy(call.signal.reason as Error);
      };
      call.signal.addEventListener("abort", stop, { once: true });
      response.once("close", () => call.signal.removeEventListener("abort", stop));
      resolve(response);
    });
    outgoing.end(call.body ?? undefined);
  });
}

/** A whole body of at most `limit` bytes as text; kind `too_long` past it, `truncated` when it ends early. */
export async function readText(response: IncomingMessage, limit: number, signal: AbortSignal): Promise<string> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of chunksOf(response, signal)) {
    length += chunk.length;
    if (length > limit) throw lmStudioError("too_long", { detail: `more than ${limit} bytes` });
    parts.push(chunk);
  }
  return Buffer.concat(parts).toString("utf8");
}

/** The body's chunks; a broken body is kind `truncated`, an abort the signal's reason. Leaving the loop ends the call. */
export async function* chunksOf(response: IncomingMessage, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  // By events, not by the stream's own iterator: that one drops what has arrived when the connection then breaks, and
  // with it the end of an answer that was whole.
  const arrived: Uint8Array[] = [];
  let over: { error: Error | null } | null = null;
  let wake = Promise.withResolvers<void>();
  const finish = (error: Error | null): void => {
    over ??= { error };
    wake.resolve();
  };
  response.on("data", (chunk: Uint8Array) => {
    arrived.push(chunk);
    wake.resolve();
  });
  response.once("end", () => finish(null));
  response.on("error", finish);
  response.once("close", () => finish(new Error("closed before its end")));
  try {
    for (;;) {
      await wake.promise;
      wake = Promise.withResolvers();
      for (let chunk = arrived.shift(); chunk !== undefined; chunk = arrived.shift()) yield chunk;
      if (over !== null) break;
    }
    if (signal.aborted) throw signal.reason;
    const { error } = over as { error: Error | null };
    if (error !== null) throw lmStudioError("truncated", { detail: error.message, cause: error });
  } finally {
    response.destroy();
  }
}

/** A text as JSON, or undefined when it is none. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function readTransportError(error: NodeJS.ErrnoException): PixelLLMError {
  // The reason of an abort comes here too, and the code of a DOMException is a number.
  const given: unknown = error.code;
  const code = typeof given === "string" ? given : "";
  const facts = { detail: `${code} ${error.message}`, cause: error };
  if (code === "ECONNREFUSED") return lmStudioError("refused", facts);
  // The parser of Node refuses what is no HTTP: something else owns the port.
  if (code.startsWith("HPE_")) return lmStudioError("malformed", facts);
  return lmStudioError("unreachable", facts);
}
