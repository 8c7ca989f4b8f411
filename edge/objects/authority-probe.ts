import type { Config } from "../../shared/config.ts";
import { readBreakerLimits } from "../../shared/breaker-limits.ts";
import type { BreakerName } from "../../shared/breaker-state.ts";
import { readRequestId, readTraceParent } from "../../shared/ids.ts";
import type { Deps } from "../deps.ts";
import { askReadiness, readinessMs } from "../readiness.ts";
import { createSidecarClient } from "../sidecar-client.ts";

/**
 * Looks at a dependency by the sidecar's `/readyz`, within 3 s and the probe's own time. `failure`: the sidecar cannot
 * be reached, refuses our signature or is something else; for LM Studio, that the sidecar says it is down. Everything
 * else is `ignored`: that a box answers is no caption yet, so only a caption closes a circuit. Never rejects.
 */
export function createProbe(deps: Deps, config: Config): (name: BreakerName) => Promise<"failure" | "ignored"> {
  const sidecar = createSidecarClient(deps, config);
  const limitMs = Math.min(readinessMs, readBreakerLimits(config).probeTimeoutMs);
  return async (name) => {
    const call = { requestId: readRequestId(null, deps.random), traceParent: readTraceParent(null, deps.random) };
    const answer = await askReadiness({ deps, sidecar }, call, limitMs);
    if (!answer.ok) return name === "sidecar" ? "failure" : "ignored";
    const { lm_studio: lmStudio } = answer.readiness.dependencies;
    return name === "lm_studio_api" && lmStudio.status === "down" ? "failure" : "ignored";
  };
}
