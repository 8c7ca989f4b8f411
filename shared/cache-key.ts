/** Version of the stored form of a caption; another one makes every older entry unreadable, and so a miss. */
export const cacheVersion = 1;

/**
 * Version of the messages in `caption-prompt.ts`. A change of their words asks the model something else,
 * so it must change this too, or answers to the old words would be served for the new ones.
 */
export const captionTemplateVersion = "2026-11-1";

/**
 * What was asked for besides the picture, as it was requested, settled with the configuration.
 * Null where nothing was said; a value is never "unset" because it is zero or empty.
 */
export type CacheWishes = {
  model: string | null;
  prompt: string | null;
  max_tokens: number;
  temperature: number;
  top_p: number;
  seed: number | null;
};

/** One question to the cache. */
export type CacheQuestion = {
  /** Who asks, from the verified key. */
  tenant: string;
  /** Lower-case hex of the picture's bytes. */
  sha256: string;
  wishes: CacheWishes;
};

/** A value that canonical text can be made of. */
export type Canonical =
  | string
  | number
  | boolean
  | null
  | undefined
  | readonly Canonical[]
  | { readonly [key: string]: Canonical };

/**
 * One text per value: keys sorted by code unit, absent keys left out, no white space. Two values that differ never
 * share a text, so `0`, `""`, null and absent stay apart. What JSON cannot say (NaN, infinities, undefined in a
 * list) is written as its bare name, where `JSON.stringify` would make all of them null.
 */
export function canonicalText(value: Canonical): string {
  if (typeof value === "string" || typeof value === "boolean" || value === null) return JSON.stringify(value);
  if (typeof value === "number") return Number.isFinite(value) ? JSON.stringify(value) : String(value);
  if (value === undefined) return "undefined";
  if (isList(value)) return `[${value.map(canonicalText).join(",")}]`;
  const parts = Object.keys(value)
    .sort()
    .flatMap((key) => (value[key] === undefined ? [] : [`${JSON.stringify(key)}:${canonicalText(value[key])}`]));
  return `{${parts.join(",")}}`;
}

/** What a cached answer belongs to: whose, of which picture, to which wishes; its HMAC is the entry's key. */
export function cacheKeyText({ tenant, sha256, wishes }: CacheQuestion): string {
  return canonicalText(["caption", cacheVersion, captionTemplateVersion, tenant, sha256, wishes]);
}

/** The part of a question that two different pictures must share before one may answer for the other. */
export function wishesText({ tenant, wishes }: CacheQuestion): string {
  return canonicalText(["wishes", cacheVersion, captionTemplateVersion, tenant, wishes]);
}

/** Where an entry lives: shards in use, and how many entries each may hold, so that the sum never exceeds `maxSize`. */
export type ShardPlan = { shards: number; bound: number };

/** Shards there can be: one per hex digit. */
export const maxShards = 16;

/** A small `maxSize` uses as many shards as it has entries, so that each can hold one; 0 = nothing is kept. */
export function planShards(maxSize: number): ShardPlan {
  const shards = Math.max(1, Math.min(maxShards, Math.floor(maxSize)));
  return { shards, bound: Math.max(0, Math.floor(maxSize / shards)) };
}

/** The shard of a picture, by the first hex digit of its hash. */
export function shardOf(sha256: string, { shards }: ShardPlan): number {
  const digit = Number.parseInt(sha256.slice(0, 1), 16);
  return Number.isNaN(digit) ? 0 : digit % shards;
}

function isList(value: readonly Canonical[] | { readonly [key: string]: Canonical }): value is readonly Canonical[] {
  return Array.isArray(value);
}
