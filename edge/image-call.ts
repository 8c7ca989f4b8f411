import type { CallerImage } from "./caller-image.ts";
import { startDeadline } from "./deadline.ts";
import type { Scope } from "./scope.ts";
import type { SidecarOutcome } from "./sidecar-client.ts";

/** How much of the request's time one call may take. */
export type CallTime = {
  /** Kept back for what comes after a failure, in ms. */
  reserveMs: number;
  /** Bound of this call alone, in ms; null = the request's own. */
  limitMs: number | null;
};

/** Sends one checked picture to a route of the sidecar. */
export type ImageCall = (
  path: string,
  query: Readonly<Record<string, string>>,
  time: CallTime,
) => Promise<SidecarOutcome>;

/** A way to send this picture, within the request's time less what is kept back; it ends when the caller leaves. */
export function createImageCall(
  { deps, config, deadline, caller, sidecar, requestId, traceParent }: Scope,
  { image, sha256, tenant }: { image: CallerImage; sha256: string; tenant: string },
): ImageCall {
  return async (path, query, { reserveMs, limitMs }) => {
    const budgetMs = Math.min(Math.max(0, deadline.remainingMs() - reserveMs), limitMs ?? Infinity);
    const own = startDeadline(deps, deps.now(), budgetMs);
    try {
      return await sidecar.call({
        method: "POST",
        path,
        query: { ...query, tenant },
        body: { bytes: image.bytes, contentType: `image/${image.format}`, sha256 },
        requestId,
        traceParent,
        // The sidecar's own limit bounds what it may be promised.
        remainingMs: Math.min(own.remainingMs(), config.timeout_seconds * 1000),
        signal: AbortSignal.any([own.signal, deadline.signal, caller]),
      });
    } finally {
      own.stop();
    }
  };
}
