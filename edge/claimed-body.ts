import { PixelLLMError } from "../shared/errors.ts";
import { announcedLength } from "./body.ts";
import { readCallerBody, type CallerBody, type CallerHead, type JsonReading } from "./caller-image.ts";
import type { Scope } from "./scope.ts";

/**
 * Reads a body inside the isolate's bound of bytes held at once; `release` gives them back when the answer is made.
 * Errors: those of `readCallerBody`; 503 `ERR_API_OVERLOAD` when this isolate holds too much already.
 */
export async function claimBody(
  request: Request,
  head: CallerHead,
  scope: Scope,
  json: JsonReading,
): Promise<{ body: CallerBody; release: () => void }> {
  const { deps, config, budget, deadline } = scope;
  const expiresMs = scope.startedMs + config.timeout_seconds * 1000;
  const release = budget.claim(announcedLength(request.headers) ?? head.limit, deps.now(), expiresMs);
  if (release === null) {
    throw new PixelLLMError("ERR_API_OVERLOAD", { hint: "Too many pictures are under way.", retryAfterSeconds: 1 });
  }
  try {
    const signal = AbortSignal.any([deadline.signal, scope.caller]);
    const body = await readCallerBody(request, head, { deps, config, signal, json });
    scope.facts.bytes = body.bytesRead;
    return { body, release };
  } catch (error) {
    release();
    throw error;
  }
}
