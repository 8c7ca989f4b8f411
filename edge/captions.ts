import { mayServe, mayStandIn, readCacheControl, type CacheControl } from "../shared/cache-control.ts";
import type { CacheQuestion, CacheWishes } from "../shared/cache-key.ts";
import type { CacheStatus, Forwarded } from "../shared/cache-status.ts";
import type { Config } from "../shared/config.ts";
import { PixelLLMError } from "../shared/errors.ts";
import { entersLadder, ladderReserveMs } from "../shared/fallback.ts";
import {
  parseCaptionOptions,
  settleGeneration,
  sidecarCaptionSchema,
  sidecarEmbeddingSchema,
  type CaptionOptions,
  type SidecarCaption,
} from "../shared/wire.ts";
import { errorAnswer } from "./answers.ts";
import { askBox, cancelledAnswer, type BoxFailure } from "./attempts.ts";
import { authenticate } from "./authentication.ts";
import type { Found, FoundEntry } from "./caption-cache.ts";
import { readCallerHead, type CallerImage, type JsonReading } from "./caller-image.ts";
import { captionAnswer, degradedCaption, liveCaption, storedCaption } from "./caption-answers.ts";
import { claimBody } from "./claimed-body.ts";
import { sha256 } from "./crypto.ts";
import { probeLimitMs } from "./gate.ts";
import { createImageCall, type ImageCall } from "./image-call.ts";
import { climb, type StandIn } from "./ladder.ts";
import type { Scope } from "./scope.ts";
import { readEvidenceAnswer, type Seen } from "./seen.ts";

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

/** One caption to make: what was asked, and how the box is asked for it. */
type Asking = {
  image: CallerImage;
  hash: string;
  options: CaptionOptions;
  control: CacheControl;
  question: CacheQuestion;
  call: ImageCall;
};

/** `POST /v1/captions`: a fresh stored caption, else the box's, else what the fallback chain has, else the error. */
export async function answerCaption(request: Request, scope: Scope): Promise<Response> {
  const { config } = scope;
  const head = readCallerHead(request, config);
  parseCaptionOptions(head.options);
  const control = readCacheControl(request.headers.get("cache-control"));
  const tenant = await authenticate(request, config, scope.log);
  const { body, release } = await claimBody(request, head, scope, json);
  try {
    const [image] = body.images;
    if (image === undefined) throw new Error("a body without a picture was accepted");
    const options = parseCaptionOptions(body.options);
    const hash = await sha256(image.bytes);
    const question: CacheQuestion = { tenant, sha256: hash, wishes: readWishes(options, config) };
    const call = createImageCall(scope, { image, sha256: hash, tenant });
    return await answer(scope, { image, hash, options, control, question, call });
  } finally {
    release();
  }
}

async function answer(scope: Scope, asking: Asking): Promise<Response> {
  const { control } = asking;
  const found = await lookUp(scope, asking);
  if (found.state === "fresh" && mayServe(control, found.ageSeconds)) {
    const status: CacheStatus = { kind: "hit", ttlSeconds: found.ttlSeconds };
    return captionAnswer(storedCaption(scope, found.entry), status, found.ageSeconds);
  }
  if (control.onlyIfCached) throw new PixelLLMError("ERR_CACHE_MISS");

  const reserveMs = ladderReserveMs(scope.config.timeout_seconds * 1000);
  const { call } = asking;
  const box = { call, path: "/v1/caption", query: readQuery(asking), schema: sidecarCaptionSchema };
  const asked = await askBox(scope, { ...box, gate: scope.gates.caption, reserveMs });
  if (!asked.ok) return fallBack(scope, asking, asked);

  const live = asked.value;
  scope.lastModel.set(asking.question.wishes.model, live.model);
  const stored = keep(scope, asking, live);
  const forwarded = whyForwarded(scope, asking, found);
  const status: CacheStatus = { kind: "forward", fwd: forwarded, stored, collapsed: live.collapsed };
  return captionAnswer(liveCaption(scope, live, asked.attempts), status, null);
}

/** What is stored for the question; a request that forbids the look is not looked up. */
async function lookUp(scope: Scope, { control, question }: Asking): Promise<Found> {
  if (control.noStore || control.noCache) {
    scope.cache.bypass();
    return { state: "miss" };
  }
  const lastModel = scope.lastModel.get(question.wishes.model);
  return scope.cache.find(question, { allowStale: false, lastModel });
}

function whyForwarded({ cache }: Scope, { control }: Asking, found: Found): Forwarded {
  if (control.noStore || !cache.on) return "bypass";
  if (control.noCache || found.state === "fresh") return "request";
  return found.state === "stale" ? "stale" : "miss";
}

/** Keeps a live answer, without making its caller wait; false = it will not be kept. */
function keep(scope: Scope, { question, control }: Asking, live: SidecarCaption): boolean {
  const kept = { ...live, source: "lm_studio" } as const;
  if (!scope.cache.keeps(question, kept, control.noStore)) return false;
  scope.waitUntil(scope.cache.keep(question, kept, live.vector, control.noStore));
  return true;
}

async function fallBack(scope: Scope, asking: Asking, failed: BoxFailure): Promise<Response> {
  const { config, requestId, log } = scope;
  const { error: cause, attempts, repeat } = failed;
  if (failed.cancelled) return cancelledAnswer(scope, failed);
  if (cause.severity !== "LOW") log("WARNING", "caption failed", { exception: cause, extra: { attempts } });
  // A bug of ours is no failure of the box.
  const ours = cause.code === "ERR_INTERNAL" && !failed.reachable;
  if (ours || !entersLadder(cause.code)) return errorAnswer(cause, requestId, { repeat });

  const chain = asking.options.fallback ?? config.fallback_chain;
  const answered = await climb({
    chain,
    seen: failed.seen,
    look: async () => (failed.reachable ? look(scope, asking) : null),
    recall: () => recall(scope, asking),
    recallSimilar: async (vector) => {
      if (!mayLook(asking, "similar")) return null;
      const found = await scope.cache.similarTo(asking.question, vector);
      return found.state === "similar" ? standIn(asking, "similar", found) : null;
    },
    defaultCaption: config.fallback_default_value,
    log,
  });
  if (answered === null) return errorAnswer(cause, requestId, { repeat });

  const { stored } = answered;
  const ttl = stored === null ? {} : { ttlSeconds: stored.ttlSeconds };
  // Nothing was sent on where a breaker refused at once: the stored answer is then a hit, if an old one.
  const status: CacheStatus =
    stored !== null && answered.source === "cache" && attempts === 0
      ? { kind: "hit", ttlSeconds: stored.ttlSeconds, detail: cause.code }
      : {
          kind: "forward",
          // A fresh one that was not to be read, or that another isolate has kept meanwhile, is not stale.
          fwd: answered.source !== "cache" ? "miss" : (stored?.ttlSeconds ?? 0) < 0 ? "stale" : "request",
          fwdStatus: cause.status,
          detail: cause.code,
          ...(answered.source === "cache" ? ttl : {}),
        };
  return captionAnswer(degradedCaption(scope, asking, answered, cause, attempts), status, stored?.ageSeconds ?? null);
}

/** Evidence alone, from the encoder: one call through the sidecar's breaker, LM Studio is not asked. */
async function look(scope: Scope, { call }: Asking): Promise<Seen | null> {
  const gate = scope.gates.evidence;
  const admission = await gate.admit();
  if (!admission.admitted) return null;
  const startedAt = scope.now();
  const outcome = await call("/v1/embed", {}, { reserveMs: 0, limitMs: probeLimitMs(admission.permit, scope.config) });
  const callerGone = scope.caller.aborted;
  gate.settle(
    admission.permit,
    outcome.ok
      ? { ok: true, elapsedMs: scope.now() - startedAt, collapsed: false }
      : {
          ok: false,
          code: outcome.error.code,
          details: outcome.error.details,
          fromSidecar: outcome.failure !== null,
          callerGone,
          lmStudioMs: 0,
        },
  );
  const seen = outcome.ok ? sidecarEmbeddingSchema.safeParse(outcome.body) : null;
  return seen?.success === true ? readEvidenceAnswer(seen.data) : null;
}

async function recall(scope: Scope, asking: Asking): Promise<StandIn | null> {
  if (!mayLook(asking, "cache")) return null;
  const found = await scope.cache.find(asking.question, { allowStale: true, lastModel: null });
  return found.state === "fresh" || found.state === "stale" ? standIn(asking, "cache", found) : null;
}

/** Whether a store may be asked at all; what it then gives may still be too old. */
function mayLook({ control, options }: Asking, rung: "cache" | "similar"): boolean {
  return mayStandIn(control, options.fallback?.includes(rung) === true, 0);
}

function standIn({ control, options }: Asking, rung: "cache" | "similar", found: FoundEntry): StandIn | null {
  const { entry, ageSeconds, ttlSeconds } = found;
  if (!mayStandIn(control, options.fallback?.includes(rung) === true, ageSeconds)) return null;
  const { caption, tags, image, model, route } = entry;
  return { caption, tags, image, model, route, ageSeconds, ttlSeconds };
}

/** What was asked for, settled: a caller who says nothing asks for the configured values. */
function readWishes(options: CaptionOptions, config: Config): CacheWishes {
  const { maxTokens, temperature, topP, seed } = settleGeneration(options, config);
  // Absent is the configured model, `auto` whatever is loaded: two questions, even where they have one answer.
  return {
    model: options.model ?? null,
    prompt: options.prompt ?? null,
    max_tokens: maxTokens,
    temperature,
    top_p: topP,
    seed,
  };
}

/** What the sidecar acts on, as its query spells it; `fallback` is ours, `0` is a value. */
function readQuery({ options, control }: Asking): Record<string, string> {
  const query: Record<string, string> = {};
  for (const name of ["prompt", "model", "max_tokens", "temperature", "top_p", "seed"] as const) {
    const value = options[name];
    if (value !== undefined) query[name] = String(value);
  }
  // Who wants nothing kept shares no answer either.
  if (control.noStore) query["no_store"] = "true";
  return query;
}
