import { errorBody, errorTable, type ErrorCode, type PixelLLMError } from "../shared/errors.ts";

/** What an error's answer adds to the error. */
export type ErrorAnswerExtras = {
  /** False where our own loop tried in vain or refused to: a caller's repeat would multiply it. */
  repeat?: boolean;
  headers?: Readonly<Record<string, string>>;
  /** Facts beside `error` in the body. */
  beside?: Readonly<Record<string, unknown>>;
};

/** Header that names an error answer's code to our own access log; taken off before the answer leaves. */
export const codeHeader = "x-pixel-llm-code";

/** An answer of JSON; markup in it is escaped, so that a browser that sniffs finds none. */
export function jsonAnswer(body: unknown, status = 200, headers: Readonly<Record<string, string>> = {}): Response {
  const text = JSON.stringify(body).replaceAll(
    /[<\u2028\u2029]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return new Response(text, { status, headers: { "content-type": "application/json; charset=utf-8", ...headers } });
}

/** The contract's error envelope with the headers that go with it. */
export function errorAnswer(error: PixelLLMError, requestId: string, extras: ErrorAnswerExtras = {}): Response {
  const inner = errorBody(error, requestId);
  const waits = error.status === 429 || error.status === 503;
  return jsonAnswer({ ...extras.beside, error: inner }, error.status, {
    [codeHeader]: error.code,
    "x-should-retry": String(inner.retryable && extras.repeat !== false),
    ...(waits && inner.retry_after_seconds !== null ? { "retry-after": String(inner.retry_after_seconds) } : {}),
    ...(error.status === 401 ? { "www-authenticate": "Bearer" } : {}),
    ...extras.headers,
  });
}

/** Puts the headers every answer has on it and takes our own mark off; gives the code that the mark named. */
export function finishAnswer(answer: Response, requestId: string, https: boolean): ErrorCode | null {
  const code = answer.headers.get(codeHeader);
  answer.headers.delete(codeHeader);
  answer.headers.set("x-request-id", requestId);
  answer.headers.set("cache-control", "private, no-store");
  answer.headers.set("x-content-type-options", "nosniff");
  answer.headers.set("referrer-policy", "no-referrer");
  answer.headers.set("cross-origin-resource-policy", "same-origin");
  if (https) answer.headers.set("strict-transport-security", "max-age=31536000");
  return code !== null && Object.hasOwn(errorTable, code) ? (code as ErrorCode) : null;
}
