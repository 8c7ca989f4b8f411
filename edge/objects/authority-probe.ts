import type { Config } from "../../shared/config.ts";
import { readBreakerLimits } from "../../shared/breaker-limits.ts";
import type { BreakerName } from "../../shared/breaker-state.ts";
import { readRequestId, readTraceParent } from "../../shared/ids.ts";
import { sidecarReadinessSchema } from "../../shared/wire.ts";
import { startDeadline } from "../deadline.ts";
import type { Deps } from "../deps.ts";
import { createSidecarClient } from "../sidecar-client.ts";

/** Longest wait for the box, in ms. */
const probeMs = 3000;

/**
 * Looks at a dependency by the sidecar's `/readyz`, within 3 s and the probe's own time. `failure`: the sidecar cannot
 * be reached, refuses our signature or is something else; for LM Studio, that the sidecar says it is down. Everything
 * else is `ignored`: that a box answers is no caption yet, so only a caption closes a circuit. Never rejects.
 */
export function createProbe(deps: Deps, config: Config): (name: BreakerName) => Promise<"failure" | "ignored"> {
  const sidecar = createSidecarClient(deps, config);
  return async (name) => {
    const limitMs = Math.min(probeMs, readBreakerLimits(config).probeTimeoutMs);
    const limit = startDeadline(deps, deps.now(), limitMs);
    try {
      const outcome = await sidecar.call({
        method: "GET",
        path: "/readyz",
        query: {},
        body: null,
        requestId: readRequestId(null, deps.random),
        traceParent: readTraceParent(null, deps.random),
        remainingMs: limitMs,
        signal: limit.signal,
      });
      const readiness = outcome.ok ? sidecarReadinessSchema.safeParse(outcome.body) : null;
      if (readiness?.success !== true) return name === "sidecar" ? "failure" : "ignored";
      return name === "lm_studio_api" && readiness.data.dependencies.lm_studio.status === "down"
        ? "failure"
        : "ignored";
    } finally {
      limit.stop();
    }
  };
}
