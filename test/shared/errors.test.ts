import assert from "node:assert/strict";
import { test } from "node:test";
import {
  errorCodes,
  errorTable,
  exceptionNames,
  isPixelLLMError,
  PixelLLMError,
  toPixelLLMError,
} from "../../shared/errors.ts";
import { entersLadder } from "../../shared/fallback.ts";
import { errorBodySchema, fromErrorBody } from "../../shared/wire.ts";

/** The error handling guide's tables, to the letter. */
const guide: readonly [string, string, string, boolean][] = [
  ["ERR_CONN_UNAVAILABLE", "LM Studio connection unavailable", "HIGH", true],
  ["ERR_CONN_REFUSED", "Connection refused by LM Studio", "MEDIUM", true],
  ["ERR_CONN_TIMEOUT", "Connection timeout occurred", "MEDIUM", true],
  ["ERR_TIMEOUT_REQUEST", "Request timeout", "MEDIUM", true],
  ["ERR_TIMEOUT_RESPONSE", "Response timeout", "MEDIUM", true],
  ["ERR_TIMEOUT_IDLE", "Idle timeout", "LOW", true],
  ["ERR_VAL_INVALID_TENSOR", "Invalid tensor shape or dtype", "LOW", false],
  ["ERR_VAL_MISSING_FIELD", "Required field missing", "LOW", false],
  ["ERR_VAL_INVALID_RANGE", "Value out of valid range", "LOW", false],
  ["ERR_VAL_EMPTY_INPUT", "Empty input provided", "LOW", false],
  ["ERR_API_RATE_LIMIT", "Rate limit exceeded", "MEDIUM", true],
  ["ERR_API_OVERLOAD", "API service overloaded", "HIGH", true],
  ["ERR_API_INVALID_RESPONSE", "Invalid API response", "MEDIUM", true],
  ["ERR_API_UNAUTHORIZED", "Unauthorized access", "HIGH", false],
  ["ERR_ENC_LOAD_FAILED", "Failed to load encoder checkpoint", "CRITICAL", false],
  ["ERR_ENC_FORWARD_FAILED", "Encoder forward pass failed", "HIGH", true],
  ["ERR_ENC_INVALID_INPUT", "Invalid encoder input", "LOW", false],
  ["ERR_CB_OPEN", "Circuit breaker is open", "MEDIUM", false],
  ["ERR_CB_HALF_OPEN", "Circuit breaker is half-open", "MEDIUM", false],
  ["ERR_RETRY_EXHAUSTED", "Maximum retry attempts exhausted", "HIGH", false],
];

test("E19: the guide's twenty codes have its message, severity and retryability", () => {
  const ours = errorCodes.map((code) => [
    code,
    errorTable[code].message,
    errorTable[code].severity,
    errorTable[code].retryable,
  ]);
  assert.deepEqual(ours.slice(0, 20), guide);
});

test("E18: there are twenty codes of the guide and three of ours", () => {
  assert.deepEqual(errorCodes.slice(20), ["ERR_INTERNAL", "ERR_NOT_FOUND", "ERR_CACHE_MISS"]);
});

test("E25: only a checkpoint that cannot load is critical; E26: every code says what to do", () => {
  assert.deepEqual(
    errorCodes.filter((code) => errorTable[code].severity === "CRITICAL"),
    ["ERR_ENC_LOAD_FAILED"],
  );
  for (const code of errorCodes) assert.ok(errorTable[code].remedy.endsWith("."), code);
});

test("E24: the ladder answers for dependencies, never for the caller's own faults", () => {
  const own = errorCodes.filter((code) => !entersLadder(code));
  assert.deepEqual(own, [
    "ERR_VAL_INVALID_TENSOR",
    "ERR_VAL_MISSING_FIELD",
    "ERR_VAL_INVALID_RANGE",
    "ERR_VAL_EMPTY_INPUT",
    "ERR_ENC_INVALID_INPUT",
    "ERR_NOT_FOUND",
    "ERR_CACHE_MISS",
  ]);
});

test("E2: details are a frozen copy; the thrower's object is neither changed nor shared", () => {
  const given = { limit: 1, inner: { actual: 2 } };
  const error = new PixelLLMError("ERR_VAL_INVALID_RANGE", { details: given });
  given.inner.actual = 3;
  assert.deepEqual(error.details, { limit: 1, inner: { actual: 2 } });
  assert.throws(() => Object.assign(error.details, { limit: 9 }), TypeError);
});

test("E3: toJSON is the contract's inner object, ten keys, and knows no private detail", () => {
  const error = new PixelLLMError("ERR_CONN_REFUSED", {
    detail: "10.0.0.7:1234",
    retryAfterSeconds: 1.2,
    cause: new Error("x"),
  });
  assert.deepEqual(error.toJSON(), {
    message: "Connection refused by LM Studio",
    type: "connection_error",
    param: null,
    code: "ERR_CONN_REFUSED",
    category: "connection",
    severity: "MEDIUM",
    retryable: true,
    request_id: null,
    retry_after_seconds: 2,
    details: {},
  });
  errorBodySchema.parse(error.toJSON());
});

test("E4-E17: an error is named after the guide's class of its category", () => {
  for (const code of errorCodes) assert.equal(new PixelLLMError(code).name, exceptionNames[errorTable[code].category]);
});

test("every code survives the wire: code, status, parameter, hint, wait", () => {
  for (const code of errorCodes) {
    for (const status of errorTable[code].statuses) {
      const sent = new PixelLLMError(code, {
        status,
        param: "p",
        hint: "Do this.",
        retryAfterSeconds: 3,
        details: { a: 1 },
      });
      const back = fromErrorBody(sent.toJSON(), status);
      assert.deepEqual([back.toJSON(), back.status], [sent.toJSON(), status]);
    }
  }
});

test("a status the row does not have is not taken; waits are whole seconds, at least one", () => {
  assert.equal(new PixelLLMError("ERR_CONN_REFUSED", { status: 200 }).status, 503);
  const waits = [0, 0.2, 1, 1.01, Number.NaN, Infinity].map(
    (seconds) => new PixelLLMError("ERR_CB_OPEN", { retryAfterSeconds: seconds }).retryAfterSeconds,
  );
  assert.deepEqual(waits, [1, 1, 1, 2, null, null]);
});

test("E27: anything thrown becomes an error of ours, with itself as the cause", () => {
  for (const thrown of [new TypeError("t"), "text", null, undefined, 7]) {
    const error = toPixelLLMError(thrown);
    assert.deepEqual([error.code, error.cause], ["ERR_INTERNAL", thrown]);
  }
  const ours = new PixelLLMError("ERR_CB_OPEN");
  assert.equal(toPixelLLMError(ours), ours);
  assert.equal(isPixelLLMError(Object.assign(new Error("node's"), { code: "ENOENT" })), false);
});
