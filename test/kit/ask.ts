import { healthyPicture } from "./marked-pictures.ts";

/** One question to an edge. */
export type Question = {
  /** Left out: a healthy picture that was not sent before. */
  image?: Uint8Array;
  /** Content type; left out: PNG. */
  type?: string;
  /** Left out: `/v1/captions`. */
  path?: string;
  method?: string;
  query?: Readonly<Record<string, string | number | boolean>>;
  headers?: Readonly<Record<string, string>>;
  /** In the place of a picture; null sends none, as does any method but POST. */
  body?: string | null;
  signal?: AbortSignal;
};

/** What came back, with the time it took in ms; a body that is not JSON stands as text. */
export type Reply = { status: number; headers: Headers; body: unknown; text: string; elapsedMs: number };

let asked = 0;

/** A healthy picture that this process has not made before: no cache knows it. */
export function freshPicture(): Buffer {
  asked += 1;
  return healthyPicture(asked);
}

/** Asks an edge one question over HTTP; rejects only when there is no HTTP answer at all. */
export async function ask(edge: { url: string }, question: Question = {}): Promise<Reply> {
  const { path = "/v1/captions", method = "POST", type = "image/png", query = {} } = question;
  const texts = Object.fromEntries(Object.entries(query).map(([name, value]) => [name, String(value)]));
  const search = new URLSearchParams(texts).toString();
  const body = method === "POST" ? bodyOf(question) : null;
  const startedAt = performance.now();
  const response = await fetch(`${edge.url}${path}${search === "" ? "" : `?${search}`}`, {
    method,
    headers: { ...(body === null ? {} : { "content-type": type }), ...question.headers },
    ...(body === null ? {} : { body }),
    ...(question.signal === undefined ? {} : { signal: question.signal }),
  });
  const text = await response.text();
  const elapsedMs = performance.now() - startedAt;
  return { status: response.status, headers: response.headers, body: readJson(text), text, elapsedMs };
}

function bodyOf({ body, image }: Question): string | Uint8Array<ArrayBuffer> | null {
  return body === undefined ? new Uint8Array(image ?? freshPicture()) : body;
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return text;
    throw error;
  }
}
