import type { CacheEntry } from "../shared/cache-entry.ts";
import { renderCacheStatus, type CacheStatus } from "../shared/cache-status.ts";
import { errorBody, type PixelLLMError } from "../shared/errors.ts";
import { newCaptionId } from "../shared/ids.ts";
import type { Caption, SidecarCaption } from "../shared/wire.ts";
import { jsonAnswer } from "./answers.ts";
import type { CallerImage } from "./caller-image.ts";
import type { LadderAnswer } from "./ladder.ts";
import type { Scope } from "./scope.ts";

const noUsage = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
const noTime = { decode: 0, encode: 0, generate: 0 };

/** A caption as an answer of HTTP; `ageSeconds` is set where the words come from a stored entry. */
export function captionAnswer(caption: Caption, status: CacheStatus, ageSeconds: number | null): Response {
  return jsonAnswer(caption, 200, {
    "cache-status": renderCacheStatus(status),
    ...(ageSeconds === null ? {} : { age: String(ageSeconds) }),
  });
}

/** LM Studio's words for this picture. */
export function liveCaption(scope: Scope, live: SidecarCaption, attempts: number): Caption {
  return {
    ...begin(scope, "lm_studio", attempts),
    caption: live.caption,
    degraded: false,
    route: live.route,
    model: live.model,
    tags: live.tags,
    image: live.image,
    cause: null,
    usage: live.usage,
    timings_ms: { ...live.timings_ms, total: elapsedMs(scope) },
  };
}

/** A fresh stored caption: as good as a live one, and nothing was asked. */
export function storedCaption(scope: Scope, { caption, tags, image, model, route }: CacheEntry): Caption {
  return {
    ...begin(scope, "cache", 0),
    caption,
    degraded: false,
    route,
    model,
    tags,
    image,
    cause: null,
    usage: noUsage,
    timings_ms: { ...noTime, total: elapsedMs(scope) },
  };
}

/** What a rung answered with, and the failure that made it so. */
export function degradedCaption(
  scope: Scope,
  { image, hash }: { image: CallerImage; hash: string },
  answered: LadderAnswer,
  cause: PixelLLMError,
  attempts: number,
): Caption {
  const { format, width, height } = image;
  return {
    ...begin(scope, answered.source, attempts),
    caption: answered.caption,
    degraded: true,
    route: answered.stored?.route ?? null,
    model: answered.stored?.model ?? null,
    tags: answered.tags,
    image: answered.image ?? { format, width, height, sha256: hash },
    cause: errorBody(cause, scope.requestId),
    usage: noUsage,
    timings_ms: { ...answered.timings, total: elapsedMs(scope) },
  };
}

function begin<Source extends Caption["source"]>(
  scope: Scope,
  source: Source,
  attempts: number,
): Pick<Caption, "id" | "object" | "created" | "attempts"> & { source: Source } {
  scope.facts.source = source;
  scope.facts.attempts = attempts;
  const created = Math.floor(scope.deps.now() / 1000);
  return { id: newCaptionId(scope.deps.random), object: "caption", created, source, attempts };
}

function elapsedMs(scope: Scope): number {
  return Math.max(0, Math.round(scope.deps.now() - scope.startedMs));
}
