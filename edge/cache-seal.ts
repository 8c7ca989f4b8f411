import { cacheKeyText, wishesText, type CacheQuestion } from "../shared/cache-key.ts";
import { macText, type CacheEntry } from "../shared/cache-entry.ts";
import { hex } from "../shared/ids.ts";
import { sameHash } from "./crypto.ts";

/** The hashes of the cache, all HMAC-SHA256 in lower-case hex: who lacks the secret can neither guess nor forge one. */
export type CacheSeal = {
  key(question: CacheQuestion): Promise<string>;
  /** Of the wishes alone, the picture left out. */
  asked(question: CacheQuestion): Promise<string>;
  /** The entry with its `mac`. */
  sign(tenant: string, entry: Omit<CacheEntry, "mac">): Promise<CacheEntry>;
  isGenuine(tenant: string, entry: CacheEntry): Promise<boolean>;
};

const encoder = new TextEncoder();
type HmacKey = Awaited<ReturnType<typeof crypto.subtle.importKey>>;
const algorithm = { name: "HMAC", hash: "SHA-256" };

/** Keys of its own are derived from `secret` (not empty), so that neither gives away anything of what else it signs. */
export function createCacheSeal(secret: string): CacheSeal {
  // Plain values, filled on first use: a promise kept here would belong to the request that made it.
  const keys: { name?: HmacKey; mac?: HmacKey } = {};
  const name = async (text: string): Promise<string> =>
    hmac((keys.name ??= await derive(secret, "pixel-llm cache key v1")), text);
  const mac = async (tenant: string, entry: Omit<CacheEntry, "mac">): Promise<string> =>
    hmac((keys.mac ??= await derive(secret, "pixel-llm cache mac v1")), macText(tenant, entry));

  return {
    key: (question) => name(cacheKeyText(question)),
    asked: (question) => name(wishesText(question)),
    sign: async (tenant, entry) => ({ ...entry, mac: await mac(tenant, entry) }),
    isGenuine: async (tenant, entry) => sameHash(entry.mac, await mac(tenant, entry)),
  };
}

async function derive(secret: string, purpose: string): Promise<HmacKey> {
  const root = await crypto.subtle.importKey("raw", encoder.encode(secret), algorithm, false, ["sign"]);
  const derived = await crypto.subtle.sign("HMAC", root, encoder.encode(purpose));
  return crypto.subtle.importKey("raw", derived, algorithm, false, ["sign"]);
}

async function hmac(key: HmacKey, text: string): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.sign("HMAC", key, encoder.encode(text))));
}
