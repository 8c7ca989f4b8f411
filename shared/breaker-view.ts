import { advance } from "./breaker.ts";
import { wholeSeconds, type BreakerLimits } from "./breaker-limits.ts";
import { failuresOf, type BreakerState, type Counts } from "./breaker-state.ts";
import { totalsAt, type Bucket } from "./breaker-window.ts";

/** A breaker's public facts. */
export type BreakerView = {
  state: "CLOSED" | "OPEN" | "HALF_OPEN";
  /** Failures in a row, or those that opened it. */
  failure_count: number;
  /** Successful probes of this half-open phase. */
  success_count: number;
  /** Open: until a call may probe, 0 when one may now, null without an end. Else null. */
  retry_after_seconds: number | null;
  epoch: number;
  attempt: number;
  manual: { reason: string | null } | null;
  /** Probes out. */
  leases: number;
  /** Closed, and not yet letting everything through. */
  ramp: boolean;
  /** Calls of the window while closed. */
  window: Bucket | null;
  /** With the open time of the period that still lasts. */
  counts: Counts;
};

const names = { closed: "CLOSED", open: "OPEN", half_open: "HALF_OPEN" } as const;

/**
 * The facts at `now`, with what fell due until then; looking takes no permit and changes nothing. A cooldown that such
 * a deadline begins is told without its spread, so it may turn out a fifth longer.
 */
export function viewBreaker(state: BreakerState, now: number, limits: BreakerLimits): BreakerView {
  const { next } = advance(state, now, limits, () => 0);
  const { at, epoch, attempt, counts } = next;
  const open = next.phase === "open" ? next : null;
  const left = open === null || open.until === null ? null : open.until - at;
  return {
    state: names[next.phase],
    failure_count: failuresOf(next),
    success_count: next.phase === "half_open" ? next.successes : 0,
    retry_after_seconds: left === null ? null : left > 0 ? wholeSeconds(left) : 0,
    epoch,
    attempt,
    manual: open === null ? null : open.manual,
    leases: next.phase === "half_open" ? next.leases.length : 0,
    ramp: next.phase === "closed" && next.ramp !== null,
    window: next.phase === "closed" ? totalsAt(next.window, at, limits) : null,
    counts: open === null ? counts : { ...counts, open_ms: counts.open_ms + at - open.since },
  };
}
