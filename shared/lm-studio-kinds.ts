import { PixelLLMError, type ErrorCode } from "./errors.ts";

/** Whether the same call may be made again: never, once, when time is left, or after something has happened. */
export type Again = "yes" | "no" | "once" | "if_time" | "after_load" | "after_backoff" | "after_retry_after";

type KindRow = {
  code: ErrorCode;
  again: Again;
  /** What breaker `lm_studio_api` learns from it. */
  sample: "failure" | "ignored";
  /** HTTP status, where the code has several. */
  status?: number;
  /** The same failure when the caller's own words caused it. */
  callers?: { code: ErrorCode; status: number; param: string };
};

const badResponse = { code: "ERR_API_INVALID_RESPONSE", sample: "failure" } as const;
const overload = { code: "ERR_API_OVERLOAD", sample: "failure" } as const;
const callersFault = (param: string) => ({ code: "ERR_VAL_INVALID_RANGE", status: 400, param }) as const;

/** Every way LM Studio fails, and what it means to us; a kind travels as `details.kind`. */
export const lmStudioKinds = {
  refused: { code: "ERR_CONN_REFUSED", again: "yes", sample: "failure" },
  unreachable: { code: "ERR_CONN_UNAVAILABLE", again: "yes", sample: "failure" },
  connect_timeout: { code: "ERR_CONN_TIMEOUT", again: "yes", sample: "failure" },
  no_first_token: { code: "ERR_TIMEOUT_RESPONSE", again: "no", sample: "failure" },
  stalled: { code: "ERR_TIMEOUT_IDLE", again: "if_time", sample: "failure" },
  out_of_time: { code: "ERR_TIMEOUT_REQUEST", again: "no", sample: "failure" },
  truncated: { ...badResponse, again: "yes" },
  malformed: { ...badResponse, again: "yes" },
  too_long: { ...badResponse, again: "no" },
  empty: { ...badResponse, again: "once" },
  reasoning_only: { ...badResponse, again: "once" },
  untrue: { ...badResponse, again: "once" },
  no_vision: {
    code: "ERR_VAL_INVALID_RANGE",
    again: "no",
    sample: "ignored",
    status: 400,
    callers: callersFault("model"),
  },
  bad_image: { code: "ERR_ENC_INVALID_INPUT", again: "no", sample: "ignored", status: 422 },
  context_overflow: { ...badResponse, again: "no", callers: callersFault("prompt") },
  bad_request: { ...badResponse, again: "no", callers: callersFault("messages") },
  template: { ...badResponse, again: "no", callers: callersFault("messages") },
  not_loaded: { ...overload, again: "after_load" },
  load_failed: { ...overload, again: "no" },
  crashed: { ...overload, again: "after_backoff" },
  engine: { ...overload, again: "after_backoff" },
  token_refused: { code: "ERR_API_UNAUTHORIZED", again: "no", sample: "failure", status: 502 },
  wrong_path: { ...badResponse, again: "no" },
  throttled: { code: "ERR_API_RATE_LIMIT", again: "after_retry_after", sample: "failure", status: 503 },
  upstream_5xx: { ...overload, again: "yes" },
} as const satisfies Record<string, KindRow>;

/** A name of `lmStudioKinds`. */
export type LmStudioKind = keyof typeof lmStudioKinds;

/** True for a name of `lmStudioKinds`; `details.kind` also carries names of our own. */
export function isLmStudioKind(value: unknown): value is LmStudioKind {
  return typeof value === "string" && Object.hasOwn(lmStudioKinds, value);
}

/** What is known beside the kind. */
export type LmStudioFacts = {
  /** LM Studio's own words, for the log: cut to 500 characters, control characters removed. */
  detail?: string | undefined;
  /** The wait LM Studio asks for, in ms; 0 or none = it asks for none. */
  retryAfterMs?: number | null | undefined;
  /** The caller's own words caused it. */
  callers?: boolean | undefined;
  /** With `not_loaded`: our own load of the model is under way, so the wait says nothing against LM Studio. */
  loading?: boolean | undefined;
  hint?: string | undefined;
  cause?: unknown;
};

/** A failure of LM Studio as an error of ours. */
export function lmStudioError(kind: LmStudioKind, facts: LmStudioFacts = {}): PixelLLMError {
  const row: KindRow = lmStudioKinds[kind];
  const { code, status, param } =
    facts.callers === true && row.callers !== undefined ? row.callers : { ...row, param: undefined };
  return new PixelLLMError(code, {
    status,
    param,
    hint: facts.hint,
    detail: facts.detail === undefined ? undefined : cleanText(facts.detail),
    details: { kind, service: "lm_studio", ...(facts.loading === true ? { loading: true } : {}) },
    cause: facts.cause,
    // An error's own wait is at least a second, so "at once" must not become one.
    retryAfterSeconds: (facts.retryAfterMs ?? 0) > 0 ? (facts.retryAfterMs ?? 0) / 1000 : undefined,
  });
}

/** LM Studio's complaint in any of its five shapes, reduced to its words. */
export type UpstreamComplaint = { message: string; type: string | null; code: string | null };

/**
 * Reads a complaint from a parsed body: `{error: "…"}`, `{error: {message, type, code}}`, the same inside a stream
 * or a 200, and the engine's JSON inside a message, which is unwrapped once. Null = the body holds no complaint.
 */
export function readComplaint(body: unknown): UpstreamComplaint | null {
  if (!isRecord(body)) return null;
  const { error } = body;
  if (error === undefined && typeof body["title"] !== "string") return null;
  const inner = isRecord(error) ? error : {};
  const found = [inner["message"], error, body["message"], body["title"]].find((text) => typeof text === "string");
  const message = unwrap(typeof found === "string" ? found : JSON.stringify(error ?? ""));
  return { message, type: asText(inner["type"]), code: asText(inner["code"]) };
}

/** LM Studio's words → kind, most specific first. Wording differs by version; these are the stable parts. */
const wordings: readonly (readonly [RegExp, LmStudioKind])[] = [
  [/invalid_api_key|API token is required/i, "token_refused"],
  [/Unexpected endpoint or method/i, "wrong_path"],
  [/does not support images|Vision add-on is not loaded|Vision model is not loaded/i, "no_vision"],
  [/'url' field must be a base64 encoded image/i, "bad_image"],
  [
    /n_keep|n_ctx|does not fit in context length|Context size has been exceeded|Trying to keep the first|Reached context length/i,
    "context_overflow",
  ],
  [
    /Failed to load model[\s\S]*Operation canceled|No models loaded|Model is unloaded|model_not_found|Model unloaded/i,
    "not_loaded",
  ],
  [/Failed to load model|insufficient system resources/i, "load_failed"],
  [/model has crashed/i, "crashed"],
  [/jinja template|generate parser for this template/i, "template"],
  [/field is required|invalid_union|missing_required_parameter|response_format\.type/i, "bad_request"],
  [/Engine protocol|Channel Error|received prediction-error/i, "engine"],
];

/** The kind of a complaint, by status where it is certain, by words, then by status again. */
export function classifyComplaint(complaint: UpstreamComplaint | null, status: number): LmStudioKind {
  if (status === 401 || status === 403) return "token_refused";
  if (status === 429) return "throttled";
  const words = complaint === null ? "" : `${complaint.message} ${complaint.code ?? ""}`;
  for (const [pattern, kind] of wordings) if (pattern.test(words)) return kind;
  if (isSchemaComplaint(words)) return "bad_request";
  if (status >= 500) return "upstream_5xx";
  if (status >= 400) return "bad_request";
  return complaint === null ? "malformed" : "engine";
}

/** A JSON array of problems inside a string is how LM Studio's validator complains. */
function isSchemaComplaint(words: string): boolean {
  return /^\s*\[\s*\{/.test(words);
}

function unwrap(message: string): string {
  const plain = message.replace(/<LM Studio error>\s*/i, "").replace(/\s*Error Data: .*$/is, "");
  const at = plain.indexOf('{"error"');
  if (at < 0) return plain;
  try {
    const inner = readComplaint(JSON.parse(plain.slice(at, plain.lastIndexOf("}") + 1)));
    // What the engine said comes first: it is closer to the cause than the words around it.
    return inner === null ? plain : `${inner.message} ${plain.slice(0, at)}`;
  } catch (error) {
    return error instanceof SyntaxError ? plain : String(error);
  }
}

function asText(value: unknown): string | null {
  return typeof value === "string" || typeof value === "number" ? String(value) : null;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function cleanText(text: string): string {
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, " ").slice(0, 500);
}
