/** The groups of the error table; `type` on the wire is the category + `_error`. */
export type ErrorCategory =
  | "connection"
  | "timeout"
  | "validation"
  | "api"
  | "encoder"
  | "circuit_breaker"
  | "retry"
  | "internal"
  | "request";

/** How bad a failure is for the service as a whole, not for the one request. */
export type ErrorSeverity = "LOW" | "MEDIUM" | "HIGH" | "CRITICAL";

/** What kind of trouble a code is: passing, throttled, running with less, for good, or not known. */
export type ErrorClass = "TRANSIENT" | "THROTTLED" | "DEGRADATION" | "PERMANENT" | "UNKNOWN";

type ErrorRow = {
  /** Public sentence, safe to show to anyone. */
  message: string;
  category: ErrorCategory;
  severity: ErrorSeverity;
  /** Whether the same request may succeed later without a change. */
  retryable: boolean;
  class: ErrorClass;
  /** HTTP statuses this code may carry; the first is used unless the thrower picks another of them. */
  statuses: readonly [number, ...number[]];
  /** What a person does next; for documentation and command line, never in an HTTP body. */
  remedy: string;
};

/**
 * Every error this product can give. Types, wire enum, HTTP statuses and the README table derive from it.
 * The first twenty rows are the error handling guide's, to the letter of message, severity and retryability;
 * the rest are ours. A code is never renamed or reused.
 */
export const errorTable = {
  ERR_CONN_UNAVAILABLE: {
    message: "LM Studio connection unavailable",
    category: "connection",
    severity: "HIGH",
    retryable: true,
    class: "TRANSIENT",
    statuses: [503],
    remedy: "Start LM Studio's server and the sidecar; check lm_studio_host, lm_studio_port and sidecar_url.",
  },
  ERR_CONN_REFUSED: {
    message: "Connection refused by LM Studio",
    category: "connection",
    severity: "MEDIUM",
    retryable: true,
    class: "TRANSIENT",
    statuses: [503],
    remedy: "Start LM Studio's server (`lms server start`), or set lm_studio_port to the port it listens on.",
  },
  ERR_CONN_TIMEOUT: {
    message: "Connection timeout occurred",
    category: "connection",
    severity: "MEDIUM",
    retryable: true,
    class: "TRANSIENT",
    statuses: [504],
    remedy: "Check firewall and route to the box, then raise timeout_connect_seconds.",
  },
  ERR_TIMEOUT_REQUEST: {
    message: "Request timeout",
    category: "timeout",
    severity: "MEDIUM",
    retryable: true,
    class: "TRANSIENT",
    statuses: [504],
    remedy: "Raise timeout_seconds, lower the load, or use a smaller model.",
  },
  ERR_TIMEOUT_RESPONSE: {
    message: "Response timeout",
    category: "timeout",
    severity: "MEDIUM",
    retryable: true,
    class: "TRANSIENT",
    statuses: [504],
    remedy: "Load the model before it is needed, use a smaller one, or raise timeout_first_token_seconds.",
  },
  ERR_TIMEOUT_IDLE: {
    message: "Idle timeout",
    category: "timeout",
    severity: "LOW",
    retryable: true,
    class: "TRANSIENT",
    statuses: [504],
    remedy: "Look for competing GPU jobs and full GPU memory, or raise timeout_idle_seconds.",
  },
  ERR_VAL_INVALID_TENSOR: {
    message: "Invalid tensor shape or dtype",
    category: "validation",
    severity: "LOW",
    retryable: false,
    class: "PERMANENT",
    statuses: [400],
    remedy: "Pass [batch, channels, height, width] with the type and size that the encoder's manifest names.",
  },
  ERR_VAL_MISSING_FIELD: {
    message: "Required field missing",
    category: "validation",
    severity: "LOW",
    retryable: false,
    class: "PERMANENT",
    statuses: [400],
    remedy: "Send the field named in `param`.",
  },
  ERR_VAL_INVALID_RANGE: {
    message: "Value out of valid range",
    category: "validation",
    severity: "LOW",
    retryable: false,
    class: "PERMANENT",
    statuses: [400, 413],
    remedy: "Use a value inside the range that the message names.",
  },
  ERR_VAL_EMPTY_INPUT: {
    message: "Empty input provided",
    category: "validation",
    severity: "LOW",
    retryable: false,
    class: "PERMANENT",
    statuses: [400],
    remedy: "Send the bytes of the picture as the request body.",
  },
  ERR_API_RATE_LIMIT: {
    message: "Rate limit exceeded",
    category: "api",
    severity: "MEDIUM",
    retryable: true,
    class: "THROTTLED",
    statuses: [429, 503],
    remedy: "Wait for Retry-After and lower the number of calls at once.",
  },
  ERR_API_OVERLOAD: {
    message: "API service overloaded",
    category: "api",
    severity: "HIGH",
    retryable: true,
    class: "THROTTLED",
    statuses: [503],
    remedy: "Load a model in LM Studio; wait and retry; use a smaller model or fewer calls at once.",
  },
  ERR_API_INVALID_RESPONSE: {
    message: "Invalid API response",
    category: "api",
    severity: "MEDIUM",
    retryable: true,
    class: "TRANSIENT",
    statuses: [502],
    remedy: "Update LM Studio, try another model, and check that LM Studio owns the port.",
  },
  ERR_API_UNAUTHORIZED: {
    message: "Unauthorized access",
    category: "api",
    severity: "HIGH",
    retryable: false,
    class: "PERMANENT",
    statuses: [401, 403, 502],
    remedy: "Check the caller's key, lm_studio_api_token, and that both halves hold the same sidecar_secret.",
  },
  ERR_ENC_LOAD_FAILED: {
    message: "Failed to load encoder checkpoint",
    category: "encoder",
    severity: "CRITICAL",
    retryable: false,
    class: "DEGRADATION",
    statuses: [503],
    remedy: "Give checkpoint_path the absolute path of a whole ONNX model, or unset it for the embedded encoder.",
  },
  ERR_ENC_FORWARD_FAILED: {
    message: "Encoder forward pass failed",
    category: "encoder",
    severity: "HIGH",
    retryable: true,
    class: "TRANSIENT",
    statuses: [503],
    remedy: "Retry; if it lasts, lower batch_size or run the encoder on the CPU.",
  },
  ERR_ENC_INVALID_INPUT: {
    message: "Invalid encoder input",
    category: "encoder",
    severity: "LOW",
    retryable: false,
    class: "PERMANENT",
    statuses: [422, 415],
    remedy: "Send a whole JPEG, PNG, WebP, GIF or AVIF picture.",
  },
  ERR_CB_OPEN: {
    message: "Circuit breaker is open",
    category: "circuit_breaker",
    severity: "MEDIUM",
    retryable: false,
    class: "DEGRADATION",
    statuses: [503],
    remedy: "Wait for the cooldown, fix the cause, or reset the breaker.",
  },
  ERR_CB_HALF_OPEN: {
    message: "Circuit breaker is half-open",
    category: "circuit_breaker",
    severity: "MEDIUM",
    retryable: false,
    class: "DEGRADATION",
    statuses: [503],
    remedy: "Wait a moment: probes decide whether the circuit closes.",
  },
  ERR_RETRY_EXHAUSTED: {
    message: "Maximum retry attempts exhausted",
    category: "retry",
    severity: "HIGH",
    retryable: false,
    class: "DEGRADATION",
    statuses: [503],
    remedy: "Fix the cause in details.last_cause; only then raise retry_max_attempts or retry_max_delay.",
  },
  ERR_INTERNAL: {
    message: "Internal error",
    category: "internal",
    severity: "HIGH",
    retryable: false,
    class: "UNKNOWN",
    statuses: [500],
    remedy: "This is a bug of ours: report it with the request id.",
  },
  ERR_NOT_FOUND: {
    message: "Not found",
    category: "request",
    severity: "LOW",
    retryable: false,
    class: "PERMANENT",
    statuses: [404, 405],
    remedy: "Check path and method against the list of routes.",
  },
  ERR_CACHE_MISS: {
    message: "Nothing stored for this request",
    category: "request",
    severity: "LOW",
    retryable: false,
    class: "PERMANENT",
    statuses: [504],
    remedy: "Send the request without `Cache-Control: only-if-cached`.",
  },
} as const satisfies Record<string, ErrorRow>;

/** A code of the table. */
export type ErrorCode = keyof typeof errorTable;

/** Every code, in table order; non-empty, for enums. */
export const errorCodes = Object.keys(errorTable) as [ErrorCode, ...ErrorCode[]];

/** The guide's exception class of each category; it is the error's `name` and the log's `exception_type`. */
export const exceptionNames = {
  connection: "ConnectionError",
  timeout: "TimeoutError",
  validation: "ValidationError",
  api: "APIError",
  encoder: "EncoderError",
  circuit_breaker: "CircuitBreakerOpen",
  retry: "RetryExhausted",
  internal: "PixelLMError",
  request: "PixelLMError",
} as const satisfies Record<ErrorCategory, string>;

/** The contract's `error` object: ten keys, always all of them. */
export type ErrorBody = {
  message: string;
  type: `${ErrorCategory}_error`;
  param: string | null;
  code: ErrorCode;
  category: ErrorCategory;
  severity: ErrorSeverity;
  retryable: boolean;
  request_id: string | null;
  retry_after_seconds: number | null;
  details: Readonly<Record<string, unknown>>;
};

/** What a thrower adds to a code. */
export type ErrorExtras = {
  /** For the log only: hosts, paths, upstream text, values. */
  detail?: string | undefined;
  /** Public sentence after the table's message: a limit, a remedy; made from our own words and numbers only. */
  hint?: string | undefined;
  /** Public facts (numbers, names of ours); copied and frozen. */
  details?: Readonly<Record<string, unknown>> | undefined;
  /** The request key the failure is about. */
  param?: string | undefined;
  /** One of the row's statuses, when it is not the first. */
  status?: number | undefined;
  /** Whole seconds, at least 1, after which a repeat makes sense. */
  retryAfterSeconds?: number | undefined;
  cause?: unknown;
};

/**
 * The one error class of both halves, made from a code of the table.
 * Category, severity, retryability and status come from the table; only `detail` and `cause` are private to the log.
 */
export class PixelLLMError extends Error {
  readonly code: ErrorCode;
  readonly detail: string | null;
  readonly details: Readonly<Record<string, unknown>>;
  readonly param: string | null;
  readonly status: number;
  readonly retryAfterSeconds: number | null;

  constructor(code: ErrorCode, extras: ErrorExtras = {}) {
    const row: ErrorRow = errorTable[code];
    super(extras.hint === undefined ? row.message : `${row.message}. ${extras.hint}`, { cause: extras.cause });
    this.name = exceptionNames[row.category];
    this.code = code;
    this.detail = extras.detail ?? null;
    this.details = freezeDeep(structuredCopy(extras.details ?? {}));
    this.param = extras.param ?? null;
    this.status = extras.status !== undefined && row.statuses.includes(extras.status) ? extras.status : row.statuses[0];
    this.retryAfterSeconds = readRetryAfter(extras.retryAfterSeconds);
  }

  get category(): ErrorCategory {
    return errorTable[this.code].category;
  }

  get severity(): ErrorSeverity {
    return errorTable[this.code].severity;
  }

  get retryable(): boolean {
    return errorTable[this.code].retryable;
  }

  get class(): ErrorClass {
    return errorTable[this.code].class;
  }

  /** The contract's inner error object, without a request id. */
  toJSON(): ErrorBody {
    return errorBody(this, null);
  }
}

/** The contract's inner error object for one request. */
export function errorBody(error: PixelLLMError, requestId: string | null): ErrorBody {
  return {
    message: error.message,
    type: `${error.category}_error`,
    param: error.param,
    code: error.code,
    category: error.category,
    severity: error.severity,
    retryable: error.retryable,
    request_id: requestId,
    retry_after_seconds: error.retryAfterSeconds,
    details: error.details,
  };
}

/** True for an error of ours; reads the code, so it holds for copies that lost their class on the way. */
export function isPixelLLMError(value: unknown): value is PixelLLMError {
  return (
    value instanceof Error &&
    "details" in value &&
    "code" in value &&
    typeof value.code === "string" &&
    Object.hasOwn(errorTable, value.code)
  );
}

/** An error of ours as it is; anything else becomes `ERR_INTERNAL` with the value as its cause. */
export function toPixelLLMError(value: unknown): PixelLLMError {
  if (isPixelLLMError(value)) return value;
  return new PixelLLMError("ERR_INTERNAL", {
    detail: value instanceof Error ? `${value.name}: ${value.message}` : String(value),
    cause: value,
  });
}

// JSON in, JSON out: details travel between hosts, so what JSON cannot carry must not appear to work in one process.
function structuredCopy(details: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return JSON.parse(JSON.stringify(details)) as Record<string, unknown>;
}

function freezeDeep<T>(value: T): T {
  if (typeof value === "object" && value !== null) {
    for (const inner of Object.values(value)) freezeDeep(inner);
    Object.freeze(value);
  }
  return value;
}

function readRetryAfter(seconds: number | undefined): number | null {
  if (seconds === undefined || !Number.isFinite(seconds)) return null;
  return Math.max(1, Math.ceil(seconds));
}
