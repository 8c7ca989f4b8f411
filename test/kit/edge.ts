import { createApp } from "../../edge/app.ts";
import type { Deps, Objects } from "../../edge/deps.ts";
import { describe } from "../../shared/describe.ts";
import type { SidecarCaption, SidecarFailure } from "../../shared/wire.ts";
import { blueEvidence } from "./evidence.ts";
import { errorBody, PixelLLMError, type ErrorCode } from "../../shared/errors.ts";

/** One call as the sidecar would have received it. */
export type SeenCall = { url: URL; method: string; headers: Headers; bytes: number };

/** The edge's app over a scripted sidecar. */
export type EdgeKit = {
  calls: SeenCall[];
  lines: string[];
  /** From now on every line that is written is a throw. */
  breakLog(): void;
  send(path: string, init?: RequestInit, env?: Record<string, string>): Promise<Response>;
};

const mark = { "x-pixel-llm-sidecar": "1" };
const image = { format: "png", width: 4, height: 4, sha256: "0".repeat(64) } as const;
const timings = { decode: 1, encode: 2, generate: 3 };

/** A sidecar's caption. */
export const liveBody: SidecarCaption = {
  caption: "A boat.",
  route: "vision",
  model: "m",
  finish: "stop",
  image,
  tags: describe(blueEvidence).tags,
  evidence: blueEvidence,
  vector: null,
  collapsed: false,
  usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
  timings_ms: timings,
};

/** A sidecar's failure, with or without evidence. */
export function failureBody(code: ErrorCode, evidence: SidecarFailure["evidence"] = null): SidecarFailure {
  return {
    error: errorBody(new PixelLLMError(code), "r"),
    image: evidence === null ? null : image,
    evidence,
    vector: null,
    timings_ms: timings,
  };
}

/** A signed sidecar's answer in JSON, marked as its own. */
export function marked(body: unknown, status = 200): Response {
  return Response.json(body, { status, headers: mark });
}

/** A stream of events, marked as the sidecar's own. */
export function events(text: string): Response {
  return new Response(text, { headers: { ...mark, "content-type": "text/event-stream" } });
}

/** Starts an app whose calls to the box are answered by `box`; an answer may also be an error to throw, or never come. */
export function startEdgeKit(
  box: (call: SeenCall, init: RequestInit) => Promise<Response>,
  objects: Objects | null = null,
): EdgeKit {
  const calls: SeenCall[] = [];
  const lines: string[] = [];
  let broken = false;
  const deps: Deps = {
    fetch: (url, init) => {
      const body = init.body instanceof Uint8Array ? init.body.length : 0;
      const call = { url: new URL(url), method: init.method ?? "GET", headers: new Headers(init.headers), bytes: body };
      calls.push(call);
      return box(call, init);
    },
    now: () => Date.now(),
    random: (count) => crypto.getRandomValues(new Uint8Array(count)),
    startTimer: (ms, elapsed) => {
      const timer = setTimeout(elapsed, ms);
      return () => clearTimeout(timer);
    },
    write: (line) => {
      if (broken) throw new Error("the log is broken");
      lines.push(line);
    },
    decodeBase64: (text) => {
      if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0) throw new SyntaxError("not base64");
      return new Uint8Array(Buffer.from(text, "base64"));
    },
    openObjects: () => objects,
    version: "test",
  };
  const app = createApp(deps);
  const envs = new Map<string, object>();
  return {
    calls,
    lines,
    breakLog() {
      broken = true;
    },
    async send(path, init = {}, env = {}) {
      const key = JSON.stringify(env);
      const known = envs.get(key) ?? env;
      envs.set(key, known);
      return app.request(path.startsWith("http") ? path : `http://localhost${path}`, init, known, {
        waitUntil: () => undefined,
        passThroughOnException: () => undefined,
        props: {},
      });
    },
  };
}

/** A box that never answers, and lets go when its caller does. */
export function silence(_: SeenCall, init: RequestInit): Promise<Response> {
  return new Promise((_resolve, reject) => {
    init.signal?.addEventListener("abort", () => reject(init.signal?.reason as Error), { once: true });
  });
}
