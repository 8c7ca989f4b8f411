import { delayMs, readBackoffLimits, type BackoffLimits } from "./backoff.ts";
import type { Config } from "./config.ts";
import { errorTable, type ErrorCode, type PixelLLMError } from "./errors.ts";
import { isLmStudioKind, lmStudioKinds } from "./lm-studio-kinds.ts";
import type { Random } from "./random.ts";

/** How often a call may be made, and how long to wait in between. */
export type RetryLimits = {
  /** Calls in all, at least 1; 1 = no retry. */
  maxAttempts: number;
  backoff: BackoffLimits;
};

/** Why a failed call is not made again: the first condition that does not hold. */
export const suppressions = [
  "caller",
  "started",
  "non_retryable",
  "veto",
  "attempts",
  "deadline",
  "retry_after",
  "budget",
] as const;
export type Suppression = (typeof suppressions)[number];

/** What is known when a call has failed. */
export type RetryQuestion = {
  callerGone: boolean;
  /** A byte of the caption has gone to the caller. */
  started: boolean;
  error: Pick<PixelLLMError, "code" | "details" | "retryAfterSeconds">;
  /** Calls made so far, this one included. */
  attempts: number;
  /** Codes of the failures before this one, each of which was followed by another call. */
  repeated: readonly ErrorCode[];
  remainingMs: number;
  /** What an attempt takes of late, in ms; null = none has ended yet. */
  smoothedMs: number | null;
};

/** Whether to call again, and after how long. */
export type RetryVerdict = { retry: true; delayMs: number } | { retry: false; reason: Suppression };

/** A call with less time than this is not worth beginning, in ms. */
const leastAttemptMs = 250;

/** Weight of a new attempt in the smoothed time: an eighth, as TCP smooths its round trips (RFC 6298, 2.3). */
const smoothing = 1 / 8;

/** The number of calls and the delays a configuration asks for. */
export function readRetryLimits(config: Config): RetryLimits {
  return { maxAttempts: config.retry_max_attempts, backoff: readBackoffLimits(config) };
}

/** The smoothed attempt time after one more attempt, in ms. */
export function smoothAttemptMs(previous: number | null, elapsedMs: number): number {
  return previous === null ? elapsedMs : previous + smoothing * (elapsedMs - previous);
}

/**
 * Judges a failed call by the five conditions, in order: the caller is there and has seen nothing; the failure may be
 * repeated; calls are left; the wait and a useful call fit into the time left; the budget holds a token.
 * `takeToken` is asked last and only when all else holds, so that no token is spent on a call that is not made.
 */
export function decideRetry(
  question: RetryQuestion,
  limits: RetryLimits,
  random: Random,
  takeToken: () => boolean,
): RetryVerdict {
  const { error, attempts, remainingMs, smoothedMs } = question;
  if (question.callerGone) return refuse("caller");
  if (question.started) return refuse("started");
  if (!errorTable[error.code].retryable) return refuse("non_retryable");
  if (isVetoed(question)) return refuse("veto");
  if (attempts >= limits.maxAttempts) return refuse("attempts");

  const draw = random();
  const waitMs = (floorMs: number | null): number => delayMs(attempts - 1, limits.backoff, floorMs, () => draw);
  const usableMs = remainingMs - Math.max(leastAttemptMs, (smoothedMs ?? 0) / 2);
  const delay = waitMs(error.retryAfterSeconds === null ? null : error.retryAfterSeconds * 1000);
  if (usableMs <= delay) return refuse(usableMs > waitMs(null) ? "retry_after" : "deadline");

  return takeToken() ? { retry: true, delayMs: delay } : refuse("budget");
}

function refuse(reason: Suppression): RetryVerdict {
  return { retry: false, reason };
}

/** Stages in which LM Studio works, or is about to: time that ran out there has left it busy. */
const lmStudioStages: ReadonlySet<unknown> = new Set(["connect", "first_token", "generate"]);

/** Whether a failure that may pass by itself must not be repeated all the same. */
function isVetoed({ error, attempts, repeated }: RetryQuestion): boolean {
  const { kind, stage } = error.details;
  // A full queue does not empty for whoever asks twice, and no repeat opens a door that is locked by configuration.
  if (kind === "queue" || kind === "access") return true;
  // One picture may have ended the encoder's process: a second try is fair, a third would end it for all the others.
  if (kind === "host_died") return repeated.includes(error.code);
  // The GPU is still at work for the call we left.
  if (error.code === "ERR_TIMEOUT_REQUEST" && lmStudioStages.has(stage)) return true;
  if (!isLmStudioKind(kind)) return false;
  const { again } = lmStudioKinds[kind];
  switch (again) {
    case "no":
      return true;
    case "once":
      return attempts > 1;
    case "yes":
    case "if_time":
    case "after_load":
    case "after_backoff":
    case "after_retry_after":
      // The wait these ask for is the delay, whose floor is their Retry-After.
      return false;
  }
}
