import * as z from "zod";
import { leaseMs, type BreakerLimits } from "./breaker-limits.ts";
import {
  closeBooks,
  freshBreaker,
  noEvents,
  shifted,
  transition,
  type BreakerEvent,
  type BreakerState,
  type ClosedState,
  type HalfOpenState,
  type OpenState,
} from "./breaker-state.ts";
import { emptyWindow, noRun } from "./breaker-window.ts";

const whole = z.int().min(0);
const duration = z.number().min(0);
const bucketSchema = z.object({ calls: whole, failures: whole, slow: whole });
const common = {
  at: z.number(),
  epoch: whole,
  attempt: whole,
  counts: z.object({
    success: whole,
    failure: whole,
    slow: whole,
    ignored: whole,
    not_permitted: whole,
    late: whole,
    opens: whole,
    closes: whole,
    half_opens: whole,
    open_ms: duration,
  }),
};
const closedSchema = z.object({
  ...common,
  phase: z.literal("closed"),
  run: z.object({ length: whole, need: whole }),
  window: bucketSchema.extend({ start: z.number(), past: z.array(bucketSchema).length(9) }),
  lastCall: z.number(),
  ramp: z.object({ since: z.number(), second: whole, admitted: whole, share: z.number().min(1) }).nullable(),
});
const openSchema = z.object({
  ...common,
  phase: z.literal("open"),
  since: z.number(),
  until: z.number().nullable(),
  manual: z.object({ reason: z.string().nullable() }).nullable(),
  failures: whole,
});
const halfOpenSchema = z.object({
  ...common,
  phase: z.literal("half_open"),
  leases: z.array(z.object({ id: whole, expires: z.number() })),
  granted: whole,
  successes: whole,
  unresolved: whole,
  stallSince: z.number().nullable(),
  failures: whole,
});
const savedSchema = z.object({
  v: z.literal(1),
  saved_at: z.number(),
  state: z.discriminatedUnion("phase", [closedSchema, openSchema, halfOpenSchema]),
});

/** A breaker as it is stored: its times are ms from `saved_at` (Unix ms) on. */
export type SavedBreaker = { v: 1; saved_at: number; state: BreakerState };

/** The breaker to store at `now`, while the wall clock shows `wallNow`. */
export function saveBreaker(state: BreakerState, now: number, wallNow: number): SavedBreaker {
  return { v: 1, saved_at: wallNow, state: shifted(state, -Math.max(now, state.at)) };
}

/**
 * The breaker that was stored, on a clock that shows `now`, and what to tell about it. What is left of its deadlines
 * shrinks by the time that has passed and never grows, whatever the wall clock did, and fits today's limits.
 * Nothing stored, or nothing readable: closed, in an epoch no older than any before it (seconds of the wall clock).
 * Stored by a breaker that has since been switched off: closed, since it would never leave its phase.
 */
export function restoreBreaker(
  saved: unknown,
  now: number,
  wallNow: number,
  limits: BreakerLimits,
): { state: BreakerState; events: readonly BreakerEvent[] } {
  const reading = savedSchema.safeParse(saved);
  if (!reading.success) {
    const epoch = Math.max(0, Math.floor(wallNow / 1000));
    const nothing = saved === undefined || saved === null;
    return { state: freshBreaker(now, epoch), events: nothing ? noEvents : [{ kind: "state_discarded", epoch }] };
  }
  const gap = wallNow - reading.data.saved_at;
  const { state } = reading.data;
  switch (state.phase) {
    case "closed":
      return { state: restoreClosed(state, now, gap, limits), events: noEvents };
    case "open":
      return leaveIfOff(restoreOpen(state, now, gap, limits), limits);
    case "half_open":
      return leaveIfOff(restoreHalfOpen(state, now, gap, limits), limits);
  }
}

function restoreClosed(state: ClosedState, now: number, gap: number, limits: BreakerLimits): ClosedState {
  const { ramp } = state;
  const stale = gap < 0 || gap >= limits.windowMs;
  const earlier = now - gap;
  return {
    ...state,
    at: now,
    run: stale ? noRun : state.run,
    window: stale ? emptyWindow(now) : { ...state.window, start: state.window.start + earlier },
    lastCall: stale ? now : state.lastCall + earlier,
    attempt: limits.rampMs > 0 ? state.attempt : 0,
    ramp: ramp === null || limits.rampMs === 0 ? null : { ...ramp, since: now, second: 0, admitted: 0 },
  };
}

function restoreOpen(state: OpenState, now: number, gap: number, limits: BreakerLimits): OpenState {
  // What an operator asked for has no limit of its own but itself.
  const longest = state.manual === null ? limits.maxCooldownMs : Infinity;
  return {
    ...state,
    at: now,
    since: now + state.since - Math.max(0, gap),
    until: state.until === null ? null : now + remaining(state.until, gap, longest),
  };
}

function restoreHalfOpen(state: HalfOpenState, now: number, gap: number, limits: BreakerLimits): HalfOpenState {
  const { stallSince } = state;
  const { maxHalfOpenMs } = limits;
  const leases = state.leases.map(({ id, expires }) => ({
    id,
    expires: now + remaining(expires, gap, leaseMs(limits)),
  }));
  const stallLeft = remaining((stallSince ?? 0) + maxHalfOpenMs, gap, maxHalfOpenMs);
  return { ...state, at: now, leases, stallSince: stallSince === null ? null : now + stallLeft - maxHalfOpenMs };
}

function leaveIfOff(
  state: OpenState | HalfOpenState,
  limits: BreakerLimits,
): { state: BreakerState; events: readonly BreakerEvent[] } {
  if (limits.enabled) return { state, events: noEvents };
  const closed = { ...freshBreaker(state.at, state.epoch + 1), counts: closeBooks(state, "closes") };
  return { state: closed, events: [transition(state, closed, "restored", null)] };
}

function remaining(leftMs: number, gap: number, longest: number): number {
  return Math.min(longest, Math.max(0, leftMs - Math.max(0, gap)));
}
