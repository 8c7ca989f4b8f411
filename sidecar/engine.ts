import { createHash } from "node:crypto";
import { drainingRetryMs } from "../shared/admission.ts";
import { rewriteMessages, type ChatRequest } from "../shared/chat.ts";
import type { Config } from "../shared/config.ts";
import { toPixelLLMError } from "../shared/errors.ts";
import type { Logger } from "../shared/log.ts";
import {
  settleGeneration,
  type CaptionOptions,
  type ImageFormat,
  type SidecarCaption,
  type SidecarEmbedding,
  type SidecarInfo,
  type SidecarReadiness,
} from "../shared/wire.ts";
import { refusalError, type Admission, type AdmissionView } from "./admission.ts";
import { createBounds, report, type EngineCall, type Outcome } from "./bounded-work.ts";
import { createCoalescing } from "./coalescing.ts";
import { restartReasons, type Encoder, type RestartReason } from "./encoder.ts";
import type { DecodedImage, DecodeRequest } from "./image.ts";
import { jpegDataUri, type Asker, type LmStudio } from "./lm-studio/client.ts";
import type { Completion } from "./lm-studio/completion.ts";
import type { Metrics } from "./metrics.ts";
import { createQuarantine } from "./quarantine.ts";
import { createEye, elapsed, floorOf, vectorIdOf, type Sight } from "./sight.ts";
import type { WorkTime } from "./work-time.ts";

/** A checked chat and the time it may take; `image` is the picture in it. */
export type EngineChat = {
  request: ChatRequest;
  image: { bytes: Uint8Array; format: ImageFormat } | null;
  remainingMs: number;
  signal: AbortSignal;
  tenant?: string | undefined;
  onText: (text: string) => void;
};

/** What the engine is built over. */
export type EngineParts = {
  config: Config;
  profile: string;
  version: string;
  decode: (bytes: Uint8Array, request: DecodeRequest) => Promise<DecodedImage>;
  /** The encoder that ships with the project: evidence comes from it alone. */
  embedded: Encoder;
  /** The owner's encoder; null = the embedded one gives the vectors too. */
  checkpoint: Encoder | null;
  /** The door, and the line in which `lmStudio` lets calls wait. */
  admission: Admission;
  lmStudio: LmStudio;
  logger: Logger;
  metrics: Metrics;
  /** Monotonic milliseconds. */
  now: () => number;
};

/** What can be counted of an engine. */
export type EngineFigures = AdmissionView & {
  /** Callers who wait for an answer now, those of shared work among them. */
  callers: number;
  /** Calls that were given another's answer, so far. */
  coalesced: number;
  /** Pictures put away now. */
  quarantined: number;
  encoder_restarts: Record<RestartReason, number>;
};

/** Bytes to evidence to caption, bounded by `max_queue` pieces of work inside. */
export type Engine = {
  caption(call: EngineCall, options: CaptionOptions): Promise<Outcome<SidecarCaption>>;
  embed(call: EngineCall): Promise<Outcome<SidecarEmbedding>>;
  /** Passes a chat on to LM Studio; a picture in it is decoded and sent as a fresh JPEG. Throws errors of ours. */
  chat(call: EngineChat): Promise<Completion & { model: string }>;
  readiness(): Promise<SidecarReadiness>;
  encoderReady(): boolean;
  figures(): EngineFigures;
  info(): Promise<SidecarInfo & { queue: EngineFigures }>;
  /** Not ready from now on, new work is refused, and so is what waits and could not be done in time. */
  drain(): void;
  /** Resolves once nobody waits for an answer. */
  idle(): Promise<void>;
  /** Ends encoders and calls under way. */
  close(): Promise<void>;
};

type Chatted = Completion & { model: string };
type Settled<T> = { ok: true; value: T } | { ok: false; error: unknown };

/** Builds the engine; it owns the parts it was given and closes them. */
export function createEngine(parts: EngineParts): Engine {
  const { config, embedded, checkpoint, admission, lmStudio, logger, now } = parts;
  const vectors = checkpoint ?? embedded;
  const longestMs = config.timeout_seconds * 1000;
  const quarantine = createQuarantine(now);
  const eye = createEye({ decode: parts.decode, embedded, checkpoint, quarantine, now });
  const bounds = createBounds({ longestMs, admission, quarantine, eye, metrics: parts.metrics, logger });
  const captions = createCoalescing<Sight, Outcome<SidecarCaption>>(config.max_queue, now);
  const embeddings = createCoalescing<Sight, Outcome<SidecarEmbedding>>(0, now);
  const chats = createCoalescing<null, Settled<Chatted>>(0, now);
  const idlers = new Set<() => void>();
  let busy = 0;

  const counted = async <T>(work: () => Promise<T>): Promise<T> => {
    busy += 1;
    try {
      return await work();
    } finally {
      busy -= 1;
      if (busy === 0) for (const idler of idlers) idler();
    }
  };

  const askerOf = (tenant: string, visit: number, time: WorkTime): Asker => ({
    tenant,
    visit,
    endsAt: () => time.endsAt(),
    onExtend: (listener) => time.onExtend(listener),
    enter: (stage) => time.enter(stage),
  });

  const caption = async (
    call: EngineCall,
    options: CaptionOptions,
    time: WorkTime,
    sight: Sight,
    visit: number,
  ): Promise<SidecarCaption> => {
    const wantsJpeg = lmStudio.expectsImage(options.model ?? null);
    const decoded = await eye.decode(call, time, sight, wantsJpeg);
    // A model that sees needs no evidence: waiting for a lost encoder must leave it time to speak.
    const patienceMs = wantsJpeg ? time.remainingMs() / 2 : time.remainingMs();
    const faults = await eye.encode(decoded, call, time, sight, patienceMs);
    for (const fault of new Set([faults.evidence, faults.vector])) {
      if (fault !== null) report(logger, fault, call.requestId);
    }
    const startedAt = now();
    try {
      const words = await lmStudio.caption({
        jpeg: async () => decoded.jpeg ?? (await eye.decodeJpeg(call, time)),
        evidence: sight.evidence,
        prompt: options.prompt ?? null,
        model: options.model ?? null,
        settings: settleGeneration(options, config),
        temperatureGiven: options.temperature !== undefined,
        signal: time.signal,
        asker: askerOf(call.tenant ?? "", visit, time),
      });
      if (sight.image === null) throw new Error("a decoded picture has no size");
      sight.timings.generate = elapsed(startedAt, now());
      return {
        ...words,
        image: sight.image,
        tags: sight.tags,
        evidence: sight.evidence,
        vector: sight.vector,
        collapsed: false,
        timings_ms: sight.timings,
      };
    } catch (thrown) {
      const error = toPixelLLMError(thrown);
      if (error.details["kind"] === "crashed") quarantine.strike("model", call.sha256);
      // For want of evidence a text model could not be asked: why there is none is the truer answer.
      throw error.code === "ERR_ENC_FORWARD_FAILED" ? (faults.evidence ?? thrown) : thrown;
    } finally {
      sight.timings.generate = elapsed(startedAt, now());
    }
  };

  const embed = async (call: EngineCall, time: WorkTime, sight: Sight): Promise<SidecarEmbedding> => {
    const decoded = await eye.decode(call, time, sight, false);
    const faults = await eye.encode(decoded, call, time, sight, time.remainingMs());
    if (faults.vector !== null) throw faults.vector;
    if (sight.image === null || sight.embedding === null) throw new Error("a decoded picture has no size or vector");
    return {
      model: vectorIdOf(vectors),
      dimensions: sight.embedding.length,
      embedding: [...sight.embedding],
      similarity_floor: floorOf(vectors),
      image: sight.image,
      tags: sight.tags,
      evidence: sight.evidence,
      timings_ms: sight.timings,
    };
  };

  const chat = async ({ request, image, tenant = "", onText }: EngineChat, time: WorkTime): Promise<Chatted> => {
    const beforeMs = image === null ? 0 : eye.estimateMs(image);
    const visit = admission.enter({ timeLeftMs: time.remainingMs(), needsPermit: true, beforeMs });
    try {
      const jpeg = image === null ? null : jpegDataUri(await eye.decodeJpeg(image, time));
      const options = { ...request, max_tokens: request.max_tokens ?? request.max_completion_tokens };
      return await lmStudio.chat({
        messages: rewriteMessages(request, jpeg),
        hasImage: jpeg !== null,
        model: request.model ?? null,
        settings: settleGeneration(options, config),
        signal: time.signal,
        asker: askerOf(tenant, visit.id, time),
        onText,
      });
    } finally {
      visit.leave();
    }
  };

  const figures = (): EngineFigures => ({
    ...admission.view(),
    callers: busy,
    coalesced: captions.counts().collapsed,
    quarantined: quarantine.count(),
    encoder_restarts: sumRestarts(checkpoint === null ? [embedded] : [embedded, checkpoint]),
  });

  return {
    encoderReady: () => readEncoders(embedded, checkpoint).status === "ok",
    figures,

    caption: (call, options) =>
      counted(() =>
        bounds.serve(call, captions, {
          key: call.noStore === true ? null : shareKey(call, options),
          victims: ["encoder", "model"],
          needsPermit: true,
          run: (time, sight, visit) => caption(call, options, time, sight, visit),
          asShared: (body) => ({ ...body, collapsed: true }),
        }),
      ),

    embed: (call) =>
      counted(() =>
        bounds.serve(call, embeddings, {
          key: null,
          victims: ["encoder"],
          needsPermit: false,
          run: (time, sight) => embed(call, time, sight),
          asShared: (body) => body,
        }),
      ),

    chat: (call) =>
      counted(async () => {
        const limitMs = Math.min(call.remainingMs, longestMs);
        const sha256 = call.image === null ? null : createHash("sha256").update(call.image.bytes).digest("hex");
        if (sha256 !== null) quarantine.check(sha256, ["model"]);
        admission.turnAway(limitMs);
        const ended = await chats.run(null, { limitMs, signal: call.signal }, (time) => ({
          seen: null,
          done: settle(chat(call, time)),
        }));
        if (ended.by === "caller") throw ended.reason;
        if (ended.value.ok) return ended.value.value;
        const { error } = ended.value;
        if (sha256 !== null && toPixelLLMError(error).details["kind"] === "crashed") quarantine.strike("model", sha256);
        throw error;
      }),

    async readiness() {
      const encoder = readEncoders(embedded, checkpoint);
      const { status, detail, code } = await lmStudio.status();
      return {
        ready: !admission.draining() && encoder.status !== "down",
        dependencies: { encoder, lm_studio: { status, detail, code } },
      };
    },

    async info() {
      return {
        version: parts.version,
        profile: parts.profile,
        encoder: { ...vectors.info(), state: vectors.state() },
        lm_studio: await lmStudio.status(),
        queue: figures(),
      };
    },

    drain: () => admission.drain(),

    idle: () =>
      new Promise((resolve) => {
        const look = (): void => {
          if (busy > 0) return;
          idlers.delete(look);
          resolve();
        };
        idlers.add(look);
        look();
      }),

    async close() {
      admission.drain();
      const reason = refusalError({ reason: "draining", retryAfterMs: drainingRetryMs });
      for (const sharing of [captions, embeddings, chats]) sharing.dismiss(reason);
      await Promise.all([embedded.close(), checkpoint?.close(), lmStudio.close()]);
    },
  };
}

/** What must be equal for two calls to have one answer: tenant, picture, and everything asked of it. */
function shareKey({ tenant = "", sha256 }: EngineCall, options: CaptionOptions): string {
  const asked = Object.entries(options)
    .filter(([, value]) => value !== undefined)
    .sort(([left], [right]) => (left < right ? -1 : 1));
  return JSON.stringify([tenant, sha256, asked]);
}

async function settle<T>(work: Promise<T>): Promise<Settled<T>> {
  try {
    return { ok: true, value: await work };
  } catch (error) {
    return { ok: false, error };
  }
}

function readEncoders(embedded: Encoder, checkpoint: Encoder | null): SidecarReadiness["dependencies"]["encoder"] {
  if (embedded.state() !== "ready") {
    const detail = `encoder ${embedded.info().name} is ${embedded.state()}`;
    return { status: "down", detail, code: "ERR_ENC_LOAD_FAILED" };
  }
  if (checkpoint !== null && checkpoint.state() !== "ready") {
    const why = checkpoint.failure()?.message ?? "its process is started again";
    const detail = `encoder ${checkpoint.info().name} is ${checkpoint.state()}: ${why} Captions go on without it.`;
    return { status: "degraded", detail, code: "ERR_ENC_LOAD_FAILED" };
  }
  const { name, active } = (checkpoint ?? embedded).info();
  return { status: "ok", detail: `encoder ${name} runs on ${active}`, code: null };
}

function sumRestarts(encoders: readonly Encoder[]): Record<RestartReason, number> {
  const sum: Record<RestartReason, number> = { died: 0, hung: 0, run_failed: 0, bad_output: 0 };
  for (const encoder of encoders) {
    const restarts = encoder.restarts();
    for (const reason of restartReasons) sum[reason] += restarts[reason];
  }
  return sum;
}
