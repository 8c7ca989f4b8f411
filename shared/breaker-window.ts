import type { BreakerLimits } from "./breaker-limits.ts";

/** Calls that ended within one stretch of time; successes are the rest. */
export type Bucket = { calls: number; failures: number; slow: number };

/** The last calls in ten buckets, each a tenth of the window long. */
export type Window = Bucket & {
  /** Start of the newest bucket, whose counts are the window's own fields. */
  start: number;
  /** The nine buckets before it, newest first; replaced, never changed. */
  past: readonly Bucket[];
};

/** Failures in a row, and how many open the breaker: fixed when the run begins. */
export type Run = { length: number; need: number };

/**
 * Calls in their order, as far as the rules need it: the runs of failures at the head, at the tail and the longest
 * (which may be either). `failures` and `slow` are parts of `calls`.
 */
export type Calls = Bucket & { headRun: number; tailRun: number; longestRun: number };

/** What speaks for or against a dependency while its breaker is closed. */
export type Tally = { run: Run; window: Window; /** When the last call was counted. */ lastCall: number };

/** The rule that opens a breaker. */
export type Trip = "run" | "ratio" | "slow";

/** No failure since the last success. */
export const noRun: Run = Object.freeze({ length: 0, need: 0 });

const emptyBucket: Bucket = Object.freeze({ calls: 0, failures: 0, slow: 0 });
const emptyPast: readonly Bucket[] = Object.freeze(Array.from({ length: 9 }, () => emptyBucket));
const logUnlikely = Math.log(1e8);

/** A window without calls whose first bucket starts at `now`. */
export function emptyWindow(now: number): Window {
  return { start: now, calls: 0, failures: 0, slow: 0, past: emptyPast };
}

/** All calls the window still holds at `now`. */
export function totalsAt(window: Window, now: number, limits: BreakerLimits): Bucket {
  return totalsOf(rolled(window, now, limits));
}

/**
 * The tally after `calls` ended at `now`, its totals, and the first rule that now opens the breaker, if any.
 * A gap of a window or more since the last call clears all of it, the run too: what was an hour ago says nothing.
 */
export function count(
  tally: Tally,
  calls: Calls,
  now: number,
  limits: BreakerLimits,
): { tally: Tally; totals: Bucket; longestRun: number; trip: Trip | null } {
  const gone = now - tally.lastCall >= limits.windowMs;
  const before = gone ? emptyWindow(now) : rolled(tally.window, now, limits);
  const run = gone ? noRun : tally.run;
  const past = totalsOf(before);
  const totals = sum(past, calls);
  const window: Window = {
    start: before.start,
    calls: before.calls + calls.calls,
    failures: before.failures + calls.failures,
    slow: before.slow + calls.slow,
    past: before.past,
  };

  const head: Run =
    calls.headRun === 0
      ? noRun
      : { length: run.length + calls.headRun, need: run.length > 0 ? run.need : runNeed(past, limits) };
  const next = calls.headRun === calls.calls ? head : runOf(calls.tailRun, totals, limits);
  const inner = calls.longestRun > calls.headRun ? runOf(calls.longestRun, totals, limits) : noRun;
  return {
    tally: { run: next, window, lastCall: now },
    totals,
    longestRun: Math.max(head.length, inner.length),
    trip: isReached(head) || isReached(inner) ? "run" : tripByShare(totals, limits),
  };
}

/**
 * Failures in a row that open the breaker when the window before them holds `before`. On a noisy dependency runs come
 * by chance, so there the run must be one that chance gives once in 10^8 calls, up to four times the threshold.
 */
export function runNeed(before: Bucket, limits: BreakerLimits): number {
  const { failureThreshold, minimumCalls } = limits;
  if (before.calls < minimumCalls || before.failures === 0) return failureThreshold;
  // The hair taken off keeps a share of exactly 1/10 at 8: the quotient of the logarithms may come out just above.
  const noise = Math.ceil(logUnlikely / Math.log(before.calls / before.failures) - 1e-9);
  return Math.max(failureThreshold, Math.min(4 * failureThreshold, noise));
}

function tripByShare(totals: Bucket, limits: BreakerLimits): Trip | null {
  const { failureRatio, minimumCalls, slowCallMs, slowRatio } = limits;
  if (totals.calls < minimumCalls) return null;
  if (failureRatio !== null && totals.failures / totals.calls >= failureRatio) return "ratio";
  if (slowCallMs !== null && totals.slow / totals.calls >= slowRatio) return "slow";
  return null;
}

// A run that began among these calls: all the others are what it is measured against.
function runOf(length: number, totals: Bucket, limits: BreakerLimits): Run {
  if (length === 0) return noRun;
  const before = { calls: totals.calls - length, failures: totals.failures - length, slow: totals.slow };
  return { length, need: runNeed(before, limits) };
}

function isReached(run: Run): boolean {
  return run.length > 0 && run.length >= run.need;
}

/** The same window with as many empty buckets in front as have passed. */
function rolled(window: Window, now: number, limits: BreakerLimits): Window {
  const bucketMs = limits.windowMs / 10;
  const steps = Math.floor((now - window.start) / bucketMs);
  if (steps <= 0) return window;
  if (steps > 9) return emptyWindow(now);
  const { calls, failures, slow } = window;
  const fresh = Array.from({ length: steps - 1 }, () => emptyBucket);
  const past = [...fresh, { calls, failures, slow }, ...window.past].slice(0, 9);
  return { start: window.start + steps * bucketMs, calls: 0, failures: 0, slow: 0, past };
}

function totalsOf(window: Window): Bucket {
  let { calls, failures, slow } = window;
  for (const bucket of window.past) {
    calls += bucket.calls;
    failures += bucket.failures;
    slow += bucket.slow;
  }
  return { calls, failures, slow };
}

function sum(one: Bucket, other: Bucket): Bucket {
  return { calls: one.calls + other.calls, failures: one.failures + other.failures, slow: one.slow + other.slow };
}
