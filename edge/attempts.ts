import type * as z from "zod";
import { runAttempts, type Attempted, type Gate, type RetryEvent } from "../shared/attempt-loop.ts";
import { PixelLLMError } from "../shared/errors.ts";
import { readRetryLimits } from "../shared/retry.ts";
import { startSleep } from "../shared/sleep.ts";
import { errorAnswer } from "./answers.ts";
import { probeLimitMs, type AttemptPermit } from "./gate.ts";
import type { ImageCall } from "./image-call.ts";
import { readSeen, type Seen } from "./seen.ts";
import type { Scope } from "./scope.ts";

/** One question to the box: the route, what it acts on, the shape of a good answer, and the breakers in the way. */
export type BoxQuestion<T> = {
  call: ImageCall;
  path: string;
  query: Readonly<Record<string, string>>;
  schema: z.ZodType<T>;
  gate: Gate<AttemptPermit>;
  /** Kept back of the request's time for what comes after a failure, in ms. */
  reserveMs: number;
};

/** Why the box gave no answer. */
export type BoxFailure = {
  ok: false;
  /** What the caller is told where no rung answers, and the `cause` where one does. */
  error: PixelLLMError;
  attempts: number;
  /** Another try of the caller's own is fair. */
  repeat: boolean;
  /** The sidecar spoke last, or was not asked at all: asking it for evidence alone makes sense. */
  reachable: boolean;
  /** The caller left. */
  cancelled: boolean;
  /** What the failed calls saw of the picture. */
  seen: Seen | null;
};

/** What asking the box came to. */
export type BoxAnswer<T> = { ok: true; value: T; attempts: number } | BoxFailure;

/** Asks the box as often as the retry policy allows, each call through the breakers of its gate. */
export async function askBox<T extends object>(
  scope: Scope,
  { call, path, query, schema, gate, reserveMs }: BoxQuestion<T>,
): Promise<BoxAnswer<T>> {
  const { config, deps, deadline, caller, retryBudget } = scope;
  let seen: Seen | null = null;
  let reachable = true;

  const attempt = async (permit: AttemptPermit): Promise<Attempted<T, null>> => {
    const outcome = await call(path, query, { reserveMs, limitMs: probeLimitMs(permit, config) });
    if (outcome.ok) {
      const answer = schema.safeParse(outcome.body);
      if (answer.success) return { ok: true, value: answer.data, collapsed: isCollapsed(answer.data) };
      const error = new PixelLLMError("ERR_API_INVALID_RESPONSE", {
        detail: answer.error.message,
        details: { service: "sidecar" },
        cause: answer.error,
      });
      return { ok: false, error, failure: null, fromSidecar: true, lmStudioMs: 0 };
    }
    const { error, failure } = outcome;
    reachable = failure !== null;
    // What one call has seen stays true when the next one fails earlier.
    if (failure !== null && (seen === null || failure.evidence !== null)) seen = readSeen(failure);
    const lmStudioMs = Number(error.details["lm_studio_ms"] ?? failure?.timings_ms.generate ?? 0);
    return { ok: false, error, failure: null, fromSidecar: failure !== null, lmStudioMs };
  };

  const result = await runAttempts(gate, (_, permit) => attempt(permit), readRetryLimits(config), {
    now: scope.now,
    random: scope.random,
    sleep: async (ms) => {
      const { done, cancel } = startSleep(ms, { now: scope.now, startTimer: deps.startTimer });
      const ends = AbortSignal.any([caller, deadline.signal]);
      if (ends.aborted) cancel();
      ends.addEventListener("abort", cancel, { once: true });
      await done;
      ends.removeEventListener("abort", cancel);
    },
    callerGone: () => caller.aborted,
    remainingMs: () => Math.max(0, deadline.remainingMs() - reserveMs),
    takeToken: () => retryBudget.take(),
    deposit: () => retryBudget.deposit(),
    // A clock that jumps ahead in the middle of a call must not make every call look long.
    smooth: (elapsedMs) => retryBudget.smooth(Math.min(elapsedMs, config.timeout_seconds * 1000)),
    observe: (event) => logEvent(scope, event),
    observerFailed: (exception) => scope.log("ERROR", "observer failed", { exception }),
  });
  scope.facts.attempts += result.attempts;
  if (result.ok) return { ok: true, value: result.value, attempts: result.attempts };
  const { error, attempts, repeat, cancelled } = result;
  return { ok: false, error, attempts, repeat, reachable, cancelled, seen };
}

/** What nobody will read: the caller left, which is no failure of anyone's. */
export function cancelledAnswer({ log, requestId }: Scope, { error, attempts }: BoxFailure): Response {
  log("INFO", "cancelled", { extra: { attempts } });
  return errorAnswer(error, requestId);
}

/** Only captions are shared between calls. */
function isCollapsed(value: object): boolean {
  return "collapsed" in value && value.collapsed === true;
}

function logEvent({ log, caller }: Scope, event: RetryEvent): void {
  switch (event.type) {
    case "attempt":
      // A call that ends because its caller left has not failed.
      if (event.error === null || event.error.severity === "LOW" || caller.aborted) return;
      return log("WARNING", "attempt failed", {
        exception: event.error,
        extra: { attempt: event.attempt, ms: Math.round(event.elapsedMs), details: event.error.details },
      });
    case "retry":
      return log("INFO", "attempt will be repeated", {
        errorCode: event.code,
        extra: { attempt: event.attempt, delay_ms: Math.round(event.delayMs) },
      });
    case "suppressed":
      return log("DEBUG", "no further attempt", {
        errorCode: event.code,
        extra: { attempts: event.attempts, reason: event.reason },
      });
    case "ended":
      return;
  }
}
