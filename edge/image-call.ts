import type { CallerImage } from "./caller-image.ts";
import { startDeadline } from "./deadline.ts";
import type { Scope } from "./scope.ts";
import type { SidecarOutcome } from "./sidecar-client.ts";

/** Sends one checked picture to a route of the sidecar. */
export type ImageCall = (path: string, query: Readonly<Record<string, string>>) => Promise<SidecarOutcome>;

/** A way to send this picture, within the request's time less what is kept back; it ends when the caller leaves. */
export function createImageCall(
  { deps, config, deadline, caller, sidecar, requestId, traceParent }: Scope,
  { image, sha256, tenant, reserveMs }: { image: CallerImage; sha256: string; tenant: string; reserveMs: number },
): ImageCall {
  return async (path, query) => {
    const own = startDeadline(deps, deps.now(), Math.max(0, deadline.remainingMs() - reserveMs));
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
