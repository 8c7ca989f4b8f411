import { createApp } from "../../../edge/app.ts";
import type { Deps, Objects } from "../../../edge/deps.ts";
import { freshPicture, type Question, type Reply } from "../../kit/ask.ts";
import { environmentOf, type Settings } from "../../kit/environment.ts";

/** What a host gives the edge instead of the real thing. */
export type NodeEdgeHost = Partial<Pick<Deps, "now" | "write" | "fetch">> & {
  settings?: Settings;
  objects?: Objects;
};

/** The edge's app on Node: for what a test must inject and workerd does not let it. */
export type NodeEdge = Disposable & {
  lines: string[];
  ask(question?: Question): Promise<Reply>;
  send(path: string, init: RequestInit): Promise<Response>;
};

/** Starts it; calls to the sidecar go over HTTP unless `fetch` is given. */
export function startNodeEdge(host: NodeEdgeHost = {}): NodeEdge {
  const { settings = {}, objects = null, ...own } = host;
  const lines: string[] = [];
  const env = environmentOf(settings);
  const timers = new Set<NodeJS.Timeout>();
  let over = false;
  const app = createApp({
    fetch: (url, init) => fetch(url, init),
    now: Date.now,
    random: (count) => crypto.getRandomValues(new Uint8Array(count)),
    startTimer(ms, elapsed) {
      const timer = setTimeout(elapsed, ms);
      timers.add(timer);
      if (over) clearTimeout(timer);
      return () => clearTimeout(timer);
    },
    write: (line) => void lines.push(line),
    decodeBase64: (text) => new Uint8Array(Buffer.from(text, "base64")),
    openObjects: () => objects,
    version: "test",
    ...own,
  });
  const context = { waitUntil: () => undefined, passThroughOnException: () => undefined, props: {} };
  const send: NodeEdge["send"] = async (path, init) => app.request(`http://localhost${path}`, init, env, context);
  return {
    lines,
    send,
    // An isolate without its object asks for it again and again.
    [Symbol.dispose]() {
      over = true;
      for (const timer of timers) clearTimeout(timer);
    },
    async ask(question = {}) {
      const { path = "/v1/captions", method = "POST", type = "image/png", query = {}, image, body } = question;
      const texts = Object.fromEntries(Object.entries(query).map(([name, value]) => [name, String(value)]));
      const search = new URLSearchParams(texts).toString();
      const sent = body === undefined ? new Uint8Array(image ?? freshPicture()) : body;
      const startedAt = performance.now();
      const response = await send(`${path}${search === "" ? "" : `?${search}`}`, {
        method,
        headers: { "content-type": type, "content-length": String(sent?.length ?? 0), ...question.headers },
        ...(method === "POST" ? { body: sent } : {}),
      });
      const text = await response.text();
      const elapsedMs = performance.now() - startedAt;
      const parsed: unknown = JSON.parse(text);
      return { status: response.status, headers: response.headers, body: parsed, text, elapsedMs };
    },
  };
}
