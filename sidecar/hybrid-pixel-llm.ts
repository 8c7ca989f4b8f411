import { randomBytes } from "node:crypto";
import { runAttempts, type Attempted, type RetryEvent } from "../shared/attempt-loop.ts";
import type { BreakerEvent, Token } from "../shared/breaker-state.ts";
import type { BreakerView } from "../shared/breaker-view.ts";
import { mayStore } from "../shared/cache-entry.ts";
import { showConfig, type Config } from "../shared/config.ts";
import { errorBody, isPixelLLMError, PixelLLMError, toPixelLLMError, type ErrorCode } from "../shared/errors.ts";
import { entersLadder, ladderReserveMs } from "../shared/fallback.ts";
import { newCaptionId, readRequestId } from "../shared/ids.ts";
import type { Logger } from "../shared/log.ts";
import { createLru } from "../shared/lru.ts";
import { deposit, freshRetryBudget, takeToken } from "../shared/retry-budget.ts";
import { readRetryLimits, smoothAttemptMs } from "../shared/retry.ts";
import { startSleep } from "../shared/sleep.ts";
import {
  fromErrorBody,
  type Caption,
  type CaptionOptions,
  type SidecarCaption,
  type SidecarEmbedding,
  type SidecarFailure,
} from "../shared/wire.ts";
import type { EngineCall } from "./bounded-work.ts";
import type { Engine } from "./engine.ts";
import {
  keyOf,
  libraryTenant as tenant,
  readOptions,
  readSettings,
  type GenerateOptions,
  type HybridConfig,
  type HybridSettings,
} from "./hybrid-options.ts";
import { createLocalBreaker } from "./local-breaker.ts";
import { climbLocally, type DescribePicture, type KeptCaption, type LocalSeen } from "./local-ladder.ts";
import { openLogSink } from "./log.ts";
import { readPicture, type PictureSource, type SourcePicture } from "./picture-source.ts";
import { openEngine } from "./sidecar.ts";
import type { Random } from "../shared/random.ts";

/** What an instance stands on beside its configuration; everything left out is the real thing. */
export type HybridParts = {
  /** Gives the logger of a component; by default lines go to standard output, and to `log_file`. */
  logger?: (component: string) => Logger;
  /** Makes the words of rung `describe` in place of our own. */
  describe?: DescribePicture;
  /** Opens the engine; called once, when it is first needed. */
  openEngine?: typeof openEngine;
  /** Monotonic ms. */
  now?: () => number;
  /** Unix ms. */
  wallNow?: () => number;
  random?: Random;
};

/** One picture's result in a batch. */
export type BatchItem = { ok: true; caption: Caption } | { ok: false; error: PixelLLMError };

/** The guide's counters of one instance. */
export type ErrorMetrics = {
  total_requests: number;
  /** Live captions only: what stands in for one is counted by `fallback_answers`. */
  successful_requests: number;
  fallback_answers: number;
  /** Share of live captions, 0 to 1; 0 before the first request. */
  success_rate: number;
  /** Failed attempts, and requests refused before one, by code. */
  error_counts: Partial<Record<ErrorCode, number>>;
  circuit_breaker_state: BreakerView["state"];
};

/** The box's half as a library: captions with retries, a circuit breaker and fallbacks, without HTTP and the edge. */
export type HybridPixelLLM = AsyncDisposable & {
  /** The configuration in force. */
  readonly config: Config;
  /** The breaker in front of LM Studio. */
  readonly circuitBreaker: { readonly name: "lm_studio_api"; view(): BreakerView; reset(): void };
  /** Facts of the encoder that gives the vectors: provider requested and active, input, dimensions, fingerprint. */
  readonly encoder: { info(): Promise<Readonly<Record<string, unknown>>> };
  /** Starts the encoder; every other call does so by itself. `ERR_ENC_LOAD_FAILED` when it cannot run. */
  start(): Promise<void>;
  /** One caption, live or standing in; throws an error of ours, or the signal's reason. */
  generate(image: PictureSource | null, options?: GenerateOptions): Promise<Caption>;
  /** Captions in the order of the pictures, at most `concurrency` (1 to 64) at once; a failure takes only its own place. */
  generateBatch(
    images: readonly (PictureSource | null)[],
    options?: GenerateOptions & { concurrency?: number },
  ): Promise<BatchItem[]>;
  /** A picture's unit vector and evidence; LM Studio is not asked. */
  encode(image: PictureSource | null, options?: { signal?: AbortSignal }): Promise<SidecarEmbedding>;
  getErrorMetrics(): ErrorMetrics;
  resetMetrics(): void;
  /** Forgets the captions kept for failures. */
  clearCache(): void;
  /** Ends encoder and calls under way; later calls are refused. */
  close(): Promise<void>;
};

/** Ways to an instance; the configuration is checked, every problem told at once, before anything is opened. */
export const HybridPixelLLM = {
  create: async (config: HybridConfig = {}, parts: HybridParts = {}): Promise<HybridPixelLLM> =>
    createInstance(readSettings(config), parts),
  fromDefaultConfig: async (parts: HybridParts = {}): Promise<HybridPixelLLM> =>
    createInstance(readSettings({}), parts),
};

/** One caption with an instance of its own, which is always closed. */
export async function quickCaption(
  image: PictureSource | null,
  config: HybridConfig = {},
  parts: HybridParts = {},
): Promise<Caption> {
  await using hybrid = await HybridPixelLLM.create(config, parts);
  return await hybrid.generate(image);
}

const highestConcurrency = 64;

function createInstance({ config, profile, warnings }: HybridSettings, parts: HybridParts): HybridPixelLLM {
  const { now = () => performance.now(), wallNow = Date.now, random = Math.random } = parts;
  const sink =
    parts.logger === undefined
      ? openLogSink({ name: "pixel_llm", level: config.log_level, file: config.log_file, now: wallNow })
      : null;
  const loggerOf = parts.logger ?? ((component: string) => (sink ?? missingSink()).logger(component));
  const logger = loggerOf("sidecar.library");
  for (const warning of warnings) logger.warning(warning);
  logger.info("Pixel LLM initialized", { extra: showConfig(profile, config) });

  const longestMs = config.timeout_seconds * 1000;
  const reserveMs = ladderReserveMs(longestMs);
  const observerFailed = (exception: unknown): void => logger.error("observer failed", { exception });
  const breaker = createLocalBreaker({ config, now, random, observe: tellChange, observerFailed });
  const keptMs = 1000 * Math.max(config.fallback_cache_ttl, config.fallback_cache_stale_seconds);
  const kept = createLru<KeptCaption>({
    maxEntries: config.fallback_cache_enabled ? config.fallback_cache_max_size : 0,
    ttlMs: keptMs,
    copy: structuredClone,
  });
  let budget = freshRetryBudget(now());
  let smoothedMs: number | null = null;
  let counts = noCounts();
  let opening: Promise<Engine> | null = null;
  let closed = false;

  function tellChange(event: BreakerEvent): void {
    if (event.kind === "transition") logger.warning("circuit breaker changed", { extra: { ...event } });
  }

  const tellAttempt = (event: RetryEvent): void => {
    if (event.type === "attempt" && event.error !== null) {
      countError(event.error.code);
      logger.warning("attempt failed", { exception: event.error, extra: { attempt: event.attempt } });
    }
  };

  const countError = (code: ErrorCode): void => {
    counts.errors[code] = (counts.errors[code] ?? 0) + 1;
  };

  const engine = (): Promise<Engine> => {
    if (closed) throw new PixelLLMError("ERR_API_OVERLOAD", { hint: "This instance is closed." });
    const open = parts.openEngine ?? openEngine;
    opening ??= open({ config, profile, logger: loggerOf, now, wallNow }).catch((thrown: unknown) => {
      // The next call tries again: what was missing may be there by then.
      opening = null;
      throw thrown;
    });
    return opening;
  };

  const read = (image: PictureSource | null): Promise<SourcePicture> =>
    readPicture(image, { maxBytes: config.max_image_bytes, maxPixels: config.max_image_pixels });

  const generate = async (image: PictureSource | null, wishes: GenerateOptions): Promise<Caption> => {
    const startedAt = now();
    const signal = wishes.signal ?? new AbortController().signal;
    const requestId = readRequestId(null, randomBytes);
    counts.total += 1;
    let question: Question;
    let working: Engine;
    try {
      signal.throwIfAborted();
      const options = readOptions(wishes);
      const picture = await read(image);
      working = await engine();
      question = { picture, options, requestId, signal, key: keyOf(picture.sha256, options, config) };
    } catch (thrown) {
      if (isPixelLLMError(thrown)) countError(thrown.code);
      throw thrown;
    }
    return answer(working, question, startedAt);
  };

  const answer = async (working: Engine, question: Question, startedAt: number): Promise<Caption> => {
    const { picture, options, requestId, signal, key } = question;
    const leftMs = (): number => Math.max(0, longestMs - (now() - startedAt));
    const callOf = (limitMs: number): EngineCall => {
      const { bytes, format, sha256 } = picture;
      return { bytes, format, sha256, remainingMs: limitMs, signal, requestId, tenant };
    };

    const attempt = async (_: number, token: Token): Promise<Attempted<SidecarCaption, SidecarFailure>> => {
      const limitMs = Math.min(leftMs() - reserveMs, breaker.limitMs(token) ?? Infinity);
      const { status, body } = await working.caption(callOf(limitMs), options);
      if (!isFailure(body)) return { ok: true, value: body, collapsed: body.collapsed };
      const error = fromErrorBody(body.error, status);
      const lmStudioMs = Number(error.details["lm_studio_ms"] ?? 0);
      return { ok: false, error, failure: body, fromSidecar: true, lmStudioMs };
    };

    const result = await runAttempts(breaker, attempt, readRetryLimits(config), {
      now,
      random,
      sleep: (ms) => sleepFor(ms, now, signal),
      callerGone: () => signal.aborted,
      remainingMs: () => Math.max(0, leftMs() - reserveMs),
      takeToken() {
        const step = takeToken(budget, now());
        budget = step.next;
        return step.taken;
      },
      deposit() {
        budget = deposit(budget, now()).next;
      },
      smooth: (elapsedMs) => (smoothedMs = smoothAttemptMs(smoothedMs, elapsedMs)),
      observe: tellAttempt,
      observerFailed,
    });
    const { attempts } = result;
    const base = {
      id: newCaptionId(randomBytes),
      object: "caption" as const,
      created: Math.floor(wallNow() / 1000),
      attempts,
    };
    const total = (): number => Math.max(0, Math.round(now() - startedAt));

    if (result.ok) {
      const { caption, route, model, tags, image, usage, timings_ms: timings } = result.value;
      counts.live += 1;
      if (mayStore({ ...result.value, source: "lm_studio" }, false)) {
        kept.put(key, { caption, tags, image, model, route }, now());
      }
      const timed = { ...timings, total: total() };
      const live = { source: "lm_studio", degraded: false, cause: null } as const;
      return { ...base, ...live, caption, route, model, tags, image, usage, timings_ms: timed };
    }

    if (result.cancelled) throw signal.reason;
    const { error: cause, failure } = result;
    if (result.refused) countError(cause.code);
    logger.warning("caption failed", { exception: cause, extra: { attempts } });
    if (!entersLadder(cause.code)) throw cause;
    const stand = await climbLocally({
      chain: options.fallback ?? config.fallback_chain,
      cause,
      seen: failure === null ? null : seenOf(failure),
      recall: () => kept.get(key, now()),
      look: async () => {
        const { body } = await working.embed(callOf(leftMs()));
        return isFailure(body) ? null : seenOf(body);
      },
      describe: parts.describe ?? null,
      defaultCaption: config.fallback_default_value,
      rungFailed: (rung, exception) => logger.warning("fallback rung failed", { exception, extra: { rung } }),
    });
    signal.throwIfAborted();
    if (stand === null) throw cause;
    counts.standIns += 1;
    const { format, width, height, sha256 } = picture;
    const { timings, ...words } = stand;
    return {
      ...base,
      ...words,
      degraded: true,
      image: stand.image ?? { format, width, height, sha256 },
      cause: errorBody(cause, requestId),
      usage: { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 },
      timings_ms: { ...timings, total: total() },
    };
  };

  const closeAll = async (): Promise<void> => {
    closed = true;
    // An engine that never opened has nothing to close, and has told whoever waited for it.
    const open = await opening?.catch(() => null);
    await open?.close();
    sink?.flush();
  };
  let closing: Promise<void> | null = null;
  const close = (): Promise<void> => (closing ??= closeAll());

  return {
    config,
    circuitBreaker: { name: "lm_studio_api", view: () => breaker.view(), reset: () => breaker.reset() },
    encoder: { info: async () => (await (await engine()).info()).encoder },
    start: async () => void (await engine()),
    generate: (image, options = {}) => generate(image, options),

    async generateBatch(images, { concurrency = 4, ...options } = {}) {
      if (!Number.isInteger(concurrency) || concurrency < 1 || concurrency > highestConcurrency) {
        const hint = `\`concurrency\`: a whole number from 1 to ${highestConcurrency}.`;
        throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: "concurrency", hint });
      }
      readOptions(options);
      const items: BatchItem[] = [];
      const waiting = images.entries();
      const work = async (): Promise<void> => {
        for (const [at, image] of waiting) {
          try {
            items[at] = { ok: true, caption: await generate(image, options) };
          } catch (thrown) {
            options.signal?.throwIfAborted();
            items[at] = { ok: false, error: toPixelLLMError(thrown) };
          }
        }
      };
      await Promise.all(Array.from({ length: Math.min(concurrency, images.length) }, work));
      return items;
    },

    async encode(image, { signal = new AbortController().signal } = {}) {
      signal.throwIfAborted();
      const { bytes, format, sha256 } = await read(image);
      const requestId = readRequestId(null, randomBytes);
      const call = { bytes, format, sha256, remainingMs: longestMs, signal, requestId, tenant };
      const { status, body } = await (await engine()).embed(call);
      signal.throwIfAborted();
      if (isFailure(body)) throw fromErrorBody(body.error, status);
      return body;
    },

    getErrorMetrics: () => ({
      total_requests: counts.total,
      successful_requests: counts.live,
      fallback_answers: counts.standIns,
      success_rate: counts.total === 0 ? 0 : counts.live / counts.total,
      error_counts: { ...counts.errors },
      circuit_breaker_state: breaker.view().state,
    }),
    resetMetrics() {
      counts = noCounts();
    },
    clearCache: () => kept.clear(),
    close,
    [Symbol.asyncDispose]: close,
  };
}

type Counts = { total: number; live: number; standIns: number; errors: Partial<Record<ErrorCode, number>> };

type Question = {
  picture: SourcePicture;
  options: CaptionOptions;
  requestId: string;
  signal: AbortSignal;
  key: string;
};

function seenOf({ evidence, image, timings_ms: timings }: SidecarFailure | SidecarEmbedding): LocalSeen {
  return { evidence, image, timings };
}

function isFailure(body: object): body is SidecarFailure {
  return "error" in body;
}

async function sleepFor(ms: number, now: () => number, signal: AbortSignal): Promise<void> {
  const { done, cancel } = startSleep(ms, {
    now,
    startTimer(length, elapsed) {
      const timer = setTimeout(elapsed, length);
      return () => clearTimeout(timer);
    },
  });
  if (signal.aborted) cancel();
  signal.addEventListener("abort", cancel, { once: true });
  await done;
  signal.removeEventListener("abort", cancel);
}

function noCounts(): Counts {
  return { total: 0, live: 0, standIns: 0, errors: {} };
}

function missingSink(): never {
  throw new Error("neither a logger nor a sink");
}
