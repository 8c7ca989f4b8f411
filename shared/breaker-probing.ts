import { leaseMs, type BreakerLimits } from "./breaker-limits.ts";
import {
  closeBooks,
  freshBreaker,
  noEvents,
  openBreaker,
  plus,
  transition,
  voided,
  type BreakerEvent,
  type ClosedState,
  type Ending,
  type HalfOpenState,
  type Lease,
  type OpenState,
  type Step,
} from "./breaker-state.ts";
import type { Random } from "./random.ts";

/** An open breaker whose cooldown is over, at the call that comes first: half-open, no lease out yet. */
export function startProbing(state: OpenState): { next: HalfOpenState; event: BreakerEvent } {
  const next: HalfOpenState = {
    phase: "half_open",
    at: state.at,
    epoch: state.epoch + 1,
    attempt: state.attempt,
    counts: closeBooks(state, "half_opens"),
    leases: [],
    granted: 0,
    successes: 0,
    unresolved: 0,
    stallSince: null,
    failures: state.failures,
  };
  return { next, event: transition(state, next, "cooldown_over", null) };
}

/** One more probe; the caller has seen that there is room for it. */
export function grantLease(state: HalfOpenState, limits: BreakerLimits): { next: HalfOpenState; lease: number } {
  const lease = state.granted + 1;
  const next: HalfOpenState = {
    ...state,
    leases: [...state.leases, { id: lease, expires: state.at + leaseMs(limits) }],
    granted: lease,
    stallSince: state.stallSince ?? state.at,
  };
  return { next, lease };
}

/** A probe's end with what it found: closes, opens again, or leaves its place to the next. */
export function endLease(
  state: HalfOpenState,
  lease: number,
  sample: Ending,
  floorMs: number | null,
  limits: BreakerLimits,
  random: Random,
): Step {
  const { at, epoch, attempt } = state;
  const ended: BreakerEvent = { kind: "lease_ended", epoch, lease, outcome: sample };
  const freed: HalfOpenState = {
    ...state,
    leases: state.leases.filter(({ id }) => id !== lease),
    counts: plus(state.counts, sample === "unused" ? "ignored" : sample),
  };
  switch (sample) {
    case "unused":
      return { next: freed, events: [ended] };
    case "ignored": {
      const waiting = { ...freed, unresolved: freed.unresolved + 1 };
      // The last of too many probes without a verdict may come after the time for one is over.
      const stalled = failProbing(waiting, at, limits, random);
      return { next: stalled?.next ?? waiting, events: [ended, ...(stalled?.events ?? noEvents)] };
    }
    case "success": {
      const successes = freed.successes + 1;
      if (successes < limits.successThreshold) {
        return { next: { ...freed, successes, stallSince: null }, events: [ended] };
      }
      const ramp = limits.rampMs > 0 ? { since: at, second: 0, admitted: 0, share: 1 } : null;
      const next: ClosedState = {
        ...freshBreaker(at, epoch + 1),
        attempt: ramp === null ? 0 : attempt,
        counts: plus(freed.counts, "closes"),
        ramp,
      };
      return { next, events: [ended, ...voided(freed), transition(freed, next, "probes_ok", null)] };
    }
    case "failure":
    case "slow": {
      const cause = { reason: "probe_failed", attempt: attempt + 1, failures: freed.failures + 1, floorMs } as const;
      const step = openBreaker(freed, at, cause, limits, random);
      return { next: step.next, events: [ended, ...step.events] };
    }
  }
}

/** The end of a half-open phase that fell due by `now`, as of when it did: a lease nobody ended, or the stall. */
export function failProbing(state: HalfOpenState, now: number, limits: BreakerLimits, random: Random): Step | null {
  const first = state.leases.reduce<Lease | null>(
    (found, lease) => (found === null || lease.expires < found.expires ? lease : found),
    null,
  );
  const stalls = state.unresolved >= limits.halfOpenMaxCalls && state.stallSince !== null;
  const stall = stalls ? Math.max(state.at, (state.stallSince ?? 0) + limits.maxHalfOpenMs) : Infinity;
  if (first !== null && first.expires <= Math.min(now, stall)) {
    const ended: BreakerEvent = { kind: "lease_ended", epoch: state.epoch, lease: first.id, outcome: "expired" };
    const freed = {
      ...state,
      leases: state.leases.filter((lease) => lease !== first),
      counts: plus(state.counts, "failure"),
    };
    const attempt = state.attempt + 1;
    const cause = { reason: "lease_expired", attempt, failures: state.failures + 1, floorMs: null } as const;
    const step = openBreaker(freed, first.expires, cause, limits, random);
    return { next: step.next, events: [ended, ...step.events] };
  }
  if (stall > now) return null;
  const cause = { reason: "stalled", attempt: state.attempt, failures: state.failures, floorMs: null } as const;
  return openBreaker(state, stall, cause, limits, random);
}
