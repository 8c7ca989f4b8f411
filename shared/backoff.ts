import type { Config } from "./config.ts";
import type { Random } from "./random.ts";

/** How long to wait between calls; `multiplier` is at least 1 and serves the exponential strategy alone. */
export type BackoffLimits = {
  strategy: Config["retry_strategy"];
  initialMs: number;
  /** No delay of our own is longer, jitter included. */
  maxMs: number;
  multiplier: number;
  jitter: boolean;
};

/** What is added at most to a wait that was asked for, so that callers told the same do not come back as one. */
const retryAfterSpread = 0.1;

/** The delays a configuration asks for. */
export function readBackoffLimits(config: Config): BackoffLimits {
  return {
    strategy: config.retry_strategy,
    initialMs: config.retry_initial_delay * 1000,
    maxMs: config.retry_max_delay * 1000,
    multiplier: config.retry_backoff_multiplier,
    jitter: config.retry_jitter,
  };
}

/** The delay in ms before call n + 2 (n = 0 before the second call), capped, without jitter; in [0, maxMs] for every n. */
export function backoffMs(n: number, limits: BackoffLimits): number {
  const raw = rawDelayMs(Math.max(0, n), limits);
  // An overflow means "very long", never "now": NaN in a timer is a hot loop.
  return Number.isFinite(raw) ? Math.min(limits.maxMs, Math.max(0, raw)) : limits.maxMs;
}

/**
 * The delay in ms that is really waited before call n + 2: with jitter in [half, whole) of the capped delay, and
 * never under `retryAfterMs` (null or not a positive number = none was asked for), which no cap cuts and which is
 * spread by up to a tenth upwards, in whole ms. Draws one random number.
 */
export function delayMs(n: number, limits: BackoffLimits, retryAfterMs: number | null, random: Random): number {
  const draw = random();
  const capped = backoffMs(n, limits);
  const own = limits.jitter ? capped * (0.5 + 0.5 * draw) : capped;
  if (retryAfterMs === null || !Number.isFinite(retryAfterMs) || retryAfterMs <= 0) return own;
  return Math.max(own, Math.ceil(retryAfterMs * (1 + retryAfterSpread * draw)));
}

function rawDelayMs(n: number, { strategy, initialMs, multiplier }: BackoffLimits): number {
  switch (strategy) {
    case "exponential":
      return initialMs * multiplier ** n;
    case "linear":
      return initialMs * (n + 1);
    case "fixed":
      return initialMs;
    case "immediate":
      return 0;
  }
}
