import type { CacheEntry } from "../shared/cache-entry.ts";
import { renderCacheStatus, type CacheStatus } from "../shared/cache-status.ts";
import { errorBody, type PixelLLMError } from "../shared/errors.ts";
import { newCaptionId } from "../shared/ids.ts";
import type { Caption, SidecarCaption, StageTimings } from "../shared/wire.ts";
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
  const { caption, route, model, tags, image, usage, timings_ms: timings } = live;
  return assemble(scope, {
    caption,
    source: "lm_studio",
    degraded: false,
    route,
    model,
    tags,
    image,
    attempts,
    cause: null,
    usage,
    timings,
  });
}

/** A fresh stored caption: as good as a live one, and nothing was asked. */
export function storedCaption(scope: Scope, { caption, tags, image, model, route }: CacheEntry): Caption {
  return assemble(scope, {
    caption,
    source: "cache",
    degraded: false,
    route,
    model,
    tags,
    image,
    attempts: 0,
    cause: null,
    usage: noUsage,
    timings: noTime,
  });
}

/** What a rung answered with, and the failure that made it so. */
export function degradedCaption(
  scope: Scope,
  { image: { format, width, height }, hash }: { image: CallerImage; hash: string },
  { source, caption, tags, image, timings, stored }: LadderAnswer,
  cause: PixelLLMError,
  attempts: number,
): Caption {
  return assemble(scope, {
    caption,
    source,
    degraded: true,
    route: stored?.route ?? null,
    model: stored?.model ?? null,
    tags,
    image: image ?? { format, width, height, sha256: hash },
    attempts,
    cause: errorBody(cause, scope.requestId),
    usage: noUsage,
    timings,
  });
}

type Words = Omit<Caption, "id" | "object" | "created" | "timings_ms"> & { timings: StageTimings };

/** The contract's object, its keys in the contract's order. */
function assemble(scope: Scope, { timings, ...words }: Words): Caption {
  scope.facts.source = words.source;
  return {
    id: newCaptionId(scope.deps.random),
    object: "caption",
    created: Math.floor(scope.deps.now() / 1000),
    ...words,
    timings_ms: { ...timings, total: Math.max(0, Math.round(scope.deps.now() - scope.startedMs)) },
  };
}
