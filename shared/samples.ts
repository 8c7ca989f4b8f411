import type { BreakerName, Sample } from "./breaker-state.ts";
import type { ErrorCode } from "./errors.ts";

/** What is known of one attempt when it has ended. */
export type AttemptFacts =
  | {
      ok: true;
      elapsedMs: number;
      /** The answer is shared with another call that was under way. */
      collapsed: boolean;
    }
  | {
      ok: false;
      code: ErrorCode;
      details: Readonly<Record<string, unknown>>;
      /** The sidecar said it itself, in an answer that bears its mark. */
      fromSidecar: boolean;
      callerGone: boolean;
      /** Time LM Studio had, in ms; 0 when its stage was not reached. */
      lmStudioMs: number;
      /** The wait the failure asked for, in ms; null or absent = none. */
      retryAfterMs?: number | null;
      /** The attempt was admitted and never begun. */
      unbegun?: true;
    };

/** What both breakers learn; null = the attempt says nothing of that dependency, a token held for it is freed. */
export type Samples = Record<BreakerName, Sample | null>;

/** What an attempt is measured by; `slowCallMs` null = the slow rule is off. */
export type SampleLimits = { timeoutMs: number; slowCallMs: number | null };

/** The sidecar could not be reached, or is not what answered. */
const broken: Samples = { sidecar: "failure", lm_studio_api: null };
/** The sidecar did its part and LM Studio failed. */
const upstreamFailed: Samples = { sidecar: "success", lm_studio_api: "failure" };
/** Both did their part: it is this request that cannot be served, or not yet. */
const judged: Samples = { sidecar: "success", lm_studio_api: "ignored" };
/** The sidecar refused before LM Studio was asked. */
const declined: Samples = { sidecar: "ignored", lm_studio_api: null };
const nothing: Samples = { sidecar: null, lm_studio_api: null };

/** What an attempt says of the two dependencies: success, failure, slow, or nothing. Attempts are sampled, not requests. */
export function samplesOf(facts: AttemptFacts, limits: SampleLimits): Samples {
  if (facts.ok) {
    if (facts.collapsed) return judged;
    const slow = limits.slowCallMs !== null && facts.elapsedMs > limits.slowCallMs;
    return { sidecar: "success", lm_studio_api: slow ? "slow" : "success" };
  }
  if (facts.callerGone) return { sidecar: "ignored", lm_studio_api: "ignored" };
  if (facts.unbegun === true) return nothing;
  const { code, details } = facts;
  // The one who made the call reports it: ten who shared it are not ten failures.
  if (facts.fromSidecar && details["collapsed"] === true) return judged;
  const bySidecar = facts.fromSidecar && details["service"] !== "sidecar";
  const ofLmStudio = bySidecar && details["service"] === "lm_studio";

  switch (code) {
    case "ERR_CONN_UNAVAILABLE":
    case "ERR_CONN_REFUSED":
    case "ERR_CONN_TIMEOUT":
    case "ERR_TIMEOUT_RESPONSE":
    case "ERR_TIMEOUT_IDLE":
      return bySidecar ? upstreamFailed : broken;
    case "ERR_TIMEOUT_REQUEST":
      return bySidecar ? outOfTime(facts, limits) : broken;
    case "ERR_API_INVALID_RESPONSE":
      return ofLmStudio ? upstreamFailed : broken;
    case "ERR_API_UNAUTHORIZED":
      if (ofLmStudio) return upstreamFailed;
      // Without a mark it is a caller's key, which says nothing of the box.
      return facts.fromSidecar || details["service"] === "sidecar" ? broken : nothing;
    case "ERR_API_OVERLOAD":
      if (ofLmStudio) return details["loading"] === true ? judged : upstreamFailed;
      return bySidecar ? declined : nothing;
    case "ERR_API_RATE_LIMIT":
      return bySidecar ? upstreamFailed : nothing;
    case "ERR_ENC_FORWARD_FAILED":
    case "ERR_INTERNAL":
      return facts.fromSidecar ? broken : nothing;
    case "ERR_VAL_INVALID_TENSOR":
    case "ERR_VAL_MISSING_FIELD":
    case "ERR_VAL_INVALID_RANGE":
    case "ERR_VAL_EMPTY_INPUT":
    case "ERR_ENC_INVALID_INPUT":
      if (ofLmStudio) return judged;
      return bySidecar ? declined : nothing;
    case "ERR_ENC_LOAD_FAILED":
      return bySidecar ? declined : nothing;
    case "ERR_CB_OPEN":
    case "ERR_CB_HALF_OPEN":
    case "ERR_RETRY_EXHAUSTED":
    case "ERR_NOT_FOUND":
    case "ERR_CACHE_MISS":
      return nothing;
  }
}

/** The time was used up in a stage the sidecar names; LM Studio answers for it only when it had half of the whole. */
function outOfTime(
  { details, lmStudioMs }: { details: Readonly<Record<string, unknown>>; lmStudioMs: number },
  { timeoutMs }: SampleLimits,
): Samples {
  const { stage, service } = details;
  const own = stage === "queue" || stage === "decode" || stage === "encode";
  if (own || (stage === undefined && service !== "lm_studio" && lmStudioMs <= 0)) return declined;
  return lmStudioMs * 2 >= timeoutMs ? upstreamFailed : judged;
}
