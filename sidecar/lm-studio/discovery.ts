import { isPixelLLMError } from "../../shared/errors.ts";
import { lmStudioError, readComplaint, classifyComplaint } from "../../shared/lm-studio-kinds.ts";
import type { Logger } from "../../shared/log.ts";
import { listings, type Listing, type LoadedModel } from "./listing.ts";
import { smallestCall } from "./probe.ts";
import { parseJson, readText, send, type Address } from "./transport.ts";

/** Knows which models LM Studio has, without asking on every request. */
export type Discovery = {
  /** The listing, at most ten seconds old; one refresh at a time, shared by all who wait. */
  listing(signal: AbortSignal): Promise<Listing>;
  /** What the last refresh gave, without a wait: a listing, `null` = it failed, `undefined` = none yet. */
  last(): Listing | null | undefined;
  /** The next question is asked anew. */
  forget(): void;
  /** The model calls go to when none is named: kept until it is gone, one that sees first. */
  preferred(listing: Listing): LoadedModel | null;
  /** Whether a model sees, as far as it did not prove otherwise in the last ten minutes. */
  sees(model: LoadedModel): boolean;
  /** It claimed to see and refused a picture. */
  doubt(model: LoadedModel): void;
  /**
   * Begins to load a model unless a load is under way, and gives the ms until it is likely to answer; `underWay` = the
   * load had been begun before. It has a limit of its own and outlives every request.
   */
  load(key: string, api: Listing["api"]): { waitMs: number; underWay: boolean };
  /** Ends what is under way. */
  close(): void;
};

const freshMs = 10_000;
const doubtMs = 600_000;
const listBytes = 4 * 2 ** 20;
const loadLimitMs = 300_000;
const firstLoadGuessMs = 20_000;

/** `now` is monotonic ms; a listing that takes longer than `listMs` has failed. */
export function createDiscovery(parts: {
  address: Address;
  logger: Logger;
  now: () => number;
  listMs: number;
}): Discovery {
  const { address, logger, now } = parts;
  const closing = new AbortController();
  const doubts = new Map<string, number>();
  let snapshot: { at: number; listing: Listing } | null | undefined;
  let refreshing: Promise<Listing> | null = null;
  let chosen: string | null = null;
  let loading: { startedAt: number } | null = null;
  let loadMs = firstLoadGuessMs;

  const sees = (model: LoadedModel): boolean => model.vision && (doubts.get(model.id) ?? -Infinity) <= now();

  const refresh = async (): Promise<Listing> => {
    try {
      const listing = await readListing(address, AbortSignal.any([closing.signal, AbortSignal.timeout(parts.listMs)]));
      snapshot = { at: now(), listing };
      return listing;
    } catch (error) {
      snapshot = null;
      // Our own time limit, not LM Studio's words: a listing that takes this long means it is stuck.
      throw isPixelLLMError(error) ? error : lmStudioError("no_first_token", { cause: error });
    } finally {
      refreshing = null;
    }
  };

  return {
    last: () => (snapshot === null || snapshot === undefined ? snapshot : snapshot.listing),
    async listing(signal) {
      if (snapshot !== null && snapshot !== undefined && now() - snapshot.at < freshMs) return snapshot.listing;
      refreshing ??= refresh();
      return orAbort(refreshing, signal);
    },
    forget() {
      snapshot = undefined;
    },
    preferred({ loaded }) {
      const kept = loaded.find(({ id }) => id === chosen);
      const model = kept ?? loaded.find(sees) ?? loaded[0] ?? null;
      chosen = model?.id ?? null;
      return model;
    },
    sees,
    doubt(model) {
      doubts.set(model.id, now() + doubtMs);
      snapshot = undefined;
    },
    load(key, api) {
      const underWay = loading !== null;
      if (loading === null) {
        const startedAt = now();
        loading = { startedAt };
        logger.info("loading model", { extra: { model: key } });
        void requestLoad(address, key, api, AbortSignal.any([closing.signal, AbortSignal.timeout(loadLimitMs)]))
          .then(() => {
            loadMs = now() - startedAt;
            logger.info("model loaded", { extra: { model: key, ms: Math.round(loadMs) } });
          })
          .catch((error: unknown) => logger.warning("model did not load", { exception: error, extra: { model: key } }))
          .finally(() => {
            loading = null;
            snapshot = undefined;
          });
      }
      return { waitMs: Math.max(1000, loadMs - (now() - loading.startedAt)), underWay };
    },
    close: () => closing.abort(new Error("closing")),
  };
}

/** Asks the listings in turn; a refused token ends the search, or the cause would be hidden. */
async function readListing(address: Address, signal: AbortSignal): Promise<Listing> {
  let words = "";
  for (const { path, read } of listings) {
    const response = await send(address, { method: "GET", path, body: null, signal });
    const status = response.statusCode ?? 0;
    const text = await readText(response, listBytes, signal);
    if (status === 401 || status === 403) throw lmStudioError("token_refused", { detail: text });
    const listing = status === 200 ? read(parseJson(text)) : null;
    if (listing !== null) return listing;
    words = `${path}: ${status} ${text}`;
  }
  throw lmStudioError("malformed", { detail: words, hint: "What answers on lm_studio_port is not LM Studio." });
}

/** Version 0.4 loads by name; older ones load what a call names. */
async function requestLoad(address: Address, key: string, api: Listing["api"], signal: AbortSignal): Promise<void> {
  const [path, body] =
    api === "v1"
      ? ["/api/v1/models/load", JSON.stringify({ model: key })]
      : ["/v1/chat/completions", smallestCall(key)];
  const response = await send(address, { method: "POST", path, body, signal });
  const text = await readText(response, listBytes, signal);
  const complaint = readComplaint(parseJson(text));
  const status = response.statusCode ?? 0;
  if (status !== 200 || complaint !== null) {
    throw lmStudioError(classifyComplaint(complaint, status), { detail: complaint?.message ?? text });
  }
}

/** Waits for shared work without ending it when one of those who wait leaves. */
function orAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const leave = (): void => reject(signal.reason as Error);
    if (signal.aborted) leave();
    signal.addEventListener("abort", leave, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
  });
}
