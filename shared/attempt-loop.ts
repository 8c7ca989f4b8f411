import { PixelLLMError, toPixelLLMError, type ErrorCode } from "./errors.ts";
import { surfaceError, surfaceRefusal } from "./retry-error.ts";
import { decideRetry, smoothAttemptMs, type RetryLimits, type Suppression } from "./retry.ts";
import type { AttemptFacts } from "./samples.ts";
import type { Random } from "./random.ts";

/** What an attempt must pass first: the breakers. Each permit it gives is settled exactly once. */
export type Gate<Permit> = {
  admit(): Promise<{ admitted: true; permit: Permit } | { admitted: false; error: PixelLLMError }>;
  settle(permit: Permit, facts: AttemptFacts): void;
};

/** What one attempt came to; `failure` is what the host knows of a failed one beside the error. */
export type Attempted<T, F> =
  | { ok: true; value: T; collapsed: boolean }
  | { ok: false; error: PixelLLMError; failure: F; fromSidecar: boolean; lmStudioMs: number };

/** What a loop tells of itself; counters and log lines are made from it. */
export type RetryEvent =
  /** A call has ended, `error` null = well; `after` is the failure it was the repeat of, null for the first. */
  | { type: "attempt"; attempt: number; elapsedMs: number; error: PixelLLMError | null; after: ErrorCode | null }
  /** Another call is to follow `attempt` after the wait, unless the caller leaves or a breaker refuses. */
  | { type: "retry"; attempt: number; code: ErrorCode; delayMs: number }
  /** No further call is made. */
  | { type: "suppressed"; attempts: number; code: ErrorCode; reason: Suppression }
  /** The loop has ended after at least one call, its caller still there; `waitedMs` is the sum of the waits. */
  | { type: "ended"; ok: boolean; attempts: number; waitedMs: number };

/** What a loop takes from its host. */
export type LoopPorts = {
  /** Monotonic ms. */
  now(): number;
  random: Random;
  /** Resolves after `ms`, or at once when the caller leaves; never rejects. */
  sleep(ms: number): Promise<void>;
  callerGone(): boolean;
  /** Time left of the request, in ms, never negative. */
  remainingMs(): number;
  /** Pays for one retry; false = the budget is empty. */
  takeToken(): boolean;
  /** Pays in for one successful call. */
  deposit(): void;
  /** A throw in it changes nothing. */
  observe(event: RetryEvent): void;
  /** Told of a throw in `observe`. */
  observerFailed?(thrown: unknown): void;
  /** A byte of the caption has gone to the caller; absent = none does before the loop has ended. */
  started?(): boolean;
  /** Folds one attempt's time into what the host remembers of all, and gives it; absent = this loop's own alone. */
  smooth?(elapsedMs: number): number;
};

/** How a loop ended. */
export type LoopResult<T, F> =
  | { ok: true; value: T; attempts: number; collapsed: boolean }
  | {
      ok: false;
      /** What the caller is told. */
      error: PixelLLMError;
      /** Of the last attempt that ended; null = there was none, or it threw. */
      failure: F | null;
      attempts: number;
      /** Another try of the caller's own is fair: the error may pass, and nobody here has tried again or vetoed it. */
      repeat: boolean;
      /** A breaker refused. */
      refused: boolean;
      /** The caller left: nothing is sent, and nothing is counted. */
      cancelled: boolean;
    };

/** The last failure of a loop that is not over yet. */
type Failed<F> = { error: PixelLLMError; failure: F | null };

/**
 * Makes one call, and makes it again while `decideRetry` says so: ask the gate, attempt, settle, wait, ask the gate
 * again. Never more than `limits.maxAttempts` calls, none after the deadline or after the caller left, no wait after
 * the last. An attempt that throws has failed with `ERR_INTERNAL`, or with the error of ours it threw.
 */
export async function runAttempts<T, F, Permit>(
  gate: Gate<Permit>,
  attempt: (n: number, permit: Permit) => Promise<Attempted<T, F>>,
  limits: RetryLimits,
  ports: LoopPorts,
): Promise<LoopResult<T, F>> {
  const tell = createTeller(ports);
  const repeated: ErrorCode[] = [];
  let last: Failed<F> | null = null;
  let attempts = 0;
  let waitedMs = 0;
  let smoothedMs: number | null = null;

  const fail = (error: PixelLLMError, facts: { repeat?: boolean; refused?: boolean } = {}): LoopResult<T, F> => {
    const cancelled = ports.callerGone();
    if (attempts > 0 && !cancelled) tell({ type: "ended", ok: false, attempts, waitedMs });
    const { repeat = false, refused = false } = facts;
    return {
      ok: false,
      error,
      failure: last?.failure ?? null,
      attempts,
      repeat: repeat && !cancelled,
      refused,
      cancelled,
    };
  };

  /** Ends the loop before another call; null = go on. */
  const stopBeforeCall = (): LoopResult<T, F> | null => {
    const gone = ports.callerGone();
    if (!gone && ports.remainingMs() > 0) return null;
    if (last === null) {
      if (gone) return fail(new PixelLLMError("ERR_INTERNAL", { detail: "the caller left before the first call" }));
      return fail(new PixelLLMError("ERR_TIMEOUT_REQUEST"), { repeat: true });
    }
    const { error } = last;
    const reason = gone ? "caller" : "deadline";
    tell({ type: "suppressed", attempts, code: error.code, reason });
    const end = {
      stoppedBy: reason,
      attempts,
      maxAttempts: limits.maxAttempts,
      last: error,
      timeIsOver: false,
    } as const;
    return fail(surfaceError(end), { repeat: error.retryable && attempts === 1 });
  };

  for (;;) {
    const early = stopBeforeCall();
    if (early !== null) return early;
    const admission = await gate.admit();
    if (!admission.admitted) {
      const { error } = admission;
      return fail(last === null ? error : surfaceRefusal(error, last.error, attempts), { refused: true });
    }
    const late = stopBeforeCall();
    if (late !== null) {
      gate.settle(admission.permit, unbegunFacts(ports.callerGone()));
      return late;
    }

    attempts += 1;
    const startedAt = ports.now();
    const outcome = await perform(attempt, attempts, admission.permit);
    const elapsedMs = Math.max(0, ports.now() - startedAt);
    gate.settle(admission.permit, factsOf(outcome, elapsedMs, ports.callerGone()));
    smoothedMs = ports.smooth?.(elapsedMs) ?? smoothAttemptMs(smoothedMs, elapsedMs);
    tell({
      type: "attempt",
      attempt: attempts,
      elapsedMs,
      error: outcome.ok ? null : outcome.error,
      after: repeated.at(-1) ?? null,
    });
    if (outcome.ok) {
      ports.deposit();
      tell({ type: "ended", ok: true, attempts, waitedMs });
      return { ok: true, value: outcome.value, attempts, collapsed: outcome.collapsed };
    }

    const { error } = outcome;
    last = { error, failure: outcome.failure };
    const remainingMs = ports.remainingMs();
    const question = {
      callerGone: ports.callerGone(),
      started: ports.started?.() ?? false,
      error,
      attempts,
      repeated,
      remainingMs,
      smoothedMs,
    };
    const verdict = decideRetry(question, limits, ports.random, () => ports.takeToken());
    if (!verdict.retry) {
      const { reason } = verdict;
      tell({ type: "suppressed", attempts, code: error.code, reason });
      const { maxAttempts } = limits;
      const surfaced = surfaceError({
        stoppedBy: reason,
        attempts,
        maxAttempts,
        last: error,
        timeIsOver: remainingMs <= 0,
      });
      return fail(surfaced, { repeat: surfaced.retryable && attempts === 1 && reason !== "veto" });
    }
    tell({ type: "retry", attempt: attempts, code: error.code, delayMs: verdict.delayMs });
    repeated.push(error.code);
    const sleptAt = ports.now();
    await ports.sleep(verdict.delayMs);
    waitedMs += Math.max(0, ports.now() - sleptAt);
  }
}

/** An attempt's outcome whatever it does: a throw is a failure too. */
async function perform<T, F, Permit>(
  attempt: (n: number, permit: Permit) => Promise<Attempted<T, F>>,
  n: number,
  permit: Permit,
): Promise<Attempted<T, F | null>> {
  try {
    return await attempt(n, permit);
  } catch (thrown) {
    return { ok: false, error: toPixelLLMError(thrown), failure: null, fromSidecar: false, lmStudioMs: 0 };
  }
}

function factsOf<T, F>(outcome: Attempted<T, F>, elapsedMs: number, callerGone: boolean): AttemptFacts {
  if (outcome.ok) return { ok: true, elapsedMs, collapsed: outcome.collapsed };
  const { error, fromSidecar, lmStudioMs } = outcome;
  const retryAfterMs = error.retryAfterSeconds === null ? null : error.retryAfterSeconds * 1000;
  return { ok: false, code: error.code, details: error.details, fromSidecar, callerGone, lmStudioMs, retryAfterMs };
}

function unbegunFacts(callerGone: boolean): AttemptFacts {
  const code = "ERR_TIMEOUT_REQUEST";
  return { ok: false, code, details: {}, fromSidecar: false, callerGone, lmStudioMs: 0, unbegun: true };
}

/** Reports events; whoever listens badly is told of, and takes no part in what happens. */
function createTeller(ports: LoopPorts): (event: RetryEvent) => void {
  return (event) => {
    try {
      ports.observe(event);
    } catch (thrown) {
      try {
        ports.observerFailed?.(thrown);
      } catch {
        // Whoever counts broken listeners is broken too: there is nobody left to tell.
      }
    }
  };
}
