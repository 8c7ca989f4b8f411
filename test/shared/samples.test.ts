import assert from "node:assert/strict";
import { test } from "node:test";
import type { Sample } from "../../shared/breaker-state.ts";
import { errorCodes, type ErrorCode } from "../../shared/errors.ts";
import { lmStudioError, lmStudioKinds, type LmStudioKind } from "../../shared/lm-studio-kinds.ts";
import { samplesOf, type AttemptFacts } from "../../shared/samples.ts";

const limits = { timeoutMs: 30_000, slowCallMs: null };
const slowLimits = { timeoutMs: 30_000, slowCallMs: 8000 };

type Failure = Extract<AttemptFacts, { ok: false }>;
type Pair = readonly [sidecar: Sample | null, lmStudio: Sample | null];

const pair = (facts: AttemptFacts, under: Parameters<typeof samplesOf>[1] = limits): Pair => {
  const { sidecar, lm_studio_api } = samplesOf(facts, under);
  return [sidecar, lm_studio_api];
};

const failed = (code: ErrorCode, more: Partial<Failure> = {}): Failure => ({
  ok: false,
  code,
  details: {},
  fromSidecar: true,
  callerGone: false,
  lmStudioMs: 0,
  ...more,
});
/** The edge's own error: no head, a broken answer, or no answer in time. */
const atEdge = (code: ErrorCode): Failure => failed(code, { fromSidecar: false, details: { service: "sidecar" } });
/** Made inside the edge, without the box. */
const ownOf = (code: ErrorCode): Failure => failed(code, { fromSidecar: false });
/** What the sidecar says of LM Studio. */
const ofLmStudio = (kind: LmStudioKind, more: Parameters<typeof lmStudioError>[1] = {}): Failure => {
  const { code, details } = lmStudioError(kind, more);
  return failed(code, { details });
};
const outOfTime = (stage: string, lmStudioMs: number): Failure =>
  failed("ERR_TIMEOUT_REQUEST", { details: { stage }, lmStudioMs });

const rows: readonly [string, AttemptFacts, Pair][] = [
  ["a caption", { ok: true, elapsedMs: 900, collapsed: false }, ["success", "success"]],
  ["an hour's caption, slow rule off", { ok: true, elapsedMs: 3_600_000, collapsed: false }, ["success", "success"]],
  ["F48 a shared caption", { ok: true, elapsedMs: 900, collapsed: true }, ["success", "ignored"]],

  ["F1 no connection", atEdge("ERR_CONN_UNAVAILABLE"), ["failure", null]],
  ["no connection, not marked as the sidecar's", ownOf("ERR_CONN_UNAVAILABLE"), ["failure", null]],
  ["F2 no head in time", atEdge("ERR_CONN_TIMEOUT"), ["failure", null]],
  ["F6 broken off", atEdge("ERR_API_INVALID_RESPONSE"), ["failure", null]],
  ["foreign bytes under the mark", failed("ERR_API_INVALID_RESPONSE"), ["failure", null]],
  ["a head, then silence past the deadline", ownOf("ERR_TIMEOUT_REQUEST"), ["failure", null]],
  ["a head, then silence, marked as the sidecar's", atEdge("ERR_TIMEOUT_REQUEST"), ["failure", null]],
  ["a head, then idle", atEdge("ERR_TIMEOUT_IDLE"), ["failure", null]],
  ["F53 our signature refused", atEdge("ERR_API_UNAUTHORIZED"), ["failure", null]],
  ["our signature refused, read from the body", failed("ERR_API_UNAUTHORIZED"), ["failure", null]],
  ["a bug of the sidecar", failed("ERR_INTERNAL"), ["failure", null]],
  ["F37 the encoder failed", failed("ERR_ENC_FORWARD_FAILED"), ["failure", null]],

  ["F1 LM Studio refuses", ofLmStudio("refused"), ["success", "failure"]],
  ["LM Studio is not there", ofLmStudio("unreachable"), ["success", "failure"]],
  ["LM Studio does not accept", ofLmStudio("connect_timeout"), ["success", "failure"]],
  ["F9 no first token", ofLmStudio("no_first_token"), ["success", "failure"]],
  ["F11 LM Studio stalls", ofLmStudio("stalled"), ["success", "failure"]],
  ["F13 LM Studio's answer is cut", ofLmStudio("truncated"), ["success", "failure"]],
  ["F15 LM Studio says nothing", ofLmStudio("empty"), ["success", "failure"]],
  ["F19 LM Studio refuses our token", ofLmStudio("token_refused"), ["success", "failure"]],
  ["F23 LM Studio answers 500", ofLmStudio("upstream_5xx"), ["success", "failure"]],
  ["the model crashed", ofLmStudio("crashed"), ["success", "failure"]],
  ["nothing is loaded", ofLmStudio("not_loaded"), ["success", "failure"]],
  ["F21 LM Studio answers 429", ofLmStudio("throttled"), ["success", "failure"]],
  ["a load is waited for", ofLmStudio("not_loaded", { loading: true }), ["success", "ignored"]],
  ["F18 the context is too small for what is all ours", ofLmStudio("context_overflow"), ["success", "failure"]],
  ["F18 the caller's prompt is too long", ofLmStudio("context_overflow", { callers: true }), ["success", "ignored"]],
  ["the image is refused", ofLmStudio("bad_image"), ["success", "ignored"]],
  ["a chat's image for a model that does not see", ofLmStudio("no_vision"), ["success", "ignored"]],

  ["time over, LM Studio had half of it", outOfTime("generate", 15_000), ["success", "failure"]],
  ["time over, LM Studio had a ms less than half", outOfTime("generate", 14_999), ["success", "ignored"]],
  ["time over at the first token after half of it", outOfTime("first_token", 20_000), ["success", "failure"]],
  ["time over while connecting", outOfTime("connect", 100), ["success", "ignored"]],
  ["time over, said as a kind", { ...ofLmStudio("out_of_time"), lmStudioMs: 15_000 }, ["success", "failure"]],
  ["time over, said as a kind, too early", ofLmStudio("out_of_time"), ["success", "ignored"]],
  ["time over in an unnamed stage", { ...outOfTime("", 15_000), details: {} }, ["success", "failure"]],
  ["F43 time over on arrival", { ...outOfTime("", 0), details: {} }, ["ignored", null]],
  ["time over in the queue", outOfTime("queue", 0), ["ignored", null]],
  ["time over in the queue for LM Studio", outOfTime("queue", 25_000), ["ignored", null]],
  ["time over while decoding", outOfTime("decode", 0), ["ignored", null]],
  ["time over while encoding", outOfTime("encode", 0), ["ignored", null]],

  ["F42 the sidecar's queue is full", failed("ERR_API_OVERLOAD", { details: { kind: "queue" } }), ["ignored", null]],
  ["the sidecar is stopping", failed("ERR_API_OVERLOAD"), ["ignored", null]],
  ["F44 the image does not decode", failed("ERR_ENC_INVALID_INPUT"), ["ignored", null]],
  ["the image has too many pixels", failed("ERR_VAL_INVALID_RANGE"), ["ignored", null]],
  ["F39 the encoder cannot load", failed("ERR_ENC_LOAD_FAILED"), ["ignored", null]],

  ["our own validation", ownOf("ERR_VAL_INVALID_RANGE"), [null, null]],
  ["a caller's own key", ownOf("ERR_API_UNAUTHORIZED"), [null, null]],
  ["a caller's own quota", ownOf("ERR_API_RATE_LIMIT"), [null, null]],
  ["the edge's own bounds", ownOf("ERR_API_OVERLOAD"), [null, null]],
  ["a bug of the edge", ownOf("ERR_INTERNAL"), [null, null]],
  ["a breaker refused", ownOf("ERR_CB_OPEN"), [null, null]],
  ["a breaker refused a probe", ownOf("ERR_CB_HALF_OPEN"), [null, null]],
  ["a failure admitted and never begun", { ...ownOf("ERR_TIMEOUT_REQUEST"), unbegun: true }, [null, null]],
];

for (const [what, facts, expected] of rows) {
  test(`sample of the sidecar, of LM Studio: ${what}`, () => assert.deepEqual(pair(facts), expected));
}

test("F47 a caller who left says nothing of either, whatever the failure", () => {
  for (const code of errorCodes) {
    for (const fromSidecar of [true, false]) {
      assert.deepEqual(pair(failed(code, { fromSidecar, callerGone: true })), ["ignored", "ignored"], code);
    }
  }
});

const paces: readonly [number, Sample][] = [
  [7999, "success"],
  [8000, "success"],
  [8001, "slow"],
];

for (const [elapsedMs, sample] of paces) {
  test(`F10 a caption after ${elapsedMs} ms, slow from 8000 on, is a ${sample} of LM Studio`, () => {
    assert.deepEqual(pair({ ok: true, elapsedMs, collapsed: false }, slowLimits), ["success", sample]);
  });
}

test("a shared caption is never slow: it was not LM Studio who let its caller wait", () => {
  assert.deepEqual(pair({ ok: true, elapsedMs: 20_000, collapsed: true }, slowLimits), ["success", "ignored"]);
});

test("F48 a shared failure is that of the one who made the call: its followers say nothing of LM Studio", () => {
  for (const facts of [ofLmStudio("crashed"), ofLmStudio("throttled"), failed("ERR_INTERNAL")]) {
    const shared = { ...facts, details: { ...facts.details, collapsed: true } };
    assert.deepEqual(pair(shared), ["success", "ignored"], facts.code);
  }
});

test("every kind of LM Studio's failures gives the sample of its row, and none blames the sidecar", () => {
  for (const [kind, { sample }] of Object.entries(lmStudioKinds)) {
    const facts = { ...ofLmStudio(kind as LmStudioKind), lmStudioMs: limits.timeoutMs };
    assert.deepEqual(pair(facts), ["success", sample], kind);
  }
});

test("what the caller's own words caused is never LM Studio's failure", () => {
  for (const [kind, row] of Object.entries(lmStudioKinds)) {
    if (!("callers" in row)) continue;
    assert.deepEqual(pair(ofLmStudio(kind as LmStudioKind, { callers: true })), ["success", "ignored"], kind);
  }
});

test("G5 nothing that is refused before the call is a failure of anyone", () => {
  for (const code of errorCodes) {
    const [sidecar, lmStudio] = pair({ ...ownOf(code), unbegun: true });
    assert.deepEqual([sidecar, lmStudio], [null, null], code);
  }
});
