import { rewriteMessages, type ChatRequest } from "../shared/chat.ts";
import type { Config } from "../shared/config.ts";
import { describe } from "../shared/describe.ts";
import { errorBody, PixelLLMError, toPixelLLMError } from "../shared/errors.ts";
import { readEvidence, type Evidence, type Tag } from "../shared/evidence.ts";
import type { Logger } from "../shared/log.ts";
import {
  settleGeneration,
  type CaptionOptions,
  type ImageFormat,
  type ImageInfo,
  type SidecarCaption,
  type SidecarEmbedding,
  type SidecarFailure,
  type SidecarInfo,
  type SidecarReadiness,
  type StageTimings,
} from "../shared/wire.ts";
import { openDeadline, type Deadline } from "./deadline.ts";
import type { Encoder } from "./encoder.ts";
import type { DecodedImage, DecodeRequest } from "./image.ts";
import { jpegDataUri, type LmStudio } from "./lm-studio/client.ts";
import { metricStages, type Metrics } from "./metrics.ts";
import type { Completion } from "./lm-studio/completion.ts";

/** A picture whose header was checked, and the time its caller gives us. */
export type EngineCall = {
  bytes: Uint8Array;
  format: ImageFormat;
  /** Lower-case hex of the bytes' sha-256. */
  sha256: string;
  remainingMs: number;
  /** Aborted when the caller leaves. */
  signal: AbortSignal;
  requestId: string;
};

/** A checked chat and the time it may take; `image` is the picture in it. */
export type EngineChat = {
  request: ChatRequest;
  image: { bytes: Uint8Array; format: ImageFormat } | null;
  remainingMs: number;
  signal: AbortSignal;
  onText: (text: string) => void;
};

/** An answer with its HTTP status. */
export type Outcome<Body> = { status: number; body: Body | SidecarFailure };

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
  lmStudio: LmStudio;
  logger: Logger;
  metrics: Metrics;
  /** Monotonic milliseconds. */
  now: () => number;
};

/** Bytes to evidence to caption, one call at a time per picture, bounded by `max_queue` pictures inside. */
export type Engine = {
  caption(call: EngineCall, options: CaptionOptions): Promise<Outcome<SidecarCaption>>;
  embed(call: EngineCall): Promise<Outcome<SidecarEmbedding>>;
  /** Passes a chat on to LM Studio; a picture in it is decoded and sent as a fresh JPEG. Throws errors of ours. */
  chat(call: EngineChat): Promise<Completion & { model: string }>;
  readiness(): Promise<SidecarReadiness>;
  /** Calls being worked on now. */
  inside(): number;
  encoderReady(): boolean;
  info(): Promise<SidecarInfo>;
  /** Refuses new work from now on. */
  drain(): void;
  /** Ends encoders and calls under way. */
  close(): Promise<void>;
};

/** What is known of a picture so far; a failure carries it to the edge. */
type Sight = { image: ImageInfo | null; evidence: Evidence | null; tags: Tag[]; timings: StageTimings };

/** Longest time libvips may work on one picture, in ms. */
const decodeLimitMs = 5000;

/** A call with less time than this is not begun, in ms: nothing could come of it. */
const leastUsefulMs = 50;

/** Builds the engine; it owns the parts it was given and closes them. */
export function createEngine(parts: EngineParts): Engine {
  const { config, embedded, checkpoint, lmStudio, logger, now } = parts;
  const vectors = checkpoint ?? embedded;
  let inside = 0;
  let draining = false;

  const admit = (): void => {
    if (draining) throw overload("The sidecar is stopping.", 5);
    if (inside >= config.max_queue) throw overload(`${config.max_queue} pictures are already being worked on.`, 1);
  };

  const decode = async (call: EngineCall, deadline: Deadline, sight: Sight, jpeg: boolean): Promise<DecodedImage> => {
    deadline.enter("decode");
    const startedAt = now();
    const decoded = await parts.decode(call.bytes, {
      format: call.format,
      recipes: checkpoint === null ? [embedded.recipe] : [embedded.recipe, checkpoint.recipe],
      jpeg,
      signal: deadline.signal,
      timeoutMs: Math.min(decodeLimitMs, deadline.remainingMs()),
    });
    sight.timings.decode = elapsed(startedAt, now());
    sight.image = { format: call.format, width: decoded.width, height: decoded.height, sha256: call.sha256 };
    return decoded;
  };

  const encode = async (decoded: DecodedImage, deadline: Deadline, sight: Sight): Promise<Float32Array> => {
    deadline.enter("encode");
    const startedAt = now();
    const run = (encoder: Encoder, tensor: Uint8Array | undefined) => {
      if (tensor === undefined) throw new Error("the decoder gave fewer tensors than recipes");
      return encoder.encode(tensor, deadline.signal);
    };
    const seen = await run(embedded, decoded.tensors[0]);
    if (seen.outputs === null) throw new Error("the embedded encoder gave no evidence");
    sight.evidence = readEvidence(seen.outputs, { width: decoded.width, height: decoded.height });
    sight.tags = describe(sight.evidence).tags;
    const vector = checkpoint === null ? seen : await run(checkpoint, decoded.tensors[1]);
    sight.timings.encode = elapsed(startedAt, now());
    return vector.embedding;
  };

  const freshJpeg = async (image: { bytes: Uint8Array; format: ImageFormat }, deadline: Deadline): Promise<string> => {
    const { signal } = deadline;
    const timeoutMs = Math.min(decodeLimitMs, deadline.remainingMs());
    const { jpeg } = await parts.decode(image.bytes, {
      format: image.format,
      recipes: [],
      jpeg: true,
      signal,
      timeoutMs,
    });
    return jpegDataUri(jpeg ?? missingJpeg());
  };

  /** Runs one piece of work inside the bounds every call has; a failure keeps what was seen of the picture. */
  const perform = async <Body>(
    call: EngineCall,
    work: (deadline: Deadline, sight: Sight) => Promise<Body>,
  ): Promise<Outcome<Body>> => {
    const sight: Sight = { image: null, evidence: null, tags: [], timings: { decode: 0, encode: 0, generate: 0 } };
    const limitMs = Math.min(call.remainingMs, config.timeout_seconds * 1000);
    let entered = false;
    let deadline: Deadline | null = null;
    try {
      if (limitMs <= leastUsefulMs) throw new PixelLLMError("ERR_TIMEOUT_REQUEST", { details: { stage: "queue" } });
      admit();
      inside += 1;
      entered = true;
      deadline = openDeadline(limitMs, call.signal, now);
      return { status: 200, body: await work(deadline, sight) };
    } catch (thrown) {
      const error = toPixelLLMError(thrown);
      if (!call.signal.aborted) report(logger, error, call.requestId);
      return {
        status: error.status,
        body: {
          error: errorBody(error, call.requestId),
          image: sight.image,
          evidence: sight.evidence,
          timings_ms: sight.timings,
        },
      };
    } finally {
      deadline?.close();
      if (entered) inside -= 1;
      for (const stage of metricStages) {
        if (sight.timings[stage] > 0) parts.metrics.stage(stage, sight.timings[stage] / 1000);
      }
    }
  };

  return {
    inside: () => inside,
    encoderReady: () => readEncoders(embedded, checkpoint).status === "ok",
    async chat({ request, image, remainingMs, signal, onText }) {
      admit();
      inside += 1;
      const deadline = openDeadline(Math.min(remainingMs, config.timeout_seconds * 1000), signal, now);
      try {
        const jpeg = image === null ? null : await freshJpeg(image, deadline);
        deadline.enter("generate");
        const options = { ...request, max_tokens: request.max_tokens ?? request.max_completion_tokens };
        return await lmStudio.chat({
          messages: rewriteMessages(request, jpeg),
          hasImage: jpeg !== null,
          model: request.model ?? null,
          settings: settleGeneration(options, config),
          signal: deadline.signal,
          onText,
        });
      } finally {
        deadline.close();
        inside -= 1;
      }
    },
    caption: (call, options) =>
      perform(call, async (deadline, sight) => {
        const seen = await decode(call, deadline, sight, lmStudio.expectsImage(options.model ?? null));
        try {
          await encode(seen, deadline, sight);
        } catch (error) {
          // A model that sees needs no evidence: the caption goes on without tags.
          if (deadline.signal.aborted) throw error;
          report(logger, toPixelLLMError(error), call.requestId);
        }
        deadline.enter("generate");
        const startedAt = now();
        try {
          const words = await lmStudio.caption({
            jpeg: async () => seen.jpeg ?? (await decode(call, deadline, sight, true)).jpeg ?? missingJpeg(),
            evidence: sight.evidence,
            prompt: options.prompt ?? null,
            model: options.model ?? null,
            settings: settleGeneration(options, config),
            temperatureGiven: options.temperature !== undefined,
            signal: deadline.signal,
          });
          if (sight.image === null) throw new Error("a decoded picture has no size");
          sight.timings.generate = elapsed(startedAt, now());
          return {
            caption: words.caption,
            route: words.route,
            model: words.model,
            finish: words.finish,
            image: sight.image,
            tags: sight.tags,
            evidence: sight.evidence,
            usage: words.usage,
            timings_ms: sight.timings,
          };
        } finally {
          sight.timings.generate = elapsed(startedAt, now());
        }
      }),

    embed: (call) =>
      perform(call, async (deadline, sight) => {
        const embedding = await encode(await decode(call, deadline, sight, false), deadline, sight);
        if (sight.image === null) throw new Error("a decoded picture has no size");
        const { name, fingerprint } = vectors.info();
        return {
          model: `${name}@${fingerprint}`,
          dimensions: embedding.length,
          embedding: [...embedding],
          image: sight.image,
          tags: sight.tags,
          evidence: sight.evidence,
          timings_ms: sight.timings,
        };
      }),

    async readiness() {
      const encoder = readEncoders(embedded, checkpoint);
      const { status, detail, code } = await lmStudio.status();
      return {
        ready: !draining && encoder.status === "ok",
        dependencies: { encoder, lm_studio: { status, detail, code } },
      };
    },

    async info() {
      return {
        version: parts.version,
        profile: parts.profile,
        encoder: { ...vectors.info(), state: vectors.state() },
        lm_studio: await lmStudio.status(),
      };
    },

    drain() {
      draining = true;
    },

    async close() {
      draining = true;
      await Promise.all([embedded.close(), checkpoint?.close(), lmStudio.close()]);
    },
  };
}

function readEncoders(embedded: Encoder, checkpoint: Encoder | null): SidecarReadiness["dependencies"]["encoder"] {
  for (const encoder of checkpoint === null ? [embedded] : [embedded, checkpoint]) {
    const state = encoder.state();
    if (state !== "ready") {
      return { status: "down", detail: `encoder ${encoder.info().name} is ${state}`, code: "ERR_ENC_LOAD_FAILED" };
    }
  }
  const { name, active } = (checkpoint ?? embedded).info();
  return { status: "ok", detail: `encoder ${name} runs on ${active}`, code: null };
}

function overload(hint: string, retryAfterSeconds: number): PixelLLMError {
  return new PixelLLMError("ERR_API_OVERLOAD", { hint, retryAfterSeconds, details: { kind: "queue" } });
}

// The caller's own mistakes are told to the caller; the log of the box is for what its owner can mend.
function report(logger: Logger, error: PixelLLMError, requestId: string): void {
  const fields = { exception: error, extra: { request_id: requestId, details: error.details } };
  if (error.code === "ERR_INTERNAL") logger.error("request failed", fields);
  else if (error.severity === "LOW") logger.debug("request refused", fields);
  else logger.warning("request failed", fields);
}

function missingJpeg(): never {
  throw new Error("the decoder gave no JPEG although one was asked for");
}

function elapsed(from: number, to: number): number {
  return Math.max(0, Math.round((to - from) * 10) / 10);
}
