import type { BreakerLimits } from "../shared/breaker-limits.ts";
import { adoptSnapshot, type BreakerDelta } from "../shared/breaker-sharing.ts";
import {
  breakerNames,
  freshBreaker,
  type BreakerName,
  type BreakerState,
  type Token,
} from "../shared/breaker-state.ts";
import { count } from "../shared/breaker-window.ts";
import type { AuthoritySnapshot } from "./objects/authority-protocol.ts";

/** One isolate's copies of both breakers, and what is known of their age. */
export type BreakerCopies = {
  states: Record<BreakerName, BreakerState>;
  /** What a copy is held to: alone, an isolate sends one probe at a time, for it does not know how many others do. */
  limitsOf: (name: BreakerName) => BreakerLimits;
  /** Takes the object's word, at `at` ms; `untold` is what the object may not know of a breaker's calls in an epoch. */
  heed(snapshot: AuthoritySnapshot, at: number, untold: (name: BreakerName, epoch: number) => BreakerDelta): void;
  /** Whether the copies are too old to go on with. */
  isStale(at: number): boolean;
  /** The epoch a call belongs to that was admitted in `token`'s. */
  epochOf(name: BreakerName, token: Token): number;
  /** Epochs that the copies would give up for what the object says. */
  epochs(): Partial<Record<BreakerName, number>>;
  /** The object's last word; null = none yet. */
  heard(): { at: number; cacheEpoch: number } | null;
};

/** How long a copy is good without another word: closed or opened by hand, and half-open or within the ramp. */
const validMs = { calm: 2000, busy: 500 };

/** Copies that have heard nothing: closed, in an epoch of 0 that stands for whatever the object's is. */
export function createBreakerCopies(limits: BreakerLimits): BreakerCopies {
  const probeLimits = { ...limits, halfOpenMaxCalls: 1 };
  const states: BreakerCopies["states"] = { sidecar: freshBreaker(0), lm_studio_api: freshBreaker(0) };
  /** The epoch of calls begun before the first word. */
  const firstEpoch = { sidecar: 0, lm_studio_api: 0 };
  let heard: { at: number; cacheEpoch: number } | null = null;

  /** An adopted state as a copy may hold it. */
  function following(state: BreakerState, at: number, delta: BreakerDelta): BreakerState {
    // Other isolates' probes are not this copy's to judge: it would see each of them expire.
    if (state.phase === "half_open") return { ...state, leases: [], stallSince: null };
    // What this isolate has seen and the object has not been told yet still is part of the run.
    if (state.phase === "open" || delta.calls === 0) return state;
    return { ...state, run: count(state, delta, at, limits).tally.run };
  }

  return {
    states,
    limitsOf: (name) => (states[name].phase === "closed" ? limits : probeLimits),
    heed(snapshot, at, untold) {
      for (const name of breakerNames) {
        const told = snapshot.breakers[name];
        const own = states[name];
        if (heard === null && own.phase === "open" && told.phase === "closed") {
          // It tripped before it knew where the count stands: it goes on from there, and keeps refusing.
          states[name] = { ...own, epoch: Math.max(own.epoch, told.epoch + 1) };
          continue;
        }
        if (heard === null && own.epoch === 0 && told.phase === "closed") firstEpoch[name] = told.epoch;
        const next = adoptSnapshot(own, told, at);
        if (next !== own) states[name] = following(next, at, untold(name, next.epoch));
      }
      heard = { at, cacheEpoch: snapshot.cacheEpoch };
    },
    isStale(at) {
      if (heard === null) return true;
      const age = at - heard.at;
      const { sidecar } = states;
      // While the first breaker refuses nobody asks the second: neither is worth a call.
      if (sidecar.phase === "open" && sidecar.manual === null) return false;
      return breakerNames.some((name) => {
        const state = states[name];
        // A cooldown is trusted to its end; what was opened by hand has none that is sure.
        if (state.phase === "open") return state.manual !== null && age >= validMs.calm;
        const busy = state.phase === "half_open" || state.ramp !== null;
        return age >= (busy ? validMs.busy : validMs.calm);
      });
    },
    epochOf: (name, token) => (token.epoch === 0 ? firstEpoch[name] : token.epoch),
    epochs() {
      // A copy that refuses on its own account keeps its word.
      const given = breakerNames.filter((name) => states[name].phase !== "open");
      return Object.fromEntries(given.map((name) => [name, states[name].epoch]));
    },
    heard: () => heard,
  };
}
