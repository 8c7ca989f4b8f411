import { rampAllowance, type BreakerLimits } from "./breaker-limits.ts";
import { endLease, failProbing, grantLease, startProbing } from "./breaker-probing.ts";
import {
  closeBooks,
  failuresOf,
  freshBreaker,
  noEvents,
  openBreaker,
  plus,
  transition,
  voided,
  zeroCounts,
  type Admission,
  type BreakerEvent,
  type BreakerState,
  type ClosedState,
  type Ending,
  type HalfOpenState,
  type Sample,
  type Step,
  type Token,
} from "./breaker-state.ts";
import { count, type Calls } from "./breaker-window.ts";
import type { Random } from "./random.ts";

/** An operator's act. Open: until closed, or for `forMs`. Reset: close, and zero the counters. */
export type Act = { kind: "open"; reason: string | null; forMs: number | null } | { kind: "close" } | { kind: "reset" };

const oneSuccess: Calls = { calls: 1, failures: 0, slow: 0, headRun: 0, tailRun: 0, longestRun: 0 };
const oneSlow: Calls = { ...oneSuccess, slow: 1 };
const oneFailure: Calls = { calls: 1, failures: 1, slow: 0, headRun: 1, tailRun: 1, longestRun: 1 };

/**
 * Applies what fell due since the last event (a lease's end, the stall, the ramp's end), as of when it fell due.
 * A cooldown that is over shows in nothing but the next `admit`. Each phase has one deadline that matters first, and
 * what follows it has none, so one look is enough however long nobody came.
 */
export function advance(state: BreakerState, now: number, limits: BreakerLimits, random: Random): Step {
  const at = Math.max(now, state.at);
  if (limits.enabled && state.phase === "closed" && state.ramp !== null) {
    if (state.ramp.since + limits.rampMs > at) return { next: { ...state, at }, events: noEvents };
    return {
      next: { ...state, at, attempt: 0, ramp: null },
      events: [{ kind: "ramp_ended", epoch: state.epoch }],
    };
  }
  if (limits.enabled && state.phase === "half_open") {
    const due = failProbing(state, at, limits, random);
    if (due !== null) return { next: { ...due.next, at }, events: due.events };
  }
  return { next: at === state.at ? state : { ...state, at }, events: noEvents };
}

/** Asks for a call. Nobody waits: the call goes now, with its token, or is refused with the time to come back. */
export function admit(
  state: BreakerState,
  now: number,
  limits: BreakerLimits,
  random: Random,
): Step & { verdict: Admission } {
  const { next: current, events } = advance(state, now, limits, random);
  const { at } = current;
  if (!limits.enabled) return admitted(current, events, null);
  switch (current.phase) {
    case "closed": {
      const { ramp } = current;
      if (ramp === null) return admitted(current, events, null);
      const second = Math.floor((at - ramp.since) / 1000);
      const used = second === ramp.second ? ramp.admitted : 0;
      if (used >= rampAllowance(second, ramp.share, limits)) {
        return refused(current, events, { code: "ERR_CB_HALF_OPEN", phase: "ramp", retryAfterMs: 1000 });
      }
      return admitted({ ...current, ramp: { ...ramp, second, admitted: used + 1 } }, events, null);
    }
    case "open": {
      const { until } = current;
      if (until === null || at < until) {
        const retryAfterMs = until === null ? null : until - at;
        return refused(current, events, { code: "ERR_CB_OPEN", phase: "open", retryAfterMs });
      }
      const { next: probing, event } = startProbing(current);
      return granted(probing, [...events, event], limits);
    }
    case "half_open": {
      if (current.leases.length < limits.halfOpenMaxCalls) return granted(current, events, limits);
      const earliest = Math.min(...current.leases.map(({ expires }) => expires));
      const retryAfterMs = Math.min(5000, earliest - at);
      return refused(current, events, { code: "ERR_CB_HALF_OPEN", phase: "half_open", retryAfterMs });
    }
  }
}

/**
 * Ends a call with what it says of the dependency. Late (`late: true`): its epoch is over, so it changes nothing but a
 * counter. `retryAfterMs` is what a failure asked for; it raises the cooldown that failure begins. The report of a
 * lease that has already ended is no report.
 */
export function settle(
  state: BreakerState,
  token: Token,
  sample: Ending,
  now: number,
  limits: BreakerLimits,
  random: Random,
  retryAfterMs: number | null = null,
): Step & { late: boolean } {
  const { next: current, events } = advance(state, now, limits, random);
  const known = sample === "slow" && limits.slowCallMs === null ? "success" : sample;
  const verdict = known === "unused" ? "ignored" : known;
  const floorMs = verdict === "failure" ? retryAfterMs : null;
  if (token.epoch !== current.epoch) return late(current, events, token.epoch);
  if (current.phase === "closed" || !limits.enabled) {
    const counted = { ...current, counts: plus(current.counts, verdict) };
    if (counted.phase !== "closed" || verdict === "ignored") return { next: counted, events, late: false };
    const step = countCalls(counted, callsOf(verdict), floorMs, limits, random);
    return { next: step.next, events: step.events.length === 0 ? events : [...events, ...step.events], late: false };
  }
  if (current.phase === "open" || token.lease === null) return late(current, events, token.epoch);
  if (!current.leases.some(({ id }) => id === token.lease)) return { next: current, events, late: false };
  const step = endLease(current, token.lease, known, floorMs, limits, random);
  return { next: step.next, events: [...events, ...step.events], late: false };
}

/**
 * Applies an operator's act; it beats every automatic rule. Repeating one replaces it. A breaker that is switched off
 * refuses nothing, so opening it does nothing.
 */
export function act(state: BreakerState, deed: Act, now: number, limits: BreakerLimits): Step {
  // Whatever falls due first opens at most for a cooldown the act replaces: its spread does not matter.
  const { next: current, events } = advance(state, now, limits, () => 0);
  if (deed.kind === "open" && !limits.enabled) return { next: current, events };
  const next: BreakerState =
    deed.kind === "open"
      ? {
          phase: "open",
          at: current.at,
          epoch: current.epoch + 1,
          attempt: current.attempt,
          counts: current.phase === "open" ? current.counts : plus(current.counts, "opens"),
          since: current.phase === "open" ? current.since : current.at,
          until: deed.forMs === null ? null : current.at + deed.forMs,
          manual: { reason: deed.reason },
          failures: failuresOf(current),
        }
      : {
          ...freshBreaker(current.at, current.epoch + 1),
          counts:
            deed.kind === "reset"
              ? zeroCounts
              : current.phase === "closed"
                ? current.counts
                : closeBooks(current, "closes"),
        };
  const cooldown = deed.kind === "open" ? deed.forMs : null;
  return { next, events: [...events, ...voided(current), transition(current, next, "manual", cooldown)] };
}

/** A closed breaker after `calls` ended at its `at`, opened if they are the ones that open it. Totals stay the caller's. */
export function countCalls(
  state: ClosedState,
  calls: Calls,
  floorMs: number | null,
  limits: BreakerLimits,
  random: Random,
): Step {
  const { tally, totals, longestRun, trip } = count(state, calls, state.at, limits);
  if (trip === null || !limits.enabled) {
    return { next: { ...state, run: tally.run, window: tally.window, lastCall: tally.lastCall }, events: noEvents };
  }
  // Opening again before the ramp is over is opening again: it had not recovered.
  const attempt = state.ramp === null ? state.attempt : state.attempt + 1;
  const failures = trip === "run" ? longestRun : totals.failures;
  return openBreaker(state, state.at, { reason: trip, attempt, failures, floorMs }, limits, random);
}

function admitted(
  next: BreakerState,
  events: readonly BreakerEvent[],
  lease: number | null,
): Step & { verdict: Admission } {
  return { next, events, verdict: { admitted: true, token: { epoch: next.epoch, lease } } };
}

function refused(
  state: BreakerState,
  events: readonly BreakerEvent[],
  refusal: Omit<Extract<Admission, { admitted: false }>, "admitted">,
): Step & { verdict: Admission } {
  const { code, phase, retryAfterMs } = refusal;
  const event = { kind: "refused", code, phase, epoch: state.epoch, retry_after_ms: retryAfterMs } as const;
  return {
    next: { ...state, counts: plus(state.counts, "not_permitted") },
    events: [...events, event],
    verdict: { admitted: false, ...refusal },
  };
}

function granted(
  state: HalfOpenState,
  events: readonly BreakerEvent[],
  limits: BreakerLimits,
): Step & { verdict: Admission } {
  const { next, lease } = grantLease(state, limits);
  return admitted(next, [...events, { kind: "lease_granted", epoch: state.epoch, lease }], lease);
}

function late(state: BreakerState, events: readonly BreakerEvent[], epoch: number): Step & { late: boolean } {
  const next = { ...state, counts: plus(state.counts, "late") };
  return { next, events: [...events, { kind: "late", epoch, results: 1 }], late: true };
}

function callsOf(verdict: Exclude<Sample, "ignored">): Calls {
  switch (verdict) {
    case "success":
      return oneSuccess;
    case "slow":
      return oneSlow;
    case "failure":
      return oneFailure;
  }
}
