import type { Config } from "../shared/config.ts";
import { PixelLLMError, toPixelLLMError } from "../shared/errors.ts";
import { sidecarMarkerHeader } from "../shared/signature.ts";
import { fromErrorBody, sidecarFailureSchema, type SidecarFailure } from "../shared/wire.ts";
import { sha256, signCall } from "./crypto.ts";
import { abortReason, until } from "./deadline.ts";
import type { Bytes, Deps } from "./deps.ts";
import { readResult } from "./sidecar-events.ts";

/** One call to the sidecar. */
export type SidecarCall = {
  method: "GET" | "POST";
  path: string;
  /** What the sidecar acts on, beside the body. */
  query: Readonly<Record<string, string>>;
  body: { bytes: Bytes; contentType: string; sha256: string } | null;
  requestId: string;
  traceParent: string;
  remainingMs: number;
  /** Ends the call: the caller left, or the time is over. */
  signal: AbortSignal;
};

/** What came of it: the sidecar's answer as it says it is, or an error with what was seen of the picture. */
export type SidecarOutcome =
  | { ok: true; status: number; body: unknown }
  | { ok: false; error: PixelLLMError; failure: SidecarFailure | null };

/** The one way to the box. Never throws. */
export type SidecarClient = { call(call: SidecarCall): Promise<SidecarOutcome> };

/** Kept back of the remaining time, so that the sidecar answers first and names the stage that took it. */
function marginMs(remainingMs: number): number {
  // A tenth at most: a short call for evidence after a timeout would else be sent with no time at all.
  return Math.min(250, remainingMs / 10);
}

/** Builds the client for one configuration. */
export function createSidecarClient(deps: Deps, config: Config): SidecarClient {
  const [secret] = config.sidecar_secret;
  const base = config.sidecar_url.replace(/\/+$/, "");
  return {
    async call(call) {
      try {
        return await exchange(call);
      } catch (thrown) {
        return { ok: false, error: toPixelLLMError(thrown), failure: null };
      }
    },
  };

  async function exchange(call: SidecarCall): Promise<SidecarOutcome> {
    const query = new URLSearchParams({
      ...call.query,
      ...(call.body === null
        ? {}
        : { events: "true", remaining_ms: String(Math.floor(call.remainingMs - marginMs(call.remainingMs))) }),
    }).toString();
    const bodySha256 = call.body?.sha256 ?? (await sha256(""));
    const path = `${new URL(base).pathname.replace(/\/$/, "")}${call.path}`;
    const signed =
      secret === undefined
        ? {}
        : await signCall(secret, { method: call.method, path, query, bodySha256 }, deps.now(), deps.random);
    const head = await openCall(call, `${base}${call.path}${query === "" ? "" : `?${query}`}`, signed);
    if (head.headers.get(sidecarMarkerHeader) === null) return foreignAnswer(head);
    return readAnswer(head, call);
  }

  /** Sends and waits for the head: the connect limit, plus a second per MiB that has to go up first. */
  async function openCall(call: SidecarCall, url: string, signed: Record<string, string>): Promise<Response> {
    const limit = new AbortController();
    const headMs = config.timeout_connect_seconds * 1000 + ((call.body?.bytes.length ?? 0) / 2 ** 20) * 1000;
    const stop = deps.startTimer(headMs, () =>
      limit.abort(new PixelLLMError("ERR_CONN_TIMEOUT", { details: { service: "sidecar" } })),
    );
    const signal = AbortSignal.any([call.signal, limit.signal]);
    try {
      const sent = deps.fetch(url, {
        method: call.method,
        headers: {
          ...signed,
          "x-request-id": call.requestId,
          traceparent: call.traceParent,
          ...(call.body === null ? {} : { "content-type": call.body.contentType }),
        },
        body: call.body?.bytes ?? null,
        redirect: "manual",
        signal,
      });
      return await until(signal, sent);
    } catch (cause) {
      if (signal.aborted) throw abortReason(signal);
      throw new PixelLLMError("ERR_CONN_UNAVAILABLE", {
        hint: "The box does not answer.",
        detail: cause instanceof Error ? cause.message : String(cause),
        details: { service: "sidecar" },
        cause,
      });
    } finally {
      stop();
    }
  }
}

async function readAnswer(head: Response, call: SidecarCall): Promise<SidecarOutcome> {
  // Our own credential was refused: the caller's key is not what is wrong, so it must not look so.
  if (head.status === 401) {
    void head.body?.cancel().catch(() => undefined);
    return { ok: false, error: unauthorized(), failure: null };
  }
  let result: { status: number; body: unknown };
  try {
    result = await until(call.signal, readResult(head));
  } catch (cause) {
    if (call.signal.aborted) throw abortReason(call.signal);
    throw new PixelLLMError("ERR_API_INVALID_RESPONSE", {
      hint: "The box broke off its answer.",
      detail: cause instanceof Error ? cause.message : String(cause),
      details: { service: "sidecar" },
      cause,
    });
  }
  const { status, body } = result;
  // A 503 of /readyz is an answer too: it is no failure of a call, and has no error in it.
  if (status < 300 || call.method === "GET") return { ok: true, status, body };
  const failure = sidecarFailureSchema.safeParse(body);
  if (!failure.success) {
    throw new PixelLLMError("ERR_API_INVALID_RESPONSE", {
      detail: failure.error.message,
      details: { service: "sidecar" },
    });
  }
  const { error } = failure.data;
  if (error.code === "ERR_NOT_FOUND") {
    throw new PixelLLMError("ERR_API_INVALID_RESPONSE", {
      hint: "The box does not know this route.",
      detail: `the sidecar answers ${status} to ${call.path}: both halves must be of one version`,
      details: { service: "sidecar" },
    });
  }
  // A 429 is the caller's own quota, which the box knows nothing of: its own limits are 503.
  const known = fromErrorBody(error, error.code === "ERR_API_RATE_LIMIT" ? 503 : status);
  return { ok: false, error: known, failure: failure.data };
}

/** Cloudflare Access asks for a login by one of these: the box is there and we may not reach it. */
const lockedStatuses: ReadonlySet<number> = new Set([301, 302, 303, 307, 308, 401, 403]);

/** Something between us and the box answered in its place. */
function foreignAnswer(head: Response): SidecarOutcome {
  const { status } = head;
  // Its body is of no use; cancelling one that has broken already rejects, and it is gone either way.
  void head.body?.cancel().catch(() => undefined);
  const locked = lockedStatuses.has(status);
  const error = new PixelLLMError(locked ? "ERR_CONN_UNAVAILABLE" : codeOfForeign(status), {
    detail: locked
      ? `misconfiguration: a login in front of the sidecar answered ${status}; let this Worker through it`
      : `status ${status} without the sidecar's mark`,
    // No repeat opens a locked door: `access` is what the retry policy knows it by.
    details: { service: "sidecar", ...(locked ? { kind: "access" } : {}) },
  });
  return { ok: false, error, failure: null };
}

function codeOfForeign(status: number): "ERR_CONN_TIMEOUT" | "ERR_CONN_UNAVAILABLE" | "ERR_API_INVALID_RESPONSE" {
  if (status === 522 || status === 524) return "ERR_CONN_TIMEOUT";
  return status >= 500 ? "ERR_CONN_UNAVAILABLE" : "ERR_API_INVALID_RESPONSE";
}

function unauthorized(): PixelLLMError {
  return new PixelLLMError("ERR_API_UNAUTHORIZED", {
    status: 502,
    detail: "the sidecar refused our signature: check that both halves hold the same sidecar_secret and the right time",
    details: { service: "sidecar" },
  });
}
