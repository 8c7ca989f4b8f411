import { cooldownMs, type BreakerLimits } from "./breaker-limits.ts";
import { emptyWindow, noRun, type Tally, type Trip } from "./breaker-window.ts";
import type { Random } from "./random.ts";

/** The dependencies that have a breaker: the way to the GPU box, and LM Studio behind it. */
export const breakerNames = ["sidecar", "lm_studio_api"] as const;
export type BreakerName = (typeof breakerNames)[number];

/** What one attempt says of a dependency; `ignored` frees its token and says nothing. */
export type Sample = "success" | "failure" | "slow" | "ignored";

/** How a token ends: with a sample, or `unused`, its call never made: the lease is free, and nothing was tried. */
export type Ending = Sample | "unused";

/** What an admitted call reports with, exactly once; `lease` is set when it is a probe. */
export type Token = { epoch: number; lease: number | null };

/** The answer to a call that asks. `retryAfterMs` null: opened by hand, without an end. */
export type Admission =
  | { admitted: true; token: Token }
  | {
      admitted: false;
      code: "ERR_CB_OPEN" | "ERR_CB_HALF_OPEN";
      phase: "open" | "half_open" | "ramp";
      retryAfterMs: number | null;
    };

/** Everything a breaker has counted; `open_ms` is that of the open periods that are over. */
export type Counts = Record<Sample | "not_permitted" | "late" | "opens" | "closes" | "half_opens" | "open_ms", number>;

/** A call let through in half-open; at `expires` it has failed. */
export type Lease = { id: number; expires: number };

/** After closing: how many calls second `second` has let through; `share` isolates split them. */
export type Ramp = { since: number; second: number; admitted: number; share: number };

type Common = {
  /** When the last event was; an earlier `now` counts as this. */
  at: number;
  /** +1 on every change of phase and manual act; results of another epoch say nothing. */
  epoch: number;
  /** Re-openings since the last completed ramp. */
  attempt: number;
  counts: Counts;
};

/** Lets everything through, or as much as the ramp allows. */
export type ClosedState = Common & Tally & { phase: "closed"; ramp: Ramp | null };

/** Refuses until `until` (null: until an act); `manual` when opened by hand. `failures` are those that opened it. */
export type OpenState = Common & {
  phase: "open";
  since: number;
  until: number | null;
  manual: { reason: string | null } | null;
  failures: number;
};

/** Lets probes through. `granted` numbers the leases, `stallSince` is the first lease since the last verdict. */
export type HalfOpenState = Common & {
  phase: "half_open";
  leases: readonly Lease[];
  granted: number;
  successes: number;
  unresolved: number;
  stallSince: number | null;
  failures: number;
};

/** A breaker: plain JSON, times in ms of the host's forward-only clock. */
export type BreakerState = ClosedState | OpenState | HalfOpenState;
export type Phase = BreakerState["phase"];

/** Why a breaker changed. */
export type Reason =
  | Trip
  | "probe_failed"
  | "lease_expired"
  | "stalled"
  | "cooldown_over"
  | "probes_ok"
  | "manual"
  | "restored";

/**
 * What happened, each once, for the host to emit under the breaker's name. `epoch` is that of the state after it, and
 * for `late` and `lease_ended` that of the token. An act that repeats itself is a transition from a phase to itself.
 */
export type BreakerEvent =
  | {
      kind: "transition";
      from: Phase;
      to: Phase;
      reason: Reason;
      epoch: number;
      attempt: number;
      /** Length of the cooldown that begins; null when none does, or it has no end. */
      cooldown_ms: number | null;
    }
  | {
      kind: "refused";
      code: "ERR_CB_OPEN" | "ERR_CB_HALF_OPEN";
      phase: "open" | "half_open" | "ramp";
      epoch: number;
      retry_after_ms: number | null;
    }
  | { kind: "late"; epoch: number; results: number }
  | { kind: "lease_granted"; epoch: number; lease: number }
  /** `void`: the phase ended before the probe did. */
  | { kind: "lease_ended"; epoch: number; lease: number; outcome: Ending | "expired" | "void" }
  | { kind: "ramp_ended"; epoch: number }
  | { kind: "state_discarded"; epoch: number };

/** A breaker after an event, and what to tell about it. */
export type Step = { next: BreakerState; events: readonly BreakerEvent[] };

/** No events; the one array all quiet steps share. */
export const noEvents: readonly BreakerEvent[] = Object.freeze([]);

/** A breaker that has counted nothing. */
export const zeroCounts: Counts = Object.freeze({
  success: 0,
  failure: 0,
  slow: 0,
  ignored: 0,
  not_permitted: 0,
  late: 0,
  opens: 0,
  closes: 0,
  half_opens: 0,
  open_ms: 0,
});

/** A closed breaker that has seen nothing. */
export function freshBreaker(now: number, epoch = 0): ClosedState {
  return {
    phase: "closed",
    at: now,
    epoch,
    attempt: 0,
    counts: zeroCounts,
    run: noRun,
    window: emptyWindow(now),
    lastCall: now,
    ramp: null,
  };
}

/** `counts` with one more of `key`. */
export function plus(counts: Counts, key: keyof Counts): Counts {
  return { ...counts, [key]: counts[key] + 1 };
}

/** The failures a breaker's public facts name: the run so far, or those that opened it. */
export function failuresOf(state: BreakerState): number {
  return state.phase === "closed" ? state.run.length : state.failures;
}

/** The transition to an automatic cooldown that begins at `at`; leases still out are void. */
export function openBreaker(
  state: ClosedState | HalfOpenState,
  at: number,
  cause: { reason: Reason; attempt: number; failures: number; floorMs: number | null },
  limits: BreakerLimits,
  random: Random,
): Step {
  const cooldown = cooldownMs(cause.attempt, cause.floorMs, limits, random);
  const next: OpenState = {
    phase: "open",
    at,
    epoch: state.epoch + 1,
    attempt: cause.attempt,
    counts: plus(state.counts, "opens"),
    since: at,
    until: at + cooldown,
    manual: null,
    failures: cause.failures,
  };
  return { next, events: [...voided(state), transition(state, next, cause.reason, cooldown)] };
}

/** The event of a change from one state to another. */
export function transition(
  from: BreakerState,
  to: BreakerState,
  reason: Reason,
  cooldown: number | null,
): BreakerEvent {
  const { epoch, attempt, phase } = to;
  return { kind: "transition", from: from.phase, to: phase, reason, epoch, attempt, cooldown_ms: cooldown };
}

/** Ends of the leases that are still out when their phase ends. */
export function voided(state: BreakerState): BreakerEvent[] {
  if (state.phase !== "half_open") return [];
  return state.leases.map(({ id }) => ({ kind: "lease_ended", epoch: state.epoch, lease: id, outcome: "void" }));
}

/** The counts of a state that is left for `entered`, its open time added. */
export function closeBooks(state: BreakerState, entered: "closes" | "half_opens"): Counts {
  const openMs = state.phase === "open" ? state.at - state.since : 0;
  const counts = plus(state.counts, entered);
  return { ...counts, open_ms: counts.open_ms + openMs };
}

/** The same breaker on a clock that shows `byMs` more: every time in it moved, every duration kept. */
export function shifted(state: BreakerState, byMs: number): BreakerState {
  const at = state.at + byMs;
  switch (state.phase) {
    case "closed": {
      const { window, ramp } = state;
      return {
        ...state,
        at,
        lastCall: state.lastCall + byMs,
        window: { ...window, start: window.start + byMs },
        ramp: ramp === null ? null : { ...ramp, since: ramp.since + byMs },
      };
    }
    case "open":
      return { ...state, at, since: state.since + byMs, until: state.until === null ? null : state.until + byMs };
    case "half_open": {
      const leases = state.leases.map(({ id, expires }) => ({ id, expires: expires + byMs }));
      return { ...state, at, leases, stallSince: state.stallSince === null ? null : state.stallSince + byMs };
    }
  }
}
