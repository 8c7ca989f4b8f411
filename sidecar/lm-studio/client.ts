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
import { createAdmission, type Admission } from "../admission.ts";
import type { Stage } from "../work-time.ts";
import { complete, type Completion } from "./completion.ts";
import { createDiscovery } from "./discovery.ts";
import type { Listing, LoadedModel } from "./listing.ts";
import { createPermits, type StartTimer } from "./permits.ts";
import { askForToken } from "./probe.ts";
import type { Address } from "./transport.ts";

/** Who asks, for the line before LM Studio. */
export type Asker = {
  tenant: string;
  /** Who of those inside it is. */
  visit: number;
  endsAt(): number;
  onExtend(listener: (endsAt: number) => void): () => void;
  /** Told of each stage as it begins. */
  enter(stage: Stage): void;
};

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
  /** Absent = somebody the door does not know, who waits for ever. */
  asker?: Asker;
};

/** A chat to pass on, its messages in LM Studio's words. */
export type ChatCall = Pick<CaptionCall, "model" | "settings" | "signal" | "asker"> & {
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

/** The end of one who waits for ever, as a number that JSON can hold. */
const neverEnds = Number.MAX_SAFE_INTEGER;

/** Who asks without having come through the door. */
const stranger: Asker = {
  tenant: "",
  visit: 0,
  endsAt: () => neverEnds,
  onExtend: () => () => undefined,
  enter: () => undefined,
};

/** Builds the client; nothing is sent before it is asked for something. */
export function createLmStudio(parts: {
  config: Config;
  logger: Logger;
  /** The line before LM Studio; one of its own unless it is shared with a door. */
  admission?: Admission;
  now?: () => number;
  wallNow?: () => number;
  startTimer?: StartTimer;
}): LmStudio {
  const { config, logger, now = () => performance.now(), wallNow = Date.now } = parts;
  const firstTokenMs = config.timeout_first_token_seconds * 1000;
  const admission =
    parts.admission ??
    createAdmission({ maxInside: config.max_queue, now, memory: () => ({ used: 0, limit: Infinity }) });
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
    listMs: Math.min(5000, firstTokenMs),
  });
  const closing = new AbortController();
  const permits = createPermits({
    admission,
    firstTokenMs,
    now,
    startTimer: parts.startTimer ?? startTimer,
    probe: async () => {
      const answers = await probe();
      logger.warning(answers ? "LM Studio answers again" : "LM Studio is still stuck");
      return answers;
    },
  });

  /** One token of a model that is loaded now; nothing is sent that would load another. */
  const probe = async (): Promise<boolean> => {
    try {
      discovery.forget();
      const listing = await discovery.listing(closing.signal);
      const model = find(listing, config.lm_studio_model) ?? discovery.preferred(listing);
      if (model === null) return false;
      await askForToken(address, model.id, AbortSignal.any([closing.signal, AbortSignal.timeout(firstTokenMs)]));
      return true;
    } catch (error) {
      logger.debug("LM Studio gave no token", { exception: error });
      return false;
    }
  };

  /** The model a listing offers for a wish; null = none is loaded for it. */
  const find = (listing: Listing, wish: string): LoadedModel | null => {
    if (wish === "auto") return discovery.preferred(listing);
    return listing.loaded.find(({ id }) => id === wish) ?? listing.loaded.find(({ key }) => key === wish) ?? null;
  };

  const choose = async (wish: string | null, asker: Asker, signal: AbortSignal): Promise<LoadedModel> => {
    asker.enter("connect");
    const listing = await discovery.listing(signal);
    asker.enter("queue");
    admission.knowInstances(listing.loaded.map(({ id }) => id));
    const model = find(listing, wish ?? config.lm_studio_model);
    if (model !== null) return model;
    if (wish !== null && wish !== "auto") {
      throw new PixelLLMError("ERR_VAL_INVALID_RANGE", { param: "model", hint: "`auto`, or a model that is loaded." });
    }
    const hint = "LM Studio has no model loaded for this.";
    const idle = wish === null ? listing.idle.find((key) => key === config.lm_studio_model) : undefined;
    if (idle === undefined) throw lmStudioError("not_loaded", { hint });
    const { waitMs, underWay } = discovery.load(idle, listing.api);
    throw lmStudioError("not_loaded", { retryAfterMs: waitMs, hint, loading: underWay });
  };

  const ask = async (
    call: Pick<CaptionCall, "settings" | "signal" | "asker"> & { callers: boolean; onText?: (text: string) => void },
    model: LoadedModel,
    body: Record<string, unknown>,
    hasImage: boolean,
  ): Promise<Completion> => {
    const { settings, signal, asker = stranger } = call;
    const { tenant, visit } = asker;
    const { id: instance, parallel } = model;
    asker.enter("queue");
    const permit = await permits.take(
      {
        tenant,
        visit,
        instance,
        parallel,
        endsAt: asker.endsAt(),
        onExtend: (listener) => asker.onExtend(listener),
      },
      signal,
    );
    const running = complete({
      address,
      body: {
        model: model.id,
        stream: true,
        stream_options: { include_usage: true },
        max_tokens: settings.maxTokens,
        temperature: settings.temperature,
        top_p: settings.topP,
        ...(settings.seed === null ? {} : { seed: settings.seed }),
        ...body,
      },
      hasImage,
      callers: call.callers,
      ...(call.onText === undefined ? {} : { onText: call.onText }),
      onStage: (stage) => asker.enter(stage),
      firstTokenMs,
      idleMs: config.timeout_idle_seconds * 1000,
      signal,
      wallNow,
    });
    try {
      const completion = await running.answer;
      permit.free();
      return completion;
    } catch (error) {
      // Before the permit is free: the next in line must find the lower bound.
      if (kindOf(error) === "crashed") admission.distrust(instance);
      permit.follow(running);
      throw error;
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
    const model = await choose(call.model, call.asker ?? stranger, call.signal);
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
    const model = await choose(call.model, call.asker ?? stranger, call.signal);
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
      if (permits.isStuck()) {
        const detail = "LM Studio is stuck: a call it was given never ended. Start it again if it does not recover.";
        return { status: "down", detail, code: "ERR_TIMEOUT_RESPONSE", ...nothing };
      }
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
      closing.abort(new Error("closing"));
      permits.close();
      discovery.close();
    },
  };
}

/** The one form of picture LM Studio takes on this route. */
export function jpegDataUri(jpeg: Uint8Array): string {
  return `data:image/jpeg;base64,${Buffer.from(jpeg.buffer, jpeg.byteOffset, jpeg.length).toString("base64")}`;
}

const startTimer: StartTimer = (ms, elapsed) => {
  // What is only waited for must not keep a process alive that has nothing else to do.
  const timer = setTimeout(elapsed, ms).unref();
  return () => clearTimeout(timer);
};

function kindOf(error: unknown): unknown {
  return isPixelLLMError(error) ? error.details["kind"] : undefined;
}
