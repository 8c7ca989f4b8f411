import { errorBody, PixelLLMError } from "../shared/errors.ts";
import { entersLadder, ladderReserveMs } from "../shared/fallback.ts";
import { newCaptionId } from "../shared/ids.ts";
import {
  parseCaptionOptions,
  sidecarCaptionSchema,
  sidecarEmbeddingSchema,
  type Caption,
  type CaptionOptions,
  type SidecarCaption,
  type SidecarFailure,
} from "../shared/wire.ts";
import { errorAnswer, jsonAnswer } from "./answers.ts";
import { authenticate } from "./authentication.ts";
import { readCallerHead, type CallerImage, type JsonReading } from "./caller-image.ts";
import { sha256 } from "./crypto.ts";
import { claimBody } from "./claimed-body.ts";
import { climb, type Seen } from "./ladder.ts";
import type { Scope } from "./scope.ts";
import { createImageCall, type ImageCall } from "./image-call.ts";

/** JSON of this route: one picture under `image`, everything else an option. */
const json: JsonReading = {
  takeImages: (body) => {
    const { image } = body;
    delete body["image"];
    if (image === undefined) throw new PixelLLMError("ERR_VAL_MISSING_FIELD", { param: "image" });
    if (image === null || image === "") throw new PixelLLMError("ERR_VAL_EMPTY_INPUT", { param: "image" });
    if (typeof image !== "string") {
      throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: "image", hint: "A data URI or base64 text." });
    }
    return [{ param: "image", text: image }];
  },
};

/** `POST /v1/captions`: check, ask the box once, else climb the ladder. */
export async function answerCaption(request: Request, scope: Scope): Promise<Response> {
  const head = readCallerHead(request, scope.config);
  parseCaptionOptions(head.options);
  const tenant = await authenticate(request, scope.config, scope.log);
  const { body, release } = await claimBody(request, head, scope, json);
  try {
    const [image] = body.images;
    if (image === undefined) throw new Error("a body without a picture was accepted");
    const options = parseCaptionOptions(body.options);
    // Nothing is stored yet: who wants only what is stored (RFC 9111) has the answer already.
    if (/\bonly-if-cached\b/i.test(request.headers.get("cache-control") ?? ""))
      throw new PixelLLMError("ERR_CACHE_MISS");
    const hash = await sha256(image.bytes);
    const reserveMs = ladderReserveMs(scope.config.timeout_seconds * 1000);
    const call = createImageCall(scope, { image, sha256: hash, tenant, reserveMs });
    return await ask(scope, { image, hash, options, call });
  } finally {
    release();
  }
}

type Asked = { image: CallerImage; hash: string; options: CaptionOptions; call: ImageCall };

async function ask(scope: Scope, asked: Asked): Promise<Response> {
  const { options, call } = asked;
  const outcome = await call("/v1/caption", readQuery(options));
  if (outcome.ok) {
    const live = sidecarCaptionSchema.safeParse(outcome.body);
    if (live.success) return jsonAnswer(liveCaption(scope, live.data));
    const error = new PixelLLMError("ERR_API_INVALID_RESPONSE", { detail: live.error.message, cause: live.error });
    return fallBack(scope, asked, error, null);
  }
  return fallBack(scope, asked, outcome.error, outcome.failure);
}

async function fallBack(
  scope: Scope,
  asked: Asked,
  cause: PixelLLMError,
  failure: SidecarFailure | null,
): Promise<Response> {
  const { config, requestId, log } = scope;
  if (cause.severity !== "LOW") log("WARNING", "caption failed", { exception: cause });
  if (scope.caller.aborted || !entersLadder(cause.code)) return errorAnswer(cause, requestId);
  const answer = await climb({
    chain: asked.options.fallback ?? config.fallback_chain,
    cause,
    seen: failure === null ? null : readSeen(failure),
    look: async () => (failure === null ? null : look(asked.call)),
    defaultCaption: config.fallback_default_value,
    log,
  });
  if (answer === null) return errorAnswer(cause, requestId);
  scope.facts.source = answer.source;
  const { format, width, height } = asked.image;
  const caption: Caption = {
    id: newCaptionId(scope.deps.random),
    object: "caption",
    created: Math.floor(scope.deps.now() / 1000),
    caption: answer.caption,
    source: answer.source,
    degraded: true,
    route: null,
    model: null,
    tags: answer.tags,
    image: answer.image ?? { format, width, height, sha256: asked.hash },
    attempts: 1,
    cause: errorBody(cause, requestId),
    usage: { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 },
    timings_ms: { ...answer.timings, total: elapsedMs(scope) },
  };
  return jsonAnswer(caption);
}

/** Evidence alone, from the encoder: LM Studio is not asked. */
async function look(call: ImageCall): Promise<Seen | null> {
  const outcome = await call("/v1/embed", {});
  const seen = outcome.ok ? sidecarEmbeddingSchema.safeParse(outcome.body) : null;
  if (seen?.success !== true) return null;
  return { evidence: seen.data.evidence, image: seen.data.image, timings: seen.data.timings_ms };
}

function readSeen({ evidence, image, timings_ms: timings }: SidecarFailure): Seen {
  return { evidence, image, timings };
}

function liveCaption(scope: Scope, live: SidecarCaption): Caption {
  scope.facts.source = "lm_studio";
  return {
    id: newCaptionId(scope.deps.random),
    object: "caption",
    created: Math.floor(scope.deps.now() / 1000),
    caption: live.caption,
    source: "lm_studio",
    degraded: false,
    route: live.route,
    model: live.model,
    tags: live.tags,
    image: live.image,
    attempts: 1,
    cause: null,
    usage: live.usage,
    timings_ms: { ...live.timings_ms, total: elapsedMs(scope) },
  };
}

/** What the sidecar acts on, as its query spells it; `fallback` is ours, `0` is a value. */
function readQuery(options: CaptionOptions): Record<string, string> {
  const query: Record<string, string> = {};
  for (const name of ["prompt", "model", "max_tokens", "temperature", "top_p", "seed"] as const) {
    const value = options[name];
    if (value !== undefined) query[name] = String(value);
  }
  return query;
}

function elapsedMs(scope: Scope): number {
  return Math.max(0, Math.round(scope.deps.now() - scope.startedMs));
}
