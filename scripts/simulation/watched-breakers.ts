import type { BreakerToken, Breakers } from "../../edge/breakers.ts";
import type { BreakerLimits } from "../../shared/breaker-limits.ts";
import type { BreakerName } from "../../shared/breaker-state.ts";
import type { Ledger } from "./ledger.ts";

/** What one isolate's breakers were asked and told. */
export type BreakerTally = {
  admitted: number;
  settled: Record<BreakerName, number>;
  /** Epochs of the copies' own tokens. */
  epochs: Record<BreakerName, number>;
  /** Probes under way. */
  probes: Map<BreakerToken, BreakerName>;
};

/** A tally of nothing. */
export function emptyTally(): BreakerTally {
  return {
    admitted: 0,
    settled: { sidecar: 0, lm_studio_api: 0 },
    epochs: { sidecar: 0, lm_studio_api: 0 },
    probes: new Map(),
  };
}

/** The same breakers, each answer held against what callers may rely on. */
export function watchBreakers(
  breakers: Breakers,
  tally: BreakerTally,
  { ledger, limits, now }: { ledger: Ledger; limits: BreakerLimits; now: () => number },
): Breakers {
  return {
    ...breakers,
    async admit(name) {
      const admission = await breakers.admit(name);
      if (admission.admitted) {
        tally.admitted += 1;
        const { token } = admission;
        const epoch = token.own?.epoch ?? 0;
        if (epoch > 0 && epoch < tally.epochs[name]) {
          ledger.violate("a copy's epoch never falls", `${name} ${tally.epochs[name]} to ${epoch}`);
        }
        tally.epochs[name] = Math.max(tally.epochs[name], epoch);
        const probe = token.upstream !== null || (token.own !== null && token.own.lease !== null);
        if (probe) tally.probes.set(token, name);
        if (probe) countProbe(ledger, name, 1);
        if (name === "lm_studio_api") ledger.passed.push({ atMs: now(), probe });
        return admission;
      }
      const { code, retryAfterSeconds } = admission.error;
      const longest = code === "ERR_CB_OPEN" ? Math.ceil(limits.maxCooldownMs / 1000) : 5;
      if (retryAfterSeconds === null || retryAfterSeconds < 1 || retryAfterSeconds > longest) {
        ledger.violate("a refusal names its end", `${name} ${code}: ${String(retryAfterSeconds)} s`);
      }
      return admission;
    },
    settle(name, token, sample, retryAfterMs) {
      if (token.ended !== null) ledger.violate("a token ends once", `${name} ${sample}`);
      tally.settled[name] += 1;
      if (tally.probes.delete(token)) countProbe(ledger, name, -1);
      breakers.settle(name, token, sample, retryAfterMs);
    },
  };
}

/** Forgets the probes of an isolate that is gone. */
export function forgetProbes(tally: BreakerTally, ledger: Ledger): void {
  for (const name of tally.probes.values()) countProbe(ledger, name, -1);
  tally.probes.clear();
}

function countProbe(ledger: Ledger, name: BreakerName, change: 1 | -1): void {
  const probes = ledger.probes[name];
  probes.now += change;
  probes.peak = Math.max(probes.peak, probes.now);
}
