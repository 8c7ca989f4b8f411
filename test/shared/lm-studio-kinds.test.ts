import assert from "node:assert/strict";
import { test } from "node:test";
import { errorTable } from "../../shared/errors.ts";
import { lmStudioError, lmStudioKinds, type LmStudioKind } from "../../shared/lm-studio-kinds.ts";

/** Kind, code, HTTP status at the edge, whether again, what breaker `lm_studio_api` learns. */
const rows: readonly [LmStudioKind, string, number, string, string][] = [
  ["refused", "ERR_CONN_REFUSED", 503, "yes", "failure"],
  ["unreachable", "ERR_CONN_UNAVAILABLE", 503, "yes", "failure"],
  ["connect_timeout", "ERR_CONN_TIMEOUT", 504, "yes", "failure"],
  ["no_first_token", "ERR_TIMEOUT_RESPONSE", 504, "no", "failure"],
  ["stalled", "ERR_TIMEOUT_IDLE", 504, "if_time", "failure"],
  ["out_of_time", "ERR_TIMEOUT_REQUEST", 504, "no", "failure"],
  ["truncated", "ERR_API_INVALID_RESPONSE", 502, "yes", "failure"],
  ["malformed", "ERR_API_INVALID_RESPONSE", 502, "yes", "failure"],
  ["too_long", "ERR_API_INVALID_RESPONSE", 502, "no", "failure"],
  ["empty", "ERR_API_INVALID_RESPONSE", 502, "once", "failure"],
  ["reasoning_only", "ERR_API_INVALID_RESPONSE", 502, "once", "failure"],
  ["untrue", "ERR_API_INVALID_RESPONSE", 502, "once", "failure"],
  ["no_vision", "ERR_VAL_INVALID_RANGE", 400, "no", "ignored"],
  ["bad_image", "ERR_ENC_INVALID_INPUT", 422, "no", "ignored"],
  ["context_overflow", "ERR_API_INVALID_RESPONSE", 502, "no", "failure"],
  ["bad_request", "ERR_API_INVALID_RESPONSE", 502, "no", "failure"],
  ["template", "ERR_API_INVALID_RESPONSE", 502, "no", "failure"],
  ["not_loaded", "ERR_API_OVERLOAD", 503, "after_load", "failure"],
  ["load_failed", "ERR_API_OVERLOAD", 503, "no", "failure"],
  ["crashed", "ERR_API_OVERLOAD", 503, "after_backoff", "failure"],
  ["engine", "ERR_API_OVERLOAD", 503, "after_backoff", "failure"],
  ["token_refused", "ERR_API_UNAUTHORIZED", 502, "no", "failure"],
  ["wrong_path", "ERR_API_INVALID_RESPONSE", 502, "no", "failure"],
  ["throttled", "ERR_API_RATE_LIMIT", 503, "after_retry_after", "failure"],
  ["upstream_5xx", "ERR_API_OVERLOAD", 503, "yes", "failure"],
];

test("every kind has the code, status, repeat and sample that the design gives it", () => {
  const ours = Object.entries(lmStudioKinds).map(([kind, { code, again, sample }]) => [
    kind,
    code,
    lmStudioError(kind as LmStudioKind).status,
    again,
    sample,
  ]);
  assert.deepEqual(ours, rows);
});

test("a repeat is never wider than the code's own retryability", () => {
  for (const [kind, { code, again }] of Object.entries(lmStudioKinds)) {
    assert.ok(again === "no" || errorTable[code].retryable, kind);
  }
});

test("LM Studio's words stand in the detail, cut and cleaned, and nowhere else", () => {
  const error = lmStudioError("crashed", { detail: `/home/me/model.gguf\u001b[31m${"x".repeat(900)}` });
  assert.ok(error.detail !== null && error.detail.length <= 500 && !error.detail.includes("\u001b"));
  assert.ok(!JSON.stringify(error).includes("/home/me"));
});
