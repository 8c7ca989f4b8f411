import type { Gate } from "../shared/attempt-loop.ts";
import { readBreakerLimits } from "../shared/breaker-limits.ts";
import type { BreakerName, Sample } from "../shared/breaker-state.ts";
import type { Config } from "../shared/config.ts";
import { samplesOf, type AttemptFacts, type SampleLimits } from "../shared/samples.ts";
import type { Breakers, BreakerToken } from "./breakers.ts";

/** What attempts are judged by; `probeTimeoutMs` is the time a probe has. */
export type GateLimits = SampleLimits & { probeTimeoutMs: number };

/** What one attempt holds of the breakers; null = that one was not asked. */
export type AttemptPermit = { sidecar: BreakerToken; lmStudioApi: BreakerToken | null };

/**
 * Both breakers before one attempt, `sidecar` first; each gets at most one sample. Where the second refuses, the first
 * one's token goes back without a verdict.
 */
export function createAttemptGate(breakers: Breakers, limits: GateLimits): Gate<AttemptPermit> {
  return {
    async admit() {
      const sidecar = await breakers.admit("sidecar");
      if (!sidecar.admitted) return sidecar;
      let admitted = false;
      try {
        const lmStudioApi = await breakers.admit("lm_studio_api");
        if (!lmStudioApi.admitted) return lmStudioApi;
        admitted = true;
        return { admitted, permit: { sidecar: sidecar.token, lmStudioApi: lmStudioApi.token } };
      } finally {
        if (!admitted) breakers.settle("sidecar", sidecar.token, "unused", null);
      }
    },
    settle: (permit, facts) => settlePermit(breakers, permit, facts, limits),
  };
}

/** The one breaker before a call that needs the encoder alone. */
export function createEvidenceGate(breakers: Breakers, limits: GateLimits): Gate<AttemptPermit> {
  return {
    async admit() {
      const sidecar = await breakers.admit("sidecar");
      if (!sidecar.admitted) return sidecar;
      return { admitted: true, permit: { sidecar: sidecar.token, lmStudioApi: null } };
    },
    settle: (permit, facts) => settlePermit(breakers, permit, facts, limits),
  };
}

/** The breakers in the way of a caption, and of evidence or vectors alone, as a configuration judges calls. */
export function openGates(breakers: Breakers, config: Config): Record<"caption" | "evidence", Gate<AttemptPermit>> {
  const { slowCallMs, probeTimeoutMs } = readBreakerLimits(config);
  const limits = { timeoutMs: config.timeout_seconds * 1000, slowCallMs, probeTimeoutMs };
  return { caption: createAttemptGate(breakers, limits), evidence: createEvidenceGate(breakers, limits) };
}

/** Longest time a call with this permit may take, in ms: a probe's deadline is its own; null = the request's. */
export function probeLimitMs(permit: AttemptPermit, config: Config): number | null {
  return isProbe(permit) ? readBreakerLimits(config).probeTimeoutMs : null;
}

function isProbe({ sidecar, lmStudioApi }: AttemptPermit): boolean {
  return [sidecar, lmStudioApi].some(
    (token) => token !== null && (token.upstream !== null || (token.own?.lease ?? null) !== null),
  );
}

function settlePermit(breakers: Breakers, permit: AttemptPermit, facts: AttemptFacts, limits: GateLimits): void {
  // What had less time by its own limit is judged by that one: a probe that hangs is a failure like any other.
  const timeoutMs = isProbe(permit) ? Math.min(limits.timeoutMs, limits.probeTimeoutMs) : limits.timeoutMs;
  const samples = samplesOf(facts, { ...limits, timeoutMs });
  const retryAfterMs = facts.ok ? null : (facts.retryAfterMs ?? null);
  const end = (name: BreakerName, token: BreakerToken, sample: Sample | null): void =>
    // An attempt that says nothing of a dependency still gives its token back.
    breakers.settle(name, token, sample ?? "unused", retryAfterMs);
  end("sidecar", permit.sidecar, samples.sidecar);
  if (permit.lmStudioApi !== null) end("lm_studio_api", permit.lmStudioApi, samples.lm_studio_api);
}
