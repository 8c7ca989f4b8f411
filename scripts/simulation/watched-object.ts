import * as z from "zod";
import type { AuthoritySnapshot, NamedEvent } from "../../edge/objects/authority-protocol.ts";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import type { BreakerSnapshot } from "../../shared/breaker-sharing.ts";
import { breakerNames, type BreakerName } from "../../shared/breaker-state.ts";
import type { Ledger } from "./ledger.ts";
import type { WallClock } from "./wall-clock.ts";

/** The object's own words, held against what must be true of them at every moment. */
export type ObjectWatch = {
  /** An event as the object tells it. */
  told: (event: NamedEvent) => void;
  /** What an isolate is sent. */
  sent: (snapshot: AuthoritySnapshot) => void;
  /** A process has begun with what was stored at a virtual time, undefined = nothing. */
  started: (saved: { text: string; at: number } | undefined) => void;
  /** Leases that ended by their time alone. */
  expired: Record<BreakerName, number>;
  /** When the wall clock of the object last stepped. */
  steppedAt: () => number;
  /** The phases as last heard. */
  phases: () => string[];
};

/** The leases in what the object stores. */
const savedSchema = z.object({
  breakers: z
    .record(
      z.string(),
      z.object({ state: z.object({ epoch: z.int(), leases: z.array(z.object({ id: z.int() })).optional() }) }),
    )
    .default({}),
});

/** Rounding of clocks that show whole ms, at each of two readings. */
const roundingMs = 4;
/** A closed or half-open breaker's rest: none. */
const none = -Infinity;

/** A watch over an object that has said nothing. */
export function watchObject(ledger: Ledger, limits: BreakerLimits, now: () => number, wall: WallClock): ObjectWatch {
  const { violate } = ledger;
  const epochs: Record<BreakerName, number> = { sidecar: -1, lm_studio_api: -1 };
  const leases: Record<BreakerName, Set<string>> = { sidecar: new Set(), lm_studio_api: new Set() };
  const expired: Record<BreakerName, number> = { sidecar: 0, lm_studio_api: 0 };
  const transitions = new Set<string>();
  /** What was left of each cooldown when it was heard last. */
  const rests = { sidecar: { ms: none, at: 0, epoch: -1 }, lm_studio_api: { ms: none, at: 0, epoch: -1 } };
  /** Breakers of a new process that has not spoken yet, and when what it knows of them was stored. */
  const fresh = new Map<BreakerName, number>();
  const phases: Record<BreakerName, string> = { sidecar: "closed", lm_studio_api: "closed" };

  function rise(name: BreakerName, epoch: number): void {
    if (epoch < epochs[name]) violate("the object's epoch never falls", `${name} ${epochs[name]} to ${epoch}`);
    epochs[name] = Math.max(epochs[name], epoch);
  }

  function told({ name, event }: NamedEvent): void {
    switch (event.kind) {
      case "transition": {
        const { from, to, reason, epoch, cooldown_ms: cooldownMs } = event;
        rise(name, epoch);
        const key = `${name} ${epoch}`;
        if (transitions.has(key)) violate("each transition happens once", `${key}: ${from} to ${to}, ${reason}`);
        transitions.add(key);
        ledger.changes.push({ name, from, to, reason, epoch, cooldownMs, atMs: now() });
        if (cooldownMs !== null && reason !== "manual") {
          if (cooldownMs < limits.cooldownMs || cooldownMs > limits.maxCooldownMs) {
            violate("a cooldown is between its base and its cap", `${name} ${cooldownMs} ms`);
          }
        }
        return;
      }
      case "lease_granted":
        leases[name].add(`${event.epoch}/${event.lease}`);
        if (leases[name].size > limits.halfOpenMaxCalls) {
          violate("no more leases are out than may be", `${name} ${[...leases[name]].join(" ")}`);
        }
        return;
      case "lease_ended":
        if (!leases[name].delete(`${event.epoch}/${event.lease}`)) {
          violate("a lease ends once", `${name} ${event.epoch}/${event.lease} ${event.outcome}`);
        }
        if (event.outcome === "expired") expired[name] += 1;
        return;
      case "late":
      case "refused":
      case "ramp_ended":
      case "state_discarded":
    }
  }

  function sent(snapshot: AuthoritySnapshot): void {
    for (const name of breakerNames) {
      const state = snapshot.breakers[name];
      rise(name, state.epoch);
      const savedAt = fresh.get(name);
      fresh.delete(name);
      if (savedAt !== undefined) compare(name, state, savedAt);
      phases[name] = state.phase;
      rests[name] = {
        ms: state.phase === "open" ? Math.max(0, state.until ?? 0) : none,
        at: now(),
        epoch: state.epoch,
      };
      if (rests[name].ms > limits.maxCooldownMs)
        violate("no cooldown is longer than its cap", `${name} ${rests[name].ms}`);
      if (state.phase === "half_open" && state.leases.length > limits.halfOpenMaxCalls) {
        violate("no more leases are out than may be", `${name} ${state.leases.length}`);
      }
      if (snapshot.share < 1) violate("a share is of somebody", `${snapshot.share}`);
    }
  }

  /** What a new process says first of an open breaker, beside what the one before it said last. */
  function compare(name: BreakerName, state: BreakerSnapshot, savedAt: number): void {
    const { ms, at, epoch } = rests[name];
    // A clock that stepped in between ends a cooldown early, or lets it stand still for a moment.
    if (ms === none || epoch !== state.epoch || wall.steppedAt() >= Math.min(at, savedAt)) return;
    const leftMs = Math.max(0, ms - (now() - at));
    const restMs = state.phase === "open" ? Math.max(0, state.until ?? 0) : none;
    if (Math.abs(restMs - leftMs) > roundingMs) {
      violate("a restart keeps what is left of a cooldown", `${name} ${leftMs} ms became ${restMs} ms`);
    }
  }

  return {
    told,
    sent,
    started(saved) {
      const { breakers } = savedSchema.parse(saved === undefined ? {} : JSON.parse(saved.text));
      for (const name of breakerNames) {
        if (saved !== undefined) fresh.set(name, saved.at);
        const { epoch, leases: kept = [] } = breakers[name]?.state ?? { epoch: 0 };
        leases[name] = new Set(kept.map(({ id }) => `${epoch}/${id}`));
      }
    },
    expired,
    steppedAt: wall.steppedAt,
    phases: () => breakerNames.map((name) => phases[name]),
  };
}
