import { advance, countCalls } from "./breaker.ts";
import type { BreakerLimits } from "./breaker-limits.ts";
import {
  shifted,
  type BreakerState,
  type ClosedState,
  type HalfOpenState,
  type OpenState,
  type Sample,
  type Step,
} from "./breaker-state.ts";
import { emptyWindow, type Calls } from "./breaker-window.ts";
import type { Random } from "./random.ts";

/**
 * What one isolate has seen of a breaker in one epoch, in the order it ended: plain JSON, added up until it is sent.
 * `ignored` and `not_permitted` are not among the calls; `retryAfterMs` is the longest wait a failure asked for.
 */
export type BreakerDelta = Calls & {
  epoch: number;
  ignored: number;
  not_permitted: number;
  retryAfterMs: number | null;
};

/** A breaker without its window, for another host: its times are ms from now on, its counts the truth. */
export type BreakerSnapshot = (Omit<ClosedState, "window"> | OpenState | HalfOpenState) & {
  /** Isolates that split what a ramp lets through, at least 1. */
  share: number;
};

/** Nothing seen yet in `epoch`. */
export function emptyDelta(epoch: number): BreakerDelta {
  return {
    epoch,
    calls: 0,
    failures: 0,
    slow: 0,
    ignored: 0,
    not_permitted: 0,
    headRun: 0,
    tailRun: 0,
    longestRun: 0,
    retryAfterMs: null,
  };
}

/** The delta after one more call ended. */
export function addSample(delta: BreakerDelta, sample: Sample, retryAfterMs: number | null = null): BreakerDelta {
  const none = emptyDelta(delta.epoch);
  switch (sample) {
    case "success":
      return mergeDeltas(delta, { ...none, calls: 1 });
    case "slow":
      return mergeDeltas(delta, { ...none, calls: 1, slow: 1 });
    case "failure":
      return mergeDeltas(delta, {
        ...none,
        calls: 1,
        failures: 1,
        headRun: 1,
        tailRun: 1,
        longestRun: 1,
        retryAfterMs,
      });
    case "ignored":
      return { ...delta, ignored: delta.ignored + 1 };
  }
}

/** The delta after one more call was refused. */
export function countRefusal(delta: BreakerDelta): BreakerDelta {
  return { ...delta, not_permitted: delta.not_permitted + 1 };
}

/**
 * Two deltas of one epoch, `a` before `b`; associative, and no run is lost where they meet. Of two epochs the newer
 * one's delta is left: the other would be late as a whole.
 */
export function mergeDeltas(a: BreakerDelta, b: BreakerDelta): BreakerDelta {
  if (a.epoch !== b.epoch) return a.epoch > b.epoch ? a : b;
  return {
    epoch: a.epoch,
    calls: a.calls + b.calls,
    failures: a.failures + b.failures,
    slow: a.slow + b.slow,
    ignored: a.ignored + b.ignored,
    not_permitted: a.not_permitted + b.not_permitted,
    headRun: a.headRun === a.calls ? a.calls + b.headRun : a.headRun,
    tailRun: b.tailRun === b.calls ? a.tailRun + b.calls : b.tailRun,
    longestRun: Math.max(a.longestRun, b.longestRun, a.tailRun + b.headRun),
    retryAfterMs: longer(a.retryAfterMs, b.retryAfterMs),
  };
}

/**
 * The breaker after another host's calls ended, as if they had all ended now. Late as a whole (`late: true`) when it is
 * of an older epoch, or the breaker is not closed: then calls count by their leases only, so two isolates that saw the
 * same outage open it once. Calls of a newer epoch, made by a copy that went its own way, count, and the breaker
 * takes that epoch, so that the copy follows it again.
 */
export function applyDelta(
  state: BreakerState,
  delta: BreakerDelta,
  now: number,
  limits: BreakerLimits,
  random: Random,
): Step & { late: boolean } {
  const { next: current, events } = advance(state, now, limits, random);
  const { epoch, calls, failures, ignored } = delta;
  const slow = limits.slowCallMs === null ? 0 : delta.slow;
  const { counts } = current;
  const notPermitted = counts.not_permitted + delta.not_permitted;
  const results = calls + ignored;
  if (results === 0) {
    return { next: { ...current, counts: { ...counts, not_permitted: notPermitted } }, events, late: false };
  }
  if (epoch < current.epoch || (current.phase !== "closed" && limits.enabled)) {
    const next = { ...current, counts: { ...counts, not_permitted: notPermitted, late: counts.late + results } };
    return { next, events: [...events, { kind: "late", epoch, results }], late: true };
  }
  const counted = {
    ...current,
    epoch,
    counts: {
      ...counts,
      success: counts.success + calls - failures - slow,
      failure: counts.failure + failures,
      slow: counts.slow + slow,
      ignored: counts.ignored + ignored,
      not_permitted: notPermitted,
    },
  };
  if (counted.phase !== "closed" || calls === 0) return { next: counted, events, late: false };
  const step = countCalls(counted, { ...delta, slow }, delta.retryAfterMs, limits, random);
  return { next: step.next, events: [...events, ...step.events], late: false };
}

/** The breaker as others are told of it at `now`; taking it changes nothing. */
export function takeSnapshot(state: BreakerState, now: number, share: number): BreakerSnapshot {
  const told = shifted(state, -Math.max(now, state.at));
  const split = Math.max(1, share);
  if (told.phase !== "closed") return { ...told, share: split };
  const { window: _, ...rest } = told;
  return { ...rest, share: split };
}

/**
 * An isolate's copy after it was told the truth: the snapshot's, unless that is of an older epoch. While both are
 * closed in the same epoch the copy keeps its own window and what its ramp has let through this second.
 */
export function adoptSnapshot(own: BreakerState, snapshot: BreakerSnapshot, now: number): BreakerState {
  if (snapshot.epoch < own.epoch) return own;
  const at = Math.max(now, own.at);
  const { share, ...told } = snapshot;
  if (told.phase !== "closed") return shifted(told, at);
  const kept = own.phase === "closed" && own.epoch === told.epoch ? own : null;
  const next: BreakerState = shifted({ ...told, window: emptyWindow(0) }, at);
  if (next.phase !== "closed") return next;
  const ramp = next.ramp === null ? null : { ...(kept?.ramp ?? { ...next.ramp, admitted: 0 }), share };
  return { ...next, window: kept?.window ?? next.window, ramp };
}

function longer(one: number | null, other: number | null): number | null {
  if (one === null || other === null) return one ?? other;
  return Math.max(one, other);
}
