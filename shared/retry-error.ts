import { errorTable, PixelLLMError } from "./errors.ts";
import type { Suppression } from "./retry.ts";

/** What ended a loop after a failure: a condition that did not hold, or a breaker that refused the next call. */
export type StoppedBy = Suppression | "breaker";

/** How a loop ended. */
export type LoopEnd = {
  stoppedBy: Suppression;
  /** Calls made, at least 1. */
  attempts: number;
  maxAttempts: number;
  /** The failure of the last call. */
  last: PixelLLMError;
  /** The deadline passed while the last call was under way. */
  timeIsOver: boolean;
};

/**
 * The error a caller gets for a loop that gave up. The last failure itself where it may not be repeated, where one
 * call is all there is, or where the time left is too short for another; `ERR_RETRY_EXHAUSTED` where calls or budget
 * are used up; `ERR_TIMEOUT_REQUEST` where the deadline passed. After more than one call, or with the budget empty,
 * `details` names the number of calls, what stopped them and the last cause. A Retry-After is passed on in all of them.
 */
export function surfaceError(end: LoopEnd): PixelLLMError {
  const { stoppedBy, maxAttempts, timeIsOver, last } = end;
  switch (stoppedBy) {
    case "caller":
    case "started":
    case "non_retryable":
    case "veto":
      return asItself(end);
    case "attempts":
      if (maxAttempts === 1) return last;
      return timeIsOver ? timedOut(end) : exhausted(end);
    case "budget":
      return exhausted(end);
    case "deadline":
    case "retry_after":
      return timeIsOver ? timedOut(end) : asItself(end);
  }
}

/** A breaker's refusal between two calls: what it says of itself, and the failure before it as the cause. */
export function surfaceRefusal(refusal: PixelLLMError, last: PixelLLMError, attempts: number): PixelLLMError {
  return withDetails(refusal, summarise("breaker", attempts, last), last);
}

function asItself({ stoppedBy, attempts, last }: LoopEnd): PixelLLMError {
  return attempts === 1 ? last : withDetails(last, summarise(stoppedBy, attempts, last), last);
}

function exhausted({ stoppedBy, attempts, last }: LoopEnd): PixelLLMError {
  return new PixelLLMError("ERR_RETRY_EXHAUSTED", {
    details: summarise(stoppedBy, attempts, last),
    retryAfterSeconds: last.retryAfterSeconds ?? undefined,
    cause: last,
  });
}

function timedOut({ attempts, last }: LoopEnd): PixelLLMError {
  const summary = attempts === 1 ? {} : summarise("deadline", attempts, last);
  // The failure that says so itself also names the stage that took the time.
  if (last.code === "ERR_TIMEOUT_REQUEST") return attempts === 1 ? last : withDetails(last, summary, last);
  return new PixelLLMError("ERR_TIMEOUT_REQUEST", {
    details: summary,
    retryAfterSeconds: last.retryAfterSeconds ?? undefined,
    cause: last,
  });
}

function summarise(stoppedBy: StoppedBy, attempts: number, last: PixelLLMError): Record<string, unknown> {
  const { code, category, severity, retryable } = last;
  return { attempts, stopped_by: stoppedBy, last_cause: { code, category, severity, retryable } };
}

/** The same error with more details, and the one it stands for as its cause. */
function withDetails(error: PixelLLMError, more: Record<string, unknown>, cause: PixelLLMError): PixelLLMError {
  const { message } = errorTable[error.code];
  return new PixelLLMError(error.code, {
    detail: error.detail ?? undefined,
    hint: error.message.startsWith(`${message}. `) ? error.message.slice(message.length + 2) : undefined,
    details: { ...error.details, ...more },
    param: error.param ?? undefined,
    status: error.status,
    retryAfterSeconds: error.retryAfterSeconds ?? undefined,
    cause,
  });
}
