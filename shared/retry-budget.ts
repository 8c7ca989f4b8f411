/**
 * Tokens that retries are paid with: 10 at most and at the start, 1 a retry, a quarter back for each successful
 * call, and a trickle of a tenth a second. At any steady failure rate that is 1.25 calls a request; in a full
 * outage only the trickle refills it.
 */
export type RetryBudget = {
  /** In [0, 10]. */
  tokens: number;
  /** When `tokens` was true, in ms of the host's clock. */
  at: number;
};

const capacity = 10;
const perSuccess = 0.25;
const perMs = 0.1 / 1000;

/** A full budget. */
export function freshRetryBudget(now: number): RetryBudget {
  return { tokens: capacity, at: now };
}

/** Pays for one retry, where a whole token is there. */
export function takeToken(budget: RetryBudget, now: number): { next: RetryBudget; taken: boolean } {
  const next = refill(budget, now);
  return next.tokens >= 1 ? { next: { ...next, tokens: next.tokens - 1 }, taken: true } : { next, taken: false };
}

/** Pays in for one successful call; a failed one pays nothing. */
export function deposit(budget: RetryBudget, now: number): { next: RetryBudget } {
  const next = refill(budget, now);
  return { next: { ...next, tokens: Math.min(capacity, next.tokens + perSuccess) } };
}

/** Tokens there are at `now`, in [0, 10]. */
export function readTokens(budget: RetryBudget, now: number): number {
  return refill(budget, now).tokens;
}

// A clock that stepped back pays nothing, and does not make the same time pay twice.
function refill({ tokens, at }: RetryBudget, now: number): RetryBudget {
  const elapsed = Math.max(0, now - at);
  // Tenths do not add up to one in binary: without the rounding ten seconds in ten steps would pay 0.9999….
  const paid = Math.round((tokens + elapsed * perMs) * 1e9) / 1e9;
  return { tokens: Math.min(capacity, paid), at: at + elapsed };
}
