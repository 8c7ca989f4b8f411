import { PixelLLMError } from "../shared/errors.ts";
import { sidecarReadinessSchema, type SidecarReadiness } from "../shared/wire.ts";
import { startDeadline } from "./deadline.ts";
import type { Deps } from "./deps.ts";
import type { SidecarCall, SidecarClient } from "./sidecar-client.ts";

/** Longest wait for the box to say how it is, in ms: one that hangs is an answer. */
export const readinessMs = 3000;

/** What the sidecar says of itself, ready or not, or why it says nothing. */
export type ReadinessAnswer = { ok: true; readiness: SidecarReadiness } | { ok: false; error: PixelLLMError };

/** Asks the sidecar's `/readyz`, within `limitMs`; never throws. */
export async function askReadiness(
  { deps, sidecar }: { deps: Pick<Deps, "now" | "startTimer">; sidecar: SidecarClient },
  call: Pick<SidecarCall, "requestId" | "traceParent"> & { caller?: AbortSignal },
  limitMs: number = readinessMs,
): Promise<ReadinessAnswer> {
  const limit = startDeadline(deps, deps.now(), limitMs);
  try {
    const outcome = await sidecar.call({
      method: "GET",
      path: "/readyz",
      query: {},
      body: null,
      requestId: call.requestId,
      traceParent: call.traceParent,
      remainingMs: limitMs,
      signal: call.caller === undefined ? limit.signal : AbortSignal.any([limit.signal, call.caller]),
    });
    if (!outcome.ok) return outcome;
    const readiness = sidecarReadinessSchema.safeParse(outcome.body);
    if (readiness.success) return { ok: true, readiness: readiness.data };
    const error = new PixelLLMError("ERR_API_INVALID_RESPONSE", { hint: "The sidecar speaks another version." });
    return { ok: false, error };
  } finally {
    limit.stop();
  }
}
