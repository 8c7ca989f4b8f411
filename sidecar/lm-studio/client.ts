import {
  cleanCaption,
  readTagsAnswer,
  tagsMessages,
  tagsResponseFormat,
  visionMessages,
} from "../../shared/caption-prompt.ts";
import type { Config } from "../../shared/config.ts";
import { isPixelLLMError, PixelLLMError, toPixelLLMError } from "../../shared/errors.ts";
import type { Evidence } from "../../shared/evidence.ts";
import { lmStudioError } from "../../shared/lm-studio-kinds.ts";
import type { Logger } from "../../shared/log.ts";
import type { Dependency, GenerationSettings, Route, Usage } from "../../shared/wire.ts";
import { complete, type Completion } from "./completion.ts";
import { createDiscovery } from "./discovery.ts";
import type { Listing, LoadedModel } from "./listing.ts";
import { createPermits } from "./permits.ts";
import type { Address } from "./transport.ts";

/** One caption to ask for. */
export type CaptionCall = {
  /** Gives the JPEG when a model that sees is loaded. */
  jpeg: () => Promise<Uint8Array>;
  /** Null = the encoder failed: route `tags` cannot be taken. */
  evidence: Evidence | null;
  prompt: string | null;
  /** A loaded model's id, or null for the configured one. */
  model: string | null;
  settings: GenerationSettings;
  /** The caller chose the temperature: it then holds on route `tags` too. */
  temperatureGiven: boolean;
  signal: AbortSignal;
};

/** A chat to pass on, its messages in LM Studio's words. */
export type ChatCall = Pick<CaptionCall, "model" | "settings" | "signal"> & {
  messages: readonly unknown[];
  hasImage: boolean;
  /** Called with each piece of the answer as it comes. */
  onText: (text: string) => void;
};

/** LM Studio's caption. */
export type CaptionWords = {
  caption: string;
  route: Route;
  model: string;
  finish: "stop" | "length";
  usage: Usage;
};

/** What is known of LM Studio. */
export type LmStudioStatus = Dependency & { model: string | null; vision: boolean; parallel: number | null };

/** The client of LM Studio: one attempt per call; all its failures are kinds of `lm-studio-kinds.ts`. */
export type LmStudio = {
  caption(call: CaptionCall): Promise<CaptionWords>;
  /** Passes a chat on; its faults are the caller's, and a picture for a model that does not see is refused. */
  chat(call: ChatCall): Promise<Completion & { model: string }>;
  /** Whether a JPEG is likely to be wanted, from what is known without a wait. */
  expectsImage(model: string | null): boolean;
  /** Never throws; asks LM Studio at most every ten seconds. */
  status(): Promise<LmStudioStatus>;
  /** Ends loads and listings; captions end by their own signals. */
  close(): Promise<void>;
};

/** On route `tags` a text model invents less when it is cool; the caller's own temperature wins. */
const tagsTemperature = 0.3;

/** Builds the client; nothing is sent before it is asked for something. */
export function createLmStudio(parts: {
  config: Config;
  logger: Logger;
  now?: () => number;
  wallNow?: () => number;
}): LmStudio {
  const { config, logger, now = () => performance.now(), wallNow = Date.now } = parts;
  const address: Address = {
    host: config.lm_studio_host,
    port: config.lm_studio_port,
    token: config.lm_studio_api_token,
    connectMs: config.timeout_connect_seconds * 1000,
  };
  const discovery = createDiscovery({
    address,
    logger,
    now,
    listMs: Math.min(5000, config.timeout_first_token_seconds * 1000),
  });
  const permits = createPermits(config.max_queue);

  /** The model a listing offers for a wish; null = none is loaded for it. */
  const find = (listing: Listing, wish: string): LoadedModel | null => {
    if (wish === "auto") return discovery.preferred(listing);
    return listing.loaded.find(({ id }) => id === wish) ?? listing.loaded.find(({ key }) => key === wish) ?? null;
  };

  const choose = async (wish: string | null, signal: AbortSignal): Promise<LoadedModel> => {
    const listing = await discovery.listing(signal);
    const model = find(listing, wish ?? config.lm_studio_model);
    if (model !== null) return model;
    if (wish !== null && wish !== "auto") {
      throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: "model", hint: "`auto`, or a model that is loaded." });
    }
    const idle = wish === null ? listing.idle.find((key) => key === config.lm_studio_model) : undefined;
    const waitMs = idle === undefined ? null : discovery.load(idle, listing.api);
    throw lmStudioError("not_loaded", { retryAfterMs: waitMs, hint: "LM Studio has no model loaded for this." });
  };

  const ask = async (
    call: Pick<CaptionCall, "settings" | "signal"> & { callers: boolean; onText?: (text: string) => void },
    model: LoadedModel,
    body: Record<string, unknown>,
    hasImage: boolean,
  ): Promise<Completion> => {
    const release = await permits.take(model.parallel ?? 1, call.signal);
    try {
      return await complete({
        address,
        body: {
          model: model.id,
          stream: true,
          stream_options: { include_usage: true },
          max_tokens: call.settings.maxTokens,
          temperature: call.settings.temperature,
          top_p: call.settings.topP,
          ...(call.settings.seed === null ? {} : { seed: call.settings.seed }),
          ...body,
        },
        hasImage,
        callers: call.callers,
        ...(call.onText === undefined ? {} : { onText: call.onText }),
        firstTokenMs: config.timeout_first_token_seconds * 1000,
        idleMs: config.timeout_idle_seconds * 1000,
        signal: call.signal,
        wallNow,
      });
    } finally {
      release();
    }
  };

  const see = async (call: CaptionCall, model: LoadedModel): Promise<CaptionWords> => {
    const jpeg = await call.jpeg();
    const messages = visionMessages(call.prompt, jpegDataUri(jpeg));
    const completion = await ask({ ...call, callers: call.prompt !== null }, model, { messages }, true);
    const caption = cleanCaption(completion.text);
    if (caption === "") throw lmStudioError("empty");
    return finish(completion, model, "vision", caption);
  };

  const read = async (call: CaptionCall, model: LoadedModel): Promise<CaptionWords> => {
    if (call.evidence === null) {
      throw new PixelLLMError("ERR_ENC_FORWARD_FAILED", { detail: "a text model is loaded and there is no evidence" });
    }
    const { temperature } = call.settings;
    const completion = await ask(
      { ...call, callers: call.prompt !== null },
      model,
      {
        messages: tagsMessages(call.prompt, call.evidence),
        response_format: tagsResponseFormat,
        temperature: call.temperatureGiven ? temperature : Math.min(temperature, tagsTemperature),
      },
      false,
    );
    const verdict = readTagsAnswer(completion.text, call.evidence);
    if (!verdict.ok) throw lmStudioError("untrue", { detail: verdict.reason });
    return finish(completion, model, "tags", verdict.caption);
  };

  const finish = (completion: Completion, model: LoadedModel, route: Route, caption: string): CaptionWords => {
    // LM Studio may run another loaded model than the one it was asked for.
    if (completion.model !== null && completion.model !== model.id && completion.model !== model.key) {
      logger.warning("another model answered", { extra: { asked: model.id, answered: completion.model } });
    }
    return { caption, route, model: completion.model ?? model.id, finish: completion.finish, usage: completion.usage };
  };

  const attempt = async (call: CaptionCall): Promise<CaptionWords> => {
    const model = await choose(call.model, call.signal);
    if (!discovery.sees(model)) return read(call, model);
    try {
      return await see(call, model);
    } catch (error) {
      if (kindOf(error) !== "no_vision") throw error;
      logger.warning("model refuses pictures although it claims to see", { extra: { model: model.id } });
      discovery.doubt(model);
      return read(call, model);
    }
  };

  const pass = async (call: ChatCall): Promise<Completion & { model: string }> => {
    const model = await choose(call.model, call.signal);
    if (call.hasImage && !discovery.sees(model)) throw lmStudioError("no_vision", { callers: true });
    const completion = await ask({ ...call, callers: true }, model, { messages: call.messages }, call.hasImage);
    return { ...completion, model: completion.model ?? model.id };
  };

  /** What was listed may no longer be so: after such a failure the next call asks anew what there is. */
  const learning = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await work;
    } catch (error) {
      const kind = kindOf(error);
      if (kind === "not_loaded" || kind === "crashed" || kind === "refused") discovery.forget();
      throw error;
    }
  };

  return {
    caption: (call) => learning(attempt(call)),
    chat: (call) => learning(pass(call)),
    expectsImage(wish) {
      const listing = discovery.last();
      if (listing === undefined) return true;
      const model = listing === null ? null : find(listing, wish ?? config.lm_studio_model);
      return model !== null && discovery.sees(model);
    },
    async status() {
      const nothing = { model: null, vision: false, parallel: null };
      try {
        const listing = await discovery.listing(new AbortController().signal);
        const model = find(listing, config.lm_studio_model);
        if (model === null) {
          const loadable = listing.idle.includes(config.lm_studio_model);
          const detail = loadable ? "The configured model is not loaded yet." : "LM Studio has no model loaded.";
          return { status: loadable ? "degraded" : "down", detail, code: "ERR_API_OVERLOAD", ...nothing };
        }
        const vision = discovery.sees(model);
        const detail = vision ? "A model that sees is loaded." : "A text model is loaded: captions come from evidence.";
        return { status: "ok", detail, code: null, model: model.id, vision, parallel: model.parallel };
      } catch (thrown) {
        const error = toPixelLLMError(thrown);
        const silent = error.category === "connection" || error.category === "timeout";
        return {
          status: "down",
          detail: silent ? "LM Studio does not answer." : error.message,
          code: error.code,
          ...nothing,
        };
      }
    },
    async close() {
      discovery.close();
    },
  };
}

/** The one form of picture LM Studio takes on this route. */
export function jpegDataUri(jpeg: Uint8Array): string {
  return `data:image/jpeg;base64,${Buffer.from(jpeg.buffer, jpeg.byteOffset, jpeg.length).toString("base64")}`;
}

function kindOf(error: unknown): unknown {
  return isPixelLLMError(error) ? error.details["kind"] : undefined;
}
