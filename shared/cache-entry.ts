import * as z from "zod";
import { cacheVersion, canonicalText } from "./cache-key.ts";
import { tagSchema } from "./evidence.ts";
import { imageInfoSchema, routeSchema, usageSchema, type Caption, type SidecarCaption } from "./wire.ts";

const digest = z.string().regex(/^[0-9a-f]{64}$/);
/** Unix ms. */
const moment = z.number();

/** A stored caption, without what changes when it is read. Times are Unix ms. */
export const cacheEntrySchema = z.object({
  v: z.literal(cacheVersion),
  key: digest,
  /** Hash of the wishes it answers (`wishesText`). */
  asked: digest,
  caption: z.string().min(1),
  tags: z.array(tagSchema),
  image: imageInfoSchema,
  model: z.string(),
  route: routeSchema,
  /** `name@fingerprint` of the encoder whose vector is kept beside it; null = none is. */
  encoder: z.string().nullable(),
  usage: usageSchema,
  created: moment,
  fresh_until: moment,
  stale_until: moment,
  /** Over tenant and everything above: what a store holds is believed only under it. */
  mac: digest,
});
export type CacheEntry = z.output<typeof cacheEntrySchema>;

/** A stored text as the entry it spells; null = not one of ours, or of another version. */
export function readEntry(text: string): CacheEntry | null {
  try {
    const result = cacheEntrySchema.safeParse(JSON.parse(text));
    return result.success ? result.data : null;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return null;
  }
}

/** The text that an entry's `mac` is made over. */
export function macText(tenant: string, entry: Omit<CacheEntry, "mac">): string {
  const { v, key, asked, caption, tags, image, model, route, encoder, usage } = entry;
  const times = [entry.created, entry.fresh_until, entry.stale_until];
  return canonicalText(["entry", tenant, v, key, asked, caption, tags, image, model, route, encoder, usage, times]);
}

/** How long captions are kept, in ms from when they were made. */
export type CacheTimes = { freshMs: number; staleMs: number };

/** The moments an entry made now ends at. Being fresh includes being there: a shorter `staleMs` cuts nothing off. */
export function entryTimes(
  now: number,
  times: CacheTimes,
): Pick<CacheEntry, "created" | "fresh_until" | "stale_until"> {
  return { created: now, fresh_until: now + times.freshMs, stale_until: now + Math.max(times.freshMs, times.staleMs) };
}

/** What an entry is worth now; seconds are whole, `ttlSeconds` is negative once stale. */
export type Judgement = { state: "fresh" | "stale"; ageSeconds: number; ttlSeconds: number } | { state: "gone" };

/**
 * Fresh while younger than its time, then stale, then gone for good. Times written by an older configuration are
 * cut to today's. Age is never negative: a clock that stepped back makes an entry new, not immortal.
 * `model` is the one the sidecar last reported, null = not known: an answer of another model is not fresh.
 */
export function judgeEntry(
  entry: Pick<CacheEntry, "created" | "fresh_until" | "stale_until" | "model">,
  now: number,
  times: CacheTimes,
  model: string | null,
): Judgement {
  const ageMs = Math.max(0, now - entry.created);
  const freshMs = Math.min(entry.fresh_until - entry.created, times.freshMs);
  const staleMs = Math.min(entry.stale_until - entry.created, Math.max(times.freshMs, times.staleMs));
  if (ageMs >= staleMs) return { state: "gone" };
  const ageSeconds = Math.floor(ageMs / 1000);
  const ttlSeconds = Math.floor((freshMs - ageMs) / 1000);
  if (ageMs < freshMs && (model === null || model === entry.model)) return { state: "fresh", ageSeconds, ttlSeconds };
  return { state: "stale", ageSeconds, ttlSeconds: Math.min(-1, ttlSeconds) };
}

/** An answer somebody would like to keep. */
export type Keepable = Pick<SidecarCaption, "caption" | "finish" | "collapsed"> & { source: Caption["source"] };

/**
 * Whether an answer may be stored: a live one, whole (the model ended it itself), not empty, made for this request
 * (a shared answer is stored by the one who made it), and not forbidden by its request.
 */
export function mayStore(answer: Keepable, noStore: boolean): boolean {
  return (
    answer.source === "lm_studio" &&
    answer.finish === "stop" &&
    answer.caption.trim() !== "" &&
    !answer.collapsed &&
    !noStore
  );
}

/** When an entry was last read, as far as its store knows. */
export type LastUse = { key: string; used: number };

/** The keys of the `count` least recently used; `recent` knows of reads that are not written down yet. */
export function pickVictims(stored: readonly LastUse[], recent: ReadonlyMap<string, number>, count: number): string[] {
  const lastUse = ({ key, used }: LastUse): number => Math.max(used, recent.get(key) ?? 0);
  return [...stored]
    .sort((left, right) => lastUse(left) - lastUse(right))
    .slice(0, Math.max(0, count))
    .map(({ key }) => key);
}
